"""What a header says: values, tensors, and where the data is."""

import gzip
import json
import struct
from pathlib import Path

import pytest

from app.errors import Truncated
from app.gguf import GGMLType, TensorInfo, ValueType, parse_header, tensor_bytes
from tests import gguf_builder as b

HEADERS = Path(__file__).parents[2] / "../shared/fixtures/headers"
SIZES: dict[str, dict[str, int]] = json.loads((HEADERS / "sizes.json").read_text()) if HEADERS.is_dir() else {}

SCALARS = [
    ("a.uint8", b.UINT8, 200),
    ("a.int8", b.INT8, -100),
    ("a.uint16", b.UINT16, 60_000),
    ("a.int16", b.INT16, -30_000),
    ("a.uint32", b.UINT32, 4_000_000_000),
    ("a.int32", b.INT32, -2_000_000_000),
    ("a.float32", b.FLOAT32, 0.5),
    ("a.bool", b.BOOL, True),
    ("a.string", b.STRING, "häuser 🏠"),
    ("a.uint64", b.UINT64, 2**64 - 1),
    ("a.int64", b.INT64, -(2**63)),
    ("a.float64", b.FLOAT64, 0.1),
]


# ── metadata ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_scalars_of_every_type_in_file_order() -> None:
    """Each value type reads back as the Python value that it means, keys in the order of the file."""
    header = parse_header(b.build(SCALARS))

    assert [(key, value) for key, _, value in SCALARS] == list(header.metadata.items())
    assert [kind for _, kind, _ in SCALARS] == list(header.value_types.values())
    assert ValueType.FLOAT32 is header.value_types["a.float32"]


def test_every_byte_but_zero_is_true() -> None:
    """A bool of byte 2 is true, alone and in an array, as it is for llama.cpp."""
    raw = b.Raw(struct.pack("<IQ", b.BOOL, 3) + b"\0\1\2")
    header = parse_header(b.build([("one", b.BOOL, 2), ("many", b.ARRAY, raw)]))

    assert header.metadata["one"] is True
    assert list(header.metadata["many"]) == [False, True, True]  # type: ignore[arg-type]


def test_strings_that_are_not_utf8_are_replaced() -> None:
    """A token that is half a character does not hide the others."""
    header = parse_header(b.build([("s", b.STRING, b"a\xff"), ("t", b.ARRAY, (b.STRING, [b"\xe2\x96", "ok"]))]))

    assert header.metadata["s"] == "a\ufffd"
    assert list(header.metadata["t"]) == ["\ufffd", "ok"]  # type: ignore[arg-type]


def test_where_a_value_stands() -> None:
    """Each value's byte in the file is known, behind its type; a key that is not there has none."""
    data = b.build([("a", b.UINT32, 7), ("bc", b.STRING, "x"), ("d", b.ARRAY, (b.UINT8, [5])), ("e", b.UINT16, 9)])
    header = parse_header(data).detached()

    assert [data[header.offset_of(key)] for key in ("a", "bc", "d", "e")] == [7, 1, b.UINT8, 9]
    assert header.offset_of("a") == 24 + 8 + 1 + 4
    assert header.offset_of("f") == 0


def test_metadata_is_read_only() -> None:
    """A header is a value: nobody adds a key to it."""
    header = parse_header(b.build(SCALARS))

    with pytest.raises(TypeError):
        header.metadata["new"] = 1  # type: ignore[index]


def test_version_2_has_the_same_layout() -> None:
    """A file of version 2 reads as one of version 3 does."""
    two, three = (parse_header(b.tiny_llama().replace(b"GGUF\3", b"GGUF" + bytes([version]))) for version in (2, 3))

    assert (two.version, three.version) == (2, 3)
    assert three.tensors == two.tensors
    assert three.metadata == two.metadata


