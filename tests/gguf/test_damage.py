"""Damaged files: cut at every byte, lying about sizes, changed at random."""

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import GGUFError, Truncated
from app.gguf import Array, parse_header
from tests import gguf_builder as b

SMALL = b.build(
    [
        ("general.architecture", b.STRING, "llama"),
        ("general.alignment", b.UINT32, 64),
        ("tokens", b.ARRAY, (b.STRING, ["a", "", "c\0d"])),
        ("scores", b.ARRAY, (b.FLOAT32, [1.0, -1.0])),
        ("flag", b.BOOL, 1),
    ],
    [("a", b.F32, (3, 2), bytes(24)), ("b", b.Q8_0, (32,), bytes(34))],
    alignment=64,
    declare_alignment=False,
)
SMALL_END = parse_header(SMALL).data_offset


@pytest.mark.parametrize("length", range(SMALL_END))
def test_a_header_cut_at_any_byte_is_truncated(length: int) -> None:
    """Every beginning of a header asks for more bytes than there are, and for no more than the file has."""
    cut = SMALL[:length]
    try:
        header = parse_header(cut)
    except Truncated as error:
        assert length < error.needed_bytes <= SMALL_END  # noqa: PT017
    else:
        assert header == parse_header(SMALL)  # only padding is missing
        assert SMALL[length:SMALL_END].strip(b"\0") == b""


def test_reading_as_much_as_is_needed_ends() -> None:
    """A reader that always reads what the error asks for gets the header, and reads no more than its bytes."""
    data = b.tiny_llama()
    length, rounds = 0, 0
    while True:
        try:
            header = parse_header(data[:length])
            break
        except Truncated as error:
            assert length < error.needed_bytes  # noqa: PT017
            length, rounds = error.needed_bytes, rounds + 1

    assert header == parse_header(data)
    assert length <= header.data_offset


@pytest.mark.parametrize(
    ("data", "field", "needed"),
    [
        (b.build(tensor_count=10**9), "metadata_kv_count", 24 + 24 * 10**9),
        (b.build(metadata_kv_count=2**63 - 1), "metadata_kv_count", 24 + 14 * (2**63 - 1)),
        (b.build([("k", b.STRING, b.Raw(struct.pack("<Q", 2**30)))]), "k", 45 + 2**30),
        (b.build([("k", b.ARRAY, b.Raw(struct.pack("<IQ", b.UINT64, 2**30)))]), "k", 49 + 2**33),
        (b.build([("k", b.ARRAY, b.Raw(struct.pack("<IQ", b.STRING, 2**30)))]), "k", 49 + 2**33),
    ],
    ids=["tensors", "metadata", "string", "array", "strings"],
)
def test_what_is_declared_is_compared_with_what_is_there(data: bytes, field: str, needed: int) -> None:
    """A small file that declares gigabytes is Truncated at once, without memory for any of it."""
    tracemalloc.start()
    with pytest.raises(Truncated) as caught:
        parse_header(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (caught.value.field, caught.value.needed_bytes) == (field, needed)
    assert peak < 64 * 1024


def decode_everything(data: bytes) -> None:
    """Parse, decode every array, and detach: all that a reader can do with a header."""
    header = parse_header(data)
    for value in header.metadata.values():
        if isinstance(value, Array):
            value.tolist()
    header.detached()


@pytest.mark.parametrize("position", range(SMALL_END))
def test_a_byte_changed_anywhere_raises_nothing_but_our_errors(position: int) -> None:
    """Each byte of a header, set to each of a number of values, leaves a header or a GGUFError with its field."""
    byte = SMALL[position]
    for value in {0, 1, 2, 8, 9, 13, 0x7F, 0x80, 0xFF, byte ^ 1, byte ^ 0x80, (byte + 1) % 256, (byte - 1) % 256}:
        damaged = bytearray(SMALL)
        damaged[position] = value
        try:
            decode_everything(bytes(damaged))
        except GGUFError as error:
            assert error.field  # noqa: PT017


def megabytes() -> dict[str, bytes]:
    """Write files of a megabyte that are made of as many records as fit, of the kinds that take most memory."""
    keys = [f"{number:04x}" for number in range(1 << 16)]
    tensors = [b.Tensor(key, b.I8, (0, 1), b"") for key in keys[:24_000]]
    tokens = b.Raw(struct.pack("<IQ", b.STRING, 128_000) + bytes(8 * 128_000))
    return {
        "keys": b.build([(key, b.UINT8, 1) for key in keys[:60_000]]),
        "long-keys": b.build([(key * 8, b.STRING, key * 8) for key in keys[:12_000]]),
        "arrays": b.build([(key, b.ARRAY, (b.UINT8, [1])) for key in keys[:34_000]]),
        "strings": b.build([("tokens", b.ARRAY, tokens)]),
        "text": b.build([("text", b.STRING, "🏠" + "a" * 10**6)]),
        "tensors": b.build(tensors=tensors),
    }


@pytest.mark.parametrize(("name", "data"), megabytes().items(), ids=megabytes())
def test_a_megabyte_takes_no_more_than_a_few(name: str, data: bytes) -> None:
    """Whatever a file of a megabyte is made of, its header takes at most twelve bytes for each of the file's."""
    tracemalloc.start()
    parse_header(data).detached()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert 0.9 * 2**20 < len(data) < 1.1 * 2**20, name
    assert peak < 12 * len(data)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, SMALL_END - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_changed_bytes_raise_nothing_but_our_errors(changes: list[tuple[int, int]]) -> None:
    """A header with any bytes changed parses, or raises GGUFError."""
    data = bytearray(SMALL)
    for position, byte in changes:
        data[position] = byte
    try:
        decode_everything(bytes(data))
    except GGUFError as error:
        assert error.field  # noqa: PT017


@settings(deadline=None)
@given(st.integers(0, SMALL_END), st.integers(0, SMALL_END), st.binary(max_size=24))
def test_spliced_bytes_raise_nothing_but_our_errors(start: int, end: int, inserted: bytes) -> None:
    """A header with any part replaced by other bytes parses, or raises GGUFError."""
    try:
        decode_everything(SMALL[:start] + inserted + SMALL[end:])
    except GGUFError as error:
        assert error.field  # noqa: PT017


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_records_raise_nothing_but_our_errors(data: bytes) -> None:
    """Whatever follows a plausible start, it parses or raises GGUFError."""
    try:
        decode_everything(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + data)
    except GGUFError as error:
        assert error.field  # noqa: PT017
