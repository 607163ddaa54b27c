"""Data that cannot be weights is found at the first block or number that is damaged, by llama.cpp's rules."""

import math
import mmap
import struct
import tracemalloc
from itertools import product

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, quants
from hypothesis import given
from hypothesis import strategies as st

from app.gguf import GGMLType
from app.gguf.blocks import PIECE_BYTES, block_bytes, first_invalid_block, is_checkable

F16 = [b"\x00\x7e", b"\x00\x7c", b"\x00\xfc"]  # NaN, +inf, -inf
BF16 = [b"\xc0\x7f", b"\x80\x7f", b"\x80\xff"]
F32 = [struct.pack("<f", value) for value in (float("nan"), float("inf"), float("-inf"))]
F64 = [struct.pack("<d", value) for value in (float("nan"), float("inf"), float("-inf"), 3.5e38, -1e300)]

# The bytes of ggml's structs (ggml/src/ggml-common.h): where a block's scales stand, and what damages one.
DAMAGE: dict[GGMLType, tuple[list[int], list[bytes]]] = {
    GGMLType.F32: ([0], F32),
    GGMLType.F16: ([0], F16),
    GGMLType.BF16: ([0], BF16),
    GGMLType.F64: ([0], F64),
    GGMLType.Q8_K: ([0], F32),
    GGMLType.MXFP4: ([0], [b"\xff"]),
    GGMLType.IQ1_M: ([49], [b"\0\0\0\0\xc0\0\x7e", b"\0\0\0\0\xc0\0\x70", b"\0\0\0\0\xc0\0\xf0"]),
    GGMLType.Q2_K: ([80, 82], F16),
    GGMLType.Q3_K: ([108], F16),
    GGMLType.Q6_K: ([208], F16),
    GGMLType.TQ1_0: ([52], F16),
    GGMLType.TQ2_0: ([64], F16),
    **dict.fromkeys((GGMLType.Q4_1, GGMLType.Q5_1, GGMLType.Q4_K, GGMLType.Q5_K), ([0, 2], F16)),
    **dict.fromkeys(
        (GGMLType.Q1_0, GGMLType.Q4_0, GGMLType.Q5_0, GGMLType.Q8_0, GGMLType.IQ1_S, GGMLType.IQ2_XXS, GGMLType.IQ2_XS,
         GGMLType.IQ2_S, GGMLType.IQ3_XXS, GGMLType.IQ3_S, GGMLType.IQ4_NL, GGMLType.IQ4_XS),
        ([0], F16),
    ),
}  # fmt: skip
UNCHECKED = {GGMLType.I8, GGMLType.I16, GGMLType.I32, GGMLType.I64, GGMLType.NVFP4}
NO_WEIGHTS = {GGMLType.Q8_1}
CASES = [
    pytest.param(kind, offset, damage, id=f"{kind.name}-{offset}-{damage.hex()}")
    for kind, (offsets, damages) in DAMAGE.items()
    for offset, damage in product(offsets, damages)
]

# A block is bad for us exactly where the gguf package finds numbers in it that are not finite.
DEQUANTIZED = sorted(
    kind for kind, (_, damages) in DAMAGE.items() if damages is F16 and kind not in (GGMLType.F16, GGMLType.Q1_0)
)


def good(kind: GGMLType, blocks: int) -> bytearray:
    """Quantise random numbers where the gguf package can, else take zeros."""
    numbers = np.random.default_rng(0).standard_normal((1, blocks * GGML_QUANT_SIZES[kind][0]), dtype=np.float32)
    try:
        return bytearray(quants.quantize(numbers, kind).tobytes())
    except NotImplementedError:
        return bytearray(blocks * block_bytes(kind))


def test_every_type_has_a_rule() -> None:
    """Each tensor type that can be read is checked, holds plain integers, or is known to be no type for weights."""
    assert {*DAMAGE, *UNCHECKED, *NO_WEIGHTS} == set(GGMLType)
    assert {kind for kind in GGMLType if not is_checkable(kind)} == NO_WEIGHTS


@pytest.mark.parametrize("kind", DAMAGE, ids=lambda kind: kind.name)
def test_good_data_has_no_invalid_block(kind: GGMLType) -> None:
    """What a quantiser writes is good, and so is no data at all."""
    assert first_invalid_block(kind, good(kind, 9)) is None
    assert first_invalid_block(kind, b"") is None


