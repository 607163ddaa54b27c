"""Damage: one fault put into a header that llama.cpp wrote, and the tensor or key that has to be named for it."""

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.gguf import Array, GGMLType, Header, TensorInfo, Value, parse_header
from tests import gguf_builder as gguf

HEADERS = sorted((Path(__file__).parents[2] / "../shared/fixtures/headers").resolve().glob("*.gguf.head.gz"))


@dataclass(frozen=True)
class Damaged:
    """A damaged header, and the tensor or key that was damaged."""

    header: Header
    name: str


def read(path: Path) -> Header:
    """Read a header from the fixtures."""
    return parse_header(gzip.decompress(path.read_bytes()))


def architecture(header: Header) -> str:
    """Return what the header says it is."""
    return str(header.metadata["general.architecture"])


def one_of_each(header: Header) -> list[int]:
    """Index the tensors, of those that all blocks have only the first block's; scales of quantised ones left out."""
    seen: set[str] = set()
    indices = []
    for index, tensor in enumerate(header.tensors):
        local = tensor.name.split(".", 2)[2] if tensor.name.startswith("blk.") else tensor.name
        if local not in seen and not local.endswith(("scale", "scales")):
            seen.add(local)
            indices.append(index)
    return indices


def without_a_tensor(header: Header) -> Iterator[Damaged]:
    """Take each tensor out."""
    for index in one_of_each(header):
        before, tensor, after = around(header, index)
        yield Damaged(replace(header, tensors=(*before, *after)), tensor.name)


def with_a_renamed_tensor(header: Header) -> Iterator[Damaged]:
    """Misspell each tensor's name."""
    for index in one_of_each(header):
        _, tensor, _ = around(header, index)
        stem, _, part = tensor.name.rpartition(".")
        yield Damaged(with_tensor(header, index, replace(tensor, name=f"{stem}x.{part}")), tensor.name)


def with_a_wider_tensor(header: Header) -> Iterator[Damaged]:
    """Make each dimension of each tensor one larger."""
    for index in one_of_each(header):
        _, tensor, _ = around(header, index)
        for axis, size in enumerate(tensor.dimensions):
            dimensions = (*tensor.dimensions[:axis], size + 1, *tensor.dimensions[axis + 1 :])
            yield Damaged(with_tensor(header, index, replace(tensor, dimensions=dimensions)), tensor.name)


def with_a_wrong_type(header: Header) -> Iterator[Damaged]:
    """Quantise each vector that is added or multiplied element by element, and make each matrix integers."""
    for index in one_of_each(header):
        _, tensor, _ = around(header, index)
        vector = tensor.name.endswith((".bias", "norm.weight", "norm"))
        wrong = GGMLType.Q8_0 if vector else GGMLType.I32
        yield Damaged(with_tensor(header, index, replace(tensor, type=wrong)), tensor.name)


def with_a_wrong_number(header: Header, name: str, *, add: int) -> Iterator[Damaged]:
    """Change `<architecture>.NAME`; in an array the numbers that are not 0."""
    key = f"{architecture(header)}.{name}"
    value = header.metadata.get(key)
    if value not in (None, 0):
        yield Damaged(with_key(header, key, value, add), key)


def with_key(header: Header, key: str, value: Value, add: int) -> Header:
    """Add to a number, or to each number of an array that is not 0."""
    if isinstance(value, Array):
        numbers = [number + add if isinstance(number, int) and number else number for number in value.tolist()]
        pair: gguf.KeyValue = (key, gguf.ARRAY, (gguf.UINT32, numbers))
    else:
        pair = (key, gguf.UINT32, int(str(value)) + add)
    changed = parse_header(gguf.build([pair])).metadata
    return replace(header, metadata={**header.metadata, **changed})


def with_tensor(header: Header, index: int, tensor: TensorInfo) -> Header:
    """Put another tensor in the place of one."""
    before, _, after = around(header, index)
    return replace(header, tensors=(*before, tensor, *after))


def around(header: Header, index: int) -> tuple[Sequence[TensorInfo], TensorInfo, Sequence[TensorInfo]]:
    """Return the tensors before one, itself, and those behind it."""
    return header.tensors[:index], header.tensors[index], header.tensors[index + 1 :]


def with_a_doubled_tensor(header: Header) -> bytes:
    """Write the header's tensors again, the first of them once more at the end."""
    rows = [gguf.Tensor(t.name, int(t.type), t.dimensions, offset=t.offset) for t in header.tensors]
    return gguf.build([], [*rows, rows[0]._replace(offset=header.data_bytes)])
