"""Arrays decode when somebody looks, and a detached header does without the buffer."""

import mmap
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import Malformed, Truncated
from app.gguf import Array, ValueType, parse_header
from tests import gguf_builder as b

ELEMENTS: dict[int, list[Any]] = {
    b.UINT8: [0, 200],
    b.INT8: [-100, 100],
    b.UINT16: [60_000],
    b.INT16: [-30_000, 1],
    b.UINT32: [4_000_000_000],
    b.INT32: [-2_000_000_000, 7],
    b.FLOAT32: [0.5, -1.25],
    b.BOOL: [True, False],
    b.STRING: ["häuser", "", "🏠", "\0"],
    b.UINT64: [2**64 - 1],
    b.INT64: [-(2**63), 2**63 - 1],
    b.FLOAT64: [0.1, 1e300],
}


def array_of(element_type: int, elements: list[Any], key: str = "x") -> Array:
    """Build a file with one array, parse it, and return the array."""
    array = parse_header(b.build([(key, b.ARRAY, (element_type, elements))])).metadata[key]
    assert isinstance(array, Array)
    return array


@pytest.mark.parametrize("kind", ELEMENTS, ids=lambda kind: ValueType(kind).name)
def test_arrays_of_every_type(kind: int) -> None:
    """Arrays of each element type decode to the same values that went in."""
    array = array_of(kind, ELEMENTS[kind])

    assert (ValueType(kind), len(ELEMENTS[kind])) == (array.type, len(array))
    assert ELEMENTS[kind] == array.tolist() == list(array)
    assert ELEMENTS[kind][:1] == array.head(1)


@pytest.mark.parametrize("kind", [b.UINT8, b.FLOAT64, b.BOOL, b.STRING])
def test_an_empty_array(kind: int) -> None:
    """An array of no elements is an array of no elements."""
    array = array_of(kind, [])

    assert (len(array), array.nbytes, array.tolist(), array.head(8)) == (0, 0, [], [])
    assert array.decode(b"") == []


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8),
                                  lambda data: memoryview(data).cast("c")],
                         ids=["bytes", "bytearray", "memoryview", "numpy", "chars"])  # fmt: skip
def test_any_buffer_will_do(wrap: Callable[[bytes], Any]) -> None:
    """Every bytes-like object parses to the same header."""
    data = b.tiny_llama()

    assert parse_header(data) == parse_header(wrap(data))


def test_parsing_copies_no_array() -> None:
    """Parsing a vocabulary of 9 MB takes a small part of that memory: nothing is decoded and nothing copied."""
    tokens = b.Raw(struct.pack("<IQ", b.STRING, 500_000) + b.string("some token") * 500_000)
    data = b.build([("tokenizer.ggml.tokens", b.ARRAY, tokens)])
    tracemalloc.start()
    header = parse_header(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert header.metadata["tokenizer.ggml.tokens"].head(2) == ["some token"] * 2  # type: ignore[union-attr]
    assert peak < len(data) / 10


def test_an_array_says_where_it_is_in_the_file() -> None:
    """Offset and size are those of the elements, so that somebody can read them again and decode them."""
    data = b.tiny_llama()
    tokens = parse_header(data).metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Array)

    again = data[tokens.offset : tokens.offset + tokens.nbytes]

    assert again.startswith(b.string("<unk>") + b.string("<s>"))
    assert tokens.tolist() == tokens.decode(again) == tokens.decode(memoryview(again))


def test_detached_keeps_short_arrays_and_the_head_of_long_ones() -> None:
    """A detached header holds 8 elements of a long array, all of a short one, and everything else unchanged."""
    data = b.build([
        ("long", b.ARRAY, (b.STRING, [f"token {i}" for i in range(1025)])),
        ("numbers", b.ARRAY, (b.INT32, list(range(1025)))),
        ("short", b.ARRAY, (b.STRING, [f"token {i}" for i in range(1024)])),
        ("name", b.STRING, "model"),
    ])  # fmt: skip
    header = parse_header(data)
    long, numbers, short, name = header.detached().metadata.values()
    assert isinstance(long, Array)
    assert isinstance(numbers, Array)
    assert isinstance(short, Array)

    assert [f"token {i}" for i in range(8)] == long.head(8)
    assert list(range(8)) == numbers.head(8)
    assert [f"token {i}" for i in range(1024)] == short.tolist()
    assert name == "model"
    assert (len(long), long.type) == (1025, ValueType.STRING)
    assert [f"token {i}" for i in range(1025)] == long.decode(data[long.offset : long.offset + long.nbytes])
    with pytest.raises(ValueError, match="detached and holds 8"):
        long.tolist()
    assert list(range(8)) == numbers.head(9)
    assert numbers.head(-1) == []
    assert [array.complete for array in (long, numbers, short)] == [False, False, True]
    assert long is long.detached()


def test_detached_keeps_no_more_of_huge_strings_than_fits() -> None:
    """The head of an array of huge strings is what fits in 64 KiB, be it nothing."""
    huge = array_of(b.STRING, ["x" * 40_000, "y" * 40_000]).detached()

    assert huge.head(8) == ["x" * 40_000]
    assert array_of(b.STRING, ["x" * 70_000]).detached().head(8) == []
    with pytest.raises(ValueError, match="holds 1 "):
        huge.tolist()


def test_a_mapping_can_be_closed_after_detached_and_after_a_refusal(tmp_path: Path) -> None:
    """Neither a detached header nor an error refers to the buffer."""
    path = tmp_path / "model.gguf"
    good = b.tiny_llama()
    path.write_bytes(good)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        detached = parse_header(mapping).detached()
    assert parse_header(good).tensors == detached.tensors

    path.write_bytes(good[:2000])
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
        pytest.raises(Truncated),
    ):
        parse_header(mapping)


def test_an_array_whose_file_has_changed_is_refused() -> None:
    """Bytes that were read again are checked again: too few are Truncated, lengths that lie Malformed."""
    array = array_of(b.STRING, ["one", "two"])

    with pytest.raises(Truncated) as truncated:
        array.decode(b"\3\0\0")
    with pytest.raises(Malformed, match="the file has changed") as malformed:
        array.decode(b.string("one") + b"\xff" * 11)

    assert array.offset + array.nbytes == truncated.value.needed_bytes
    assert ("array[1].length", array.offset + 11) == (malformed.value.field, malformed.value.offset)