# ── tensors ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tensor_index() -> None:
    """Names, types, dimensions, offsets and sizes of tensors, in file order, packed and padded."""
    data = b.build(tensors=[
        ("a", b.F32, (3,), bytes(12)),
        ("b", b.Q4_0, (64, 2), bytes(72)),
        ("c", b.F16, (), bytes(2)),
        ("d", b.F32, (4, 0), b""),
        ("e", b.Q8_0, (32,), bytes(34)),
    ])  # fmt: skip
    header = parse_header(data)

    assert (
        TensorInfo("a", GGMLType.F32, (3,), 0, 12),
        TensorInfo("b", GGMLType.Q4_0, (64, 2), 32, 72),
        TensorInfo("c", GGMLType.F16, (), 128, 2),
        TensorInfo("d", GGMLType.F32, (4, 0), 160, 0),
        TensorInfo("e", GGMLType.Q8_0, (32,), 160, 34),
    ) == header.tensors
    assert [tensor.parameters for tensor in header.tensors] == [3, 128, 1, 0, 32]
    assert (32, 224, len(data)) == (header.alignment, header.data_bytes, header.data_offset + header.data_bytes)


@pytest.mark.parametrize("alignment", [1, 2, 64, 4096])
def test_the_alignment_that_the_file_declares(alignment: int) -> None:
    """The data section and each tensor start at multiples of the declared alignment."""
    tensors = [("a", b.I8, (5,), b"aaaaa"), ("b", b.I8, (3,), b"bbb")]
    data = b.build([("general.name", b.STRING, "x")], tensors, alignment=alignment)
    header = parse_header(data)

    assert alignment == header.alignment
    assert header.data_offset % alignment == 0
    assert data[header.data_offset :][:5] == b"aaaaa"
    assert data[header.data_offset + header.tensors[1].offset :][:3] == b"bbb"


@pytest.mark.parametrize(
    ("kind", "dimensions", "nbytes"),
    [
        (GGMLType.F32, (), 4),
        (GGMLType.F32, (5, 2), 40),
        (GGMLType.Q4_K, (512, 3), 864),
        (GGMLType.Q8_0, (0, 7), 0),
        (GGMLType.MXFP4, (64,), 34),
    ],
)
def test_tensor_bytes(kind: GGMLType, dimensions: tuple[int, ...], nbytes: int) -> None:
    """Sizes come from whole blocks."""
    assert nbytes == tensor_bytes(kind, dimensions)


def test_tensor_bytes_of_a_broken_block() -> None:
    """A row that is no whole number of blocks has no size."""
    with pytest.raises(ValueError, match="33 elements is no multiple of Q8_0's block of 32"):
        tensor_bytes(GGMLType.Q8_0, (33, 2))


def test_a_header_needs_no_tensor_data() -> None:
    """The bytes up to the end of the index are enough, padding not needed."""
    data = b.tiny_llama()
    whole = parse_header(data)
    end = data.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8 + 4 + 8

    assert whole == parse_header(data[:end])
    with pytest.raises(Truncated):
        parse_header(data[: end - 1])


def test_check_data_names_the_first_tensor_that_is_cut_off() -> None:
    """A file that ends early names the first tensor at fault; one that lacks only the last padding is whole."""
    data = b.build(tensors=[("a", b.I8, (40,), bytes(40)), ("b", b.I8, (40,), bytes(40))], pad_last=False)
    header = parse_header(data)

    header.check_data(len(data))
    with pytest.raises(Truncated, match="'b'") as caught:
        header.check_data(len(data) - 1)
    assert ("tensors[1]", len(data)) == (caught.value.field, caught.value.needed_bytes)
    with pytest.raises(Truncated, match="'a'"):
        header.check_data(header.data_offset + 39)


def test_the_builders_small_model_is_whole() -> None:
    """The model that other tests use has the tensors of a llama and ends where its data ends."""
    data = b.tiny_llama(n_layer=3, tied=False, uneven=True)
    header = parse_header(data)

    header.check_data(len(data))
    assert len(data) == header.data_offset + header.data_bytes
    assert len(header.tensors) == 1 + 3 * 9 + 2
    assert {GGMLType.F32, GGMLType.F16, GGMLType.Q8_0, GGMLType.Q4_0} == {t.type for t in header.tensors}


@pytest.mark.skipif(not SIZES, reason="needs the shared fixtures")
@pytest.mark.parametrize("name", sorted(SIZES))
def test_headers_that_llama_cpp_wrote(name: str) -> None:
    """Every header that llama.cpp wrote parses, and accounts for its file to the byte."""
    header = parse_header(gzip.decompress((HEADERS / f"{name}.head.gz").read_bytes()))

    assert SIZES[name]["data_offset"] == header.data_offset
    assert SIZES[name]["size"] == header.data_offset + header.data_bytes
    header.check_data(SIZES[name]["size"])
