"""The format's vocabulary: value types, tensor types, their sizes, and the limits that a header is held to.

Tensor types and block sizes come from the PyPI package `gguf`, kept by ggml's authors; no other part is used.
"""

import math
import struct
from collections.abc import Sequence
from enum import IntEnum

from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as GGMLType

__all__ = ["GGMLType", "ValueType", "tensor_bytes"]

# The limits of llama.cpp's own reader (ggml/src/gguf.cpp): what it refuses is refused here, and nothing less.
MAX_STRING_BYTES = 1 << 30
MAX_ARRAY_ELEMENTS = 1 << 30
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME is 64, with the terminating NUL
MAX_DIMENSIONS = 4
MAX_INT64 = 2**63 - 1  # counts, dimensions and element counts are signed there; so is every file offset
DEFAULT_ALIGNMENT = 32


class ValueType(IntEnum):
    """The type of a metadata value."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


VALUE_TYPES = {int(value_type): value_type for value_type in ValueType}

# `?` reads every byte but zero as true, as llama.cpp does.
SCALAR_LAYOUTS = {
    ValueType.UINT8: struct.Struct("<B"),
    ValueType.INT8: struct.Struct("<b"),
    ValueType.UINT16: struct.Struct("<H"),
    ValueType.INT16: struct.Struct("<h"),
    ValueType.UINT32: struct.Struct("<I"),
    ValueType.INT32: struct.Struct("<i"),
    ValueType.FLOAT32: struct.Struct("<f"),
    ValueType.BOOL: struct.Struct("<?"),
    ValueType.UINT64: struct.Struct("<Q"),
    ValueType.INT64: struct.Struct("<q"),
    ValueType.FLOAT64: struct.Struct("<d"),
}

TENSOR_TYPES = {int(tensor_type): tensor_type for tensor_type in GGMLType}
REMOVED_TENSOR_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}


def block_size(tensor_type: GGMLType) -> int:
    """Count the elements of one block: 1 for plain numbers, 32 to 256 for quantised types."""
    elements: int = GGML_QUANT_SIZES[tensor_type][0]
    return elements


def tensor_bytes(tensor_type: GGMLType, dimensions: Sequence[int]) -> int:
    """Bytes of a tensor's data, unpadded; `dimensions` in GGUF order, fastest first, none for one number.

    Raises ValueError where the first dimension is no whole number of blocks.
    """
    block_elements, block_bytes = GGML_QUANT_SIZES[tensor_type]
    row = dimensions[0] if dimensions else 1
    if row % block_elements:
        raise ValueError(f"a row of {row} elements is no multiple of {tensor_type.name}'s block of {block_elements}")
    size: int = row // block_elements * block_bytes * math.prod(dimensions[1:])
    return size