@pytest.mark.parametrize(("kind", "offset", "damage"), CASES)
def test_a_damaged_scale_is_found(kind: GGMLType, offset: int, damage: bytes) -> None:
    """NaN and both infinities in a scale are found at their block: the first, one between, the last."""
    for block in (0, 4, 8):
        data = good(kind, 9)
        at = block * block_bytes(kind) + offset
        data[at : at + len(damage)] = damage

        assert first_invalid_block(kind, data) == block


@pytest.mark.parametrize(("kind", "offset", "damage"), CASES[::3])
def test_the_first_of_two_in_a_long_tensor(kind: GGMLType, offset: int, damage: bytes) -> None:
    """Of two damaged blocks in data of several pieces the first is found, and its index counts from the start."""
    size = block_bytes(kind)
    blocks = 3 * PIECE_BYTES // size + 2
    data = bytearray(blocks * size)
    for block in (blocks - 2, blocks - 1):
        data[block * size + offset : block * size + offset + len(damage)] = damage

    assert first_invalid_block(kind, data) == blocks - 2


@pytest.mark.parametrize("kind", sorted(UNCHECKED), ids=lambda kind: kind.name)
def test_whatever_integers_hold_is_good(kind: GGMLType) -> None:
    """Integers, and NVFP4, have no pattern that is wrong."""
    assert first_invalid_block(kind, b"\xff" * 8 * block_bytes(kind)) is None


def test_a_type_that_is_not_for_weights() -> None:
    """Q8_1 is what llama.cpp computes with and never stores: its data is invalid from the first block on."""
    assert first_invalid_block(GGMLType.Q8_1, bytes(80)) == 0


@pytest.mark.parametrize("kind", sorted(set(GGMLType) - {GGMLType.I8}), ids=lambda kind: kind.name)
def test_a_block_that_is_cut_is_a_value_error(kind: GGMLType) -> None:
    """Data is whole blocks, or the caller has cut it at the wrong place."""
    with pytest.raises(ValueError, match=f"{kind.name}'s blocks of {block_bytes(kind)}"):
        first_invalid_block(kind, bytes(3 * block_bytes(kind) - 1))


def test_the_largest_double_that_is_finite_as_a_float() -> None:
    """A double is looked at as the float that llama.cpp casts it to, to the last bit."""
    largest, infinite = math.nextafter(2.0**128 - 2.0**103, 0), 2.0**128 - 2.0**103

    assert first_invalid_block(GGMLType.F64, struct.pack("<d", largest)) is None
    assert first_invalid_block(GGMLType.F64, struct.pack("<2d", -largest, -infinite)) == 1


@given(st.sampled_from(DEQUANTIZED), st.integers(1, 24), st.integers(0, 2**32))
def test_invalid_is_what_does_not_dequantize_to_finite_numbers(kind: GGMLType, blocks: int, seed: int) -> None:
    """Whatever the bytes, the block found is the first in which the gguf package's numbers are not finite."""
    data = np.random.default_rng(seed).integers(0, 256, (blocks, block_bytes(kind)), dtype=np.uint8)
    with np.errstate(all="ignore"):
        finite = np.isfinite(quants.dequantize(data, kind)).all(axis=1)
    expected = None if finite.all() else int(finite.argmin())

    assert first_invalid_block(kind, data.tobytes()) == expected


@given(st.data())
def test_a_tensor_may_be_cut_between_any_blocks(data: st.DataObject) -> None:
    """Two parts of a tensor, looked at one after the other and wherever in memory, give what the whole gives."""
    kind = data.draw(st.sampled_from(sorted(DAMAGE)))
    size, blocks = block_bytes(kind), data.draw(st.integers(1, 40))
    whole = data.draw(st.binary(min_size=size * blocks, max_size=size * blocks))
    cut, shift = data.draw(st.integers(0, blocks)), data.draw(st.integers(0, 7))
    shifted = memoryview(bytes(shift) + whole)[shift:]
    head, tail = (first_invalid_block(kind, part) for part in (shifted[: cut * size], shifted[cut * size :]))
    joined = head if head is not None else None if tail is None else cut + tail

    assert first_invalid_block(kind, whole) == joined


@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.F16, GGMLType.Q4_0, GGMLType.Q4_K, GGMLType.MXFP4])
def test_no_data_is_copied(kind: GGMLType) -> None:
    """Looking through 16 MiB, here a mapping, takes no more memory than a piece of it."""
    size = (16 << 20) // block_bytes(kind) * block_bytes(kind)
    with mmap.mmap(-1, size) as mapping:
        tracemalloc.start()
        found = first_invalid_block(kind, mapping)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert found is None
    assert peak < PIECE_BYTES + 64 * 1024
