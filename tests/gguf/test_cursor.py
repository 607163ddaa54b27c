"""The cursor: bounds on every read, and the walk over strings, which may not differ from the plain one."""

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import GGUFError, Malformed, Truncated
from app.gguf.cursor import SHORT_WALK, WINDOW_BYTES, Cursor
from tests.gguf_builder import string


def cursor(data: bytes | bytearray, record: str = "tokens") -> Cursor:
    """Return a cursor at the first byte."""
    made = Cursor(memoryview(data))
    made.record = record
    return made


def plain_end(data: bytes, count: int) -> int:
    """Walk over `count` strings in the plainest way; raises EOFError where the bytes end before them."""
    position = 0
    for _ in range(count):
        if position + 8 > len(data):
            raise EOFError
        position += 8 + int.from_bytes(data[position : position + 8], "little")
        if position > len(data):
            raise EOFError
    return position


# Runs of equal strings, as (pattern, its repeats in a string, strings): enough to fill windows and to break chains.
short = st.one_of(st.binary(max_size=12), st.sampled_from([b"", b"\0", bytes(7), bytes(8), bytes(9), b"\1" + bytes(7)]))
lengths = st.one_of(st.integers(250, 260), st.just(WINDOW_BYTES + 1))
runs = st.lists(
    st.one_of(
        st.tuples(short, st.just(1), st.integers(1, 2 * SHORT_WALK)),
        st.tuples(st.sampled_from([b"x", b"\0"]), lengths, st.integers(1, 3)),
    ),
    min_size=1,
    max_size=6,
)
Runs = list[tuple[bytes, int, int]]


def array_of(runs: Runs) -> tuple[bytes, int]:
    """Write the strings of some runs, and count them."""
    data = b"".join(string(pattern * repeats) * strings for pattern, repeats, strings in runs)
    return data, sum(strings for _, _, strings in runs)


def test_numbers_are_little_endian() -> None:
    """Integers are read least significant byte first, and the position moves past them."""
    reader = cursor(struct.pack("<IQ", 0x01020304, 2**63 + 5))

    assert reader.u32(".a") == 0x01020304
    assert reader.u64(".b") == 2**63 + 5
    assert reader.position == 12


def test_a_read_past_the_end_names_the_field_and_what_is_needed() -> None:
    """A read that the bytes cannot satisfy says which field, where, and how long the file would have to be."""
    reader = cursor(b"\0\0\0\0\1\2\3", record="tensors[3]")
    reader.u32(".n_dims")

    with pytest.raises(Truncated) as caught:
        reader.u64(".offset")

    assert (caught.value.field, caught.value.offset, caught.value.needed_bytes) == ("tensors[3].offset", 4, 12)


def test_a_string_is_a_view() -> None:
    """A string is read without a copy of its bytes."""
    data = bytearray(string("token"))

    read = cursor(data).string("")
    data[8] = ord("T")

    assert bytes(read) == b"Token"


def test_a_string_longer_than_allowed_is_malformed_even_where_bytes_are_missing() -> None:
    """The limit is checked before the bytes that remain: reading more of the file would not help."""
    with pytest.raises(Malformed, match="2147483648 bytes; 1073741824 are allowed") as caught:
        cursor(struct.pack("<Q", 2**31)).string(".key")

    assert caught.value.field == "tokens.key.length"


def test_a_name_must_be_valid_utf8() -> None:
    """A name with bytes that are not UTF-8 is refused, with the byte at fault."""
    with pytest.raises(Malformed, match="0xff at 2"):
        cursor(string(b"ab\xff")).name(".key")


@settings(deadline=None)
@given(runs, st.binary(max_size=40))
def test_skipping_strings_ends_where_walking_ends(runs: Runs, behind: bytes) -> None:
    """The windowed walk and the plain one agree on every array of strings, whatever follows it."""
    data, count = array_of(runs)
    reader = cursor(data + behind)

    reader.skip_strings(count)

    assert plain_end(data, count) == reader.position == len(data)


@settings(deadline=None)
@given(runs, st.data())
def test_skipping_strings_that_are_cut_short_is_truncated(runs: Runs, draw: st.DataObject) -> None:
    """An array cut at any byte is Truncated, with more needed bytes than there are and no more than there were."""
    data, count = array_of(runs)
    cut = draw.draw(st.integers(0, len(data) - 1))

    with pytest.raises(Truncated) as caught:
        cursor(data[:cut]).skip_strings(count)

    assert cut < caught.value.needed_bytes <= len(data)


@settings(deadline=None)
@given(runs, st.data(), st.binary(min_size=1, max_size=8), st.integers(0, 3000))
def test_skipping_strings_in_damaged_bytes_agrees_with_walking(
    runs: Runs, draw: st.DataObject, damage: bytes, more: int
) -> None:
    """Where bytes are damaged or too many strings declared, both walks end at the same place or both refuse."""
    data, count = array_of(runs)
    at = draw.draw(st.integers(0, len(data)))
    damaged = data[:at] + damage + data[at + len(damage) :]
    reader = cursor(damaged)
    try:
        end = plain_end(damaged, count + more)
    except EOFError:
        with pytest.raises(GGUFError):
            reader.skip_strings(count + more)
    else:
        reader.skip_strings(count + more)
        assert end == reader.position


@pytest.mark.parametrize("at", [0, 255, 256, 5000, 9999], ids=lambda at: f"string-{at}")
def test_a_string_at_fault_is_named_by_its_index(at: int) -> None:
    """The length that reaches behind the end is found in the middle of a vocabulary, by index and byte."""
    token = string("token")
    data = token * at + struct.pack("<Q", 2**29) + token * (10_000 - at)

    with pytest.raises(Truncated) as caught:
        cursor(data).skip_strings(10_000)

    assert (f"tokens[{at}].length", at * len(token)) == (caught.value.field, caught.value.offset)


@pytest.mark.parametrize("text", [b"token", b"", b"\0", bytes(300)], ids=["short", "empty", "nul", "nuls"])
def test_skipping_strings_takes_memory_for_a_window_only(text: bytes) -> None:
    """The memory that the walk takes does not grow with the vocabulary, hostile ones included."""
    reader = cursor(string(text) * 50_000)
    tracemalloc.start()
    reader.skip_strings(50_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 4 * 1024 * 1024
