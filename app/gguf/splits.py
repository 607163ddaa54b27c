"""Shards: one model in several files, `…-00001-of-00003.gguf` and so on, as llama.cpp's gguf-split writes them.

The first shard has the metadata; each says which it is, of how many, and how many tensors all of them have. llama.cpp
loads the first and trusts the others (src/llama-model-loader.cpp); here every shard has to belong to the first.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from app.errors import Malformed
from app.gguf.header import Header
from app.gguf.types import ValueType

SHARD_NAME: Final = re.compile(r"(?P<base>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})", re.DOTALL | re.ASCII)
"""A shard's name without `.gguf`; numbers begin at 1."""

NO: Final = "split.no"
COUNT: Final = "split.count"
TENSORS: Final = "split.tensors.count"
TYPES: Final = {NO: ValueType.UINT16, COUNT: ValueType.UINT16, TENSORS: ValueType.INT32}

SHARED: Final = (COUNT, TENSORS, "general.architecture")
"""What the later shards say as the first one does, if they say it."""


def check_splits(headers: Sequence[Header], names: Sequence[str]) -> None:
    """Raise Malformed unless these files, in order, are one whole model; it names file, byte and key.

    One file alone is whole unless it says that there are others.
    """
    first, first_name = headers[0], names[0]
    for header, name in zip(headers, names, strict=True):
        _check_types(header, name)
    if len(headers) == 1:
        _check_alone(first, first_name)
        return
    _check_value(first, first_name, COUNT, len(headers), f"there are {len(headers)} shards by their names")
    for index, (header, name) in enumerate(zip(headers, names, strict=True)):
        _check_value(header, name, NO, index, f"by its name this is shard {index + 1}, which has {index}")
        for key in SHARED:
            if key in header.metadata:
                _check_value(header, name, key, first.metadata.get(key), f"{first_name} has another")
    _check_unique(headers, names)
    total = sum(len(header.tensors) for header in headers)
    _check_value(first, first_name, TENSORS, total, f"the shards have {total} tensors")


def _check_types(header: Header, name: str) -> None:
    """Check the keys' types, which are exact: llama.cpp aborts the process on a `split.no` of another type."""
    for key, expected in TYPES.items():
        found = header.value_types.get(key, expected)
        if found is not expected:
            # The type stands in the four bytes before the value.
            offset = header.offset_of(key) - 4
            message = f"{key} is {found.name}; it must be {expected.name}"
            raise Malformed(message, offset=offset, field=f"{key}.type").in_file(name)


def _check_alone(header: Header, name: str) -> None:
    """Check that a single file is no shard of several."""
    count = header.metadata.get(COUNT, 1)
    if isinstance(count, int) and count > 1:
        message = f"one of {count} shards, without the others; they are named …-00001-of-{count:05}.gguf and so on"
        raise Malformed(message, offset=header.offset_of(COUNT), field=COUNT).in_file(name)


def _check_value(header: Header, name: str, key: str, expected: object, reason: str) -> None:
    found = header.metadata.get(key)
    if found != expected:
        message = f"{key} is missing" if found is None else f"{key} is {found!r}"
        raise Malformed(f"{message}; {reason}", offset=header.offset_of(key), field=key).in_file(name)


def _check_unique(headers: Iterable[Header], names: Sequence[str]) -> None:
    """Check that no tensor is in two shards."""
    seen: dict[str, int] = {}
    for shard, header in enumerate(headers):
        for index, tensor in enumerate(header.tensors):
            if tensor.name in seen:
                message = f"a second tensor named {tensor.name!r}; the first is in {names[seen[tensor.name]]}"
                offset = header.data_offset + tensor.offset
                raise Malformed(message, offset=offset, field=f"tensors[{index}]").in_file(names[shard])
            seen[tensor.name] = shard
