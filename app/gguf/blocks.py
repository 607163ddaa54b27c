"""Whether tensor data can be weights: llama.cpp's `--check-tensors` (`ggml_validate_row_data`, ggml/src/ggml-quants.c).

Of plain numbers every element must be finite. Of quantised blocks only the scales can be wrong, for every pattern of
the other bits means some weight: so only the scales are looked at, where they lie, and nothing of the data is copied.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import GGML_QUANT_SIZES

from app.gguf.types import GGMLType

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PIECE_BYTES: Final = 512 * 1024
"""Data is gone through in pieces that stay in a core's cache from the first scale of a block to the second."""

Bits = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]


@dataclass(frozen=True, slots=True)
class _Format:
    """How a number shows that it is infinite or NaN: `bits & mask` is `limit` or more."""

    bits: str
    mask: int
    limit: int


F16: Final = _Format("<u2", 0x7C00, 0x7C00)  # the exponent has all its bits set
BF16: Final = _Format("<u2", 0x7F80, 0x7F80)
F32: Final = _Format("<u4", 0x7F80_0000, 0x7F80_0000)
# llama.cpp looks at a double as a float; from 2^128 - 2^103 on it rounds to infinity.
F64: Final = _Format("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x47EF_FFFF_F000_0000)
E8M0: Final = _Format("<u1", 0xFF, 0xFF)
# An F16 spread over the top four bits of four 16-bit words: its exponent is in the last word and the one before.
F16_SPREAD: Final = _Format("<u8", 0x7000_C000_0000_0000, 0x7000_C000_0000_0000)

SCALES: Final[dict[GGMLType, tuple[tuple[int, _Format], ...]]] = {
    GGMLType.F32: ((0, F32),),
    GGMLType.F16: ((0, F16),),
    GGMLType.BF16: ((0, BF16),),
    GGMLType.F64: ((0, F64),),
    GGMLType.I8: (),
    GGMLType.I16: (),
    GGMLType.I32: (),
    GGMLType.I64: (),
    GGMLType.Q1_0: ((0, F16),),
    GGMLType.Q4_0: ((0, F16),),
    GGMLType.Q4_1: ((0, F16), (2, F16)),
    GGMLType.Q5_0: ((0, F16),),
    GGMLType.Q5_1: ((0, F16), (2, F16)),
    GGMLType.Q8_0: ((0, F16),),
    GGMLType.Q2_K: ((80, F16), (82, F16)),
    GGMLType.Q3_K: ((108, F16),),
    GGMLType.Q4_K: ((0, F16), (2, F16)),
    GGMLType.Q5_K: ((0, F16), (2, F16)),
    GGMLType.Q6_K: ((208, F16),),
    GGMLType.Q8_K: ((0, F32),),
    GGMLType.IQ1_S: ((0, F16),),
    GGMLType.IQ1_M: ((48, F16_SPREAD),),
    GGMLType.IQ2_XXS: ((0, F16),),
    GGMLType.IQ2_XS: ((0, F16),),
    GGMLType.IQ2_S: ((0, F16),),
    GGMLType.IQ3_XXS: ((0, F16),),
    GGMLType.IQ3_S: ((0, F16),),
    GGMLType.IQ4_NL: ((0, F16),),
    GGMLType.IQ4_XS: ((0, F16),),
    GGMLType.TQ1_0: ((52, F16),),
    GGMLType.TQ2_0: ((64, F16),),
    GGMLType.MXFP4: ((0, E8M0),),
    GGMLType.NVFP4: (),
}
"""Per type, the byte in a block where each scale stands, and its format. Q8_1 is missing: it is no type for weights."""


def is_checkable(tensor_type: GGMLType) -> bool:
    """Whether there are rules for the type; data of any other is invalid, whatever it holds, as llama.cpp has it."""
    return tensor_type in SCALES


def block_bytes(tensor_type: GGMLType) -> int:
    """Bytes of one block: of one number, for plain numbers."""
    size: int = GGML_QUANT_SIZES[tensor_type][1]
    return size


def first_invalid_block(tensor_type: GGMLType, data: "ReadableBuffer") -> int | None:
    """Index of the first block that has a scale, or of the first number, that is NaN or infinite; None where none is.

    `data` is whole blocks of one type, of which nothing is copied; a tensor may be cut between any two. Raises
    ValueError where a block is cut.
    """
    view, size = memoryview(data).cast("B"), block_bytes(tensor_type)
    if len(view) % size:
        raise ValueError(f"{len(view)} bytes are no whole number of {tensor_type.name}'s blocks of {size}")
    if not is_checkable(tensor_type):
        return 0
    blocks, scales = len(view) // size, SCALES[tensor_type]
    if not blocks or not scales:
        return None
    piece = min(PIECE_BYTES // size, blocks)
    columns = [_Column(view, offset, size, form, piece) for offset, form in scales]
    for first in range(0, blocks, piece):
        damaged = [index for column in columns if (index := column.first_damaged(first)) is not None]
        if damaged:
            return min(damaged)
    return None


class _Column:
    """The scales that stand at one offset of each block: a strided view, and a piece of memory to work in."""

    def __init__(self, view: memoryview, offset: int, stride: int, form: _Format, piece: int) -> None:
        self._bits: Bits = np.ndarray((len(view) // stride,), form.bits, view, offset, (stride,))
        self._mask = self._bits.dtype.type(form.mask)
        self._limit = form.limit
        self._scratch: Bits = np.empty(piece, form.bits)

    def first_damaged(self, first: int) -> int | None:
        """Index of the first scale at or over the limit, in the piece that begins at `first`."""
        bits = self._bits[first : first + len(self._scratch)]
        masked = np.bitwise_and(bits, self._mask, out=self._scratch[: len(bits)])
        if masked.max() < self._limit:
            return None
        return first + int((masked >= self._limit).argmax())
