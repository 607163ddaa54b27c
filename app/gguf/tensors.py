"""The tensor index: name, dimensions, type and offset of every tensor, packed in order."""

import math
import struct
from collections.abc import Collection
from dataclasses import dataclass

from app.gguf.cursor import Cursor
from app.gguf.types import (
    MAX_DIMENSIONS,
    MAX_INT64,
    MAX_TENSOR_NAME_BYTES,
    REMOVED_TENSOR_TYPES,
    TENSOR_TYPES,
    GGMLType,
    block_size,
    tensor_bytes,
)

DIMENSION_LAYOUTS = tuple(struct.Struct(f"<{count}Q") for count in range(MAX_DIMENSIONS + 1))
MIN_TENSOR_BYTES = 8 + 4 + 4 + 8  # length of an empty name, number of dimensions (none), type, offset


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `dimensions` in GGUF order, fastest first; sizes in bytes.

    `offset` counts from the header's `data_offset`; `nbytes` is the data without the padding behind it.
    """

    name: str
    type: GGMLType
    dimensions: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def parameters(self) -> int:
        """The number of elements: 1 where there are no dimensions."""
        return math.prod(self.dimensions)


def read_tensors(cursor: Cursor, count: int, alignment: int) -> tuple[tuple[TensorInfo, ...], int]:
    """Read `count` records: the tensors in file order, and the bytes of all their data, each padded."""
    tensors: dict[str, TensorInfo] = {}
    data_bytes = 0
    for index in range(count):
        cursor.record = f"tensors[{index}]"
        tensor = _read_tensor(cursor, tensors, data_bytes, alignment)
        tensors[tensor.name] = tensor
        data_bytes = padded(data_bytes + tensor.nbytes, alignment)
    return tuple(tensors.values()), data_bytes


def padded(nbytes: int, alignment: int) -> int:
    """Round up to a multiple of `alignment`, a power of two."""
    return (nbytes + alignment - 1) & -alignment


def _read_tensor(cursor: Cursor, seen: Collection[str], expected_offset: int, alignment: int) -> TensorInfo:
    start = cursor.position
    name = cursor.name(".name", max_bytes=MAX_TENSOR_NAME_BYTES)
    if name in seen:
        raise cursor.malformed(f"a second tensor named {name!r}", ".name", offset=start)
    dimensions = _read_dimensions(cursor)
    type_at = cursor.position
    tensor_type = _read_tensor_type(cursor)
    row, block = dimensions[0] if dimensions else 1, block_size(tensor_type)
    if row % block:
        message = f"a row of {row} elements is no multiple of {tensor_type.name}'s block of {block}"
        raise cursor.malformed(message, ".dimensions[0]", offset=type_at - 8 * len(dimensions))
    nbytes = tensor_bytes(tensor_type, dimensions)
    # llama.cpp refuses sizes and sums that wrap in 64 bits; no file is even half as long as that.
    if padded(expected_offset + nbytes, alignment) > MAX_INT64:
        message = f"{nbytes} bytes after {expected_offset} of other tensors; a file has at most {MAX_INT64}"
        raise cursor.malformed(message, ".dimensions", offset=type_at - 8 * len(dimensions))
    offset_at = cursor.position
    offset = cursor.u64(".offset")
    if offset != expected_offset:
        message = f"offset {offset}; {expected_offset} is where the tensors before it end, padded to {alignment}"
        raise cursor.malformed(message, ".offset", offset=offset_at)
    return TensorInfo(name, tensor_type, dimensions, offset, nbytes)


def _read_dimensions(cursor: Cursor) -> tuple[int, ...]:
    """Read up to four dimensions; any may be 0, and none at all means a single number."""
    start = cursor.position
    count = cursor.u32(".n_dims")
    if count > MAX_DIMENSIONS:
        raise cursor.malformed(f"{count} dimensions; {MAX_DIMENSIONS} are allowed", ".n_dims", offset=start)
    start = cursor.position
    dimensions = cursor.numbers(DIMENSION_LAYOUTS[count], ".dimensions")
    elements = 1
    for axis, dimension in enumerate(dimensions):
        # As llama.cpp multiplies: from a 0 on there are no elements, and nothing overflows any more.
        elements *= dimension
        if max(dimension, elements) > MAX_INT64:
            message = f"{dimension} makes it {elements} elements; {MAX_INT64} are allowed"
            raise cursor.malformed(message, f".dimensions[{axis}]", offset=start + 8 * axis)
    return dimensions


def _read_tensor_type(cursor: Cursor) -> GGMLType:
    start = cursor.position
    number = cursor.u32(".type")
    tensor_type = TENSOR_TYPES.get(number)
    if tensor_type is None:
        removed = REMOVED_TENSOR_TYPES.get(number)
        message = f"type {number}, {removed}, which ggml has removed" if removed else f"unknown type {number}"
        raise cursor.malformed(message, ".type", offset=start)
    return tensor_type
