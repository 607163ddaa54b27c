"""Bounds-checked little-endian reads from a buffer; every failure knows its byte offset and its field.

A read compares its length with the bytes that remain before it does anything else, so no count in a hostile
file can make us allocate or walk more than the file itself holds.
"""

import struct
from typing import Any

import numpy as np

from app.errors import Malformed, Truncated
from app.gguf.types import MAX_STRING_BYTES

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")

WINDOW_BYTES = 64 * 1024  # what the search allocates stays in the cache: 0.4 MiB, 2 MiB at worst
SHORT_WALK = 256  # strings


class Cursor:
    """A position in a buffer. `record` names what is being read; the fields given to reads continue it."""

    __slots__ = ("position", "record", "size", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.size = len(view)
        self.position = 0
        self.record = ""

    def malformed(self, message: str, field: str, *, offset: int) -> Malformed:
        """Make the error for a field that holds what it may not."""
        return Malformed(message, offset=offset, field=self.record + field)

    def require(self, nbytes: int, field: str) -> None:
        """Raise Truncated unless `nbytes` more bytes are there; reads none of them."""
        left = self.size - self.position
        if nbytes > left:
            raise Truncated(
                f"the bytes end too early: at least {nbytes} more are declared and {left} are left",
                needed_bytes=self.position + nbytes,
                offset=self.position,
                field=self.record + field,
            )

    def skip(self, nbytes: int, field: str) -> None:
        """Move past `nbytes` bytes."""
        self.require(nbytes, field)
        self.position += nbytes

    def numbers(self, layout: struct.Struct, field: str) -> tuple[Any, ...]:
        """Read the numbers of a layout."""
        start, end = self.position, self.position + layout.size
        if end > self.size:
            self.require(layout.size, field)
        self.position = end
        return layout.unpack_from(self.view, start)

    def u32(self, field: str) -> int:
        """Read an unsigned 32-bit integer."""
        value: int = self.numbers(U32, field)[0]
        return value

    def u64(self, field: str) -> int:
        """Read an unsigned 64-bit integer."""
        value: int = self.numbers(U64, field)[0]
        return value

    def string(self, field: str, *, max_bytes: int = MAX_STRING_BYTES) -> memoryview:
        """Read a length and return a view of that many bytes; copies nothing."""
        start = self.position
        length = self.u64(f"{field}.length")
        if length > max_bytes:
            raise self.malformed(too_long(length, max_bytes), f"{field}.length", offset=start)
        self.skip(length, field)
        return self.view[self.position - length : self.position]

    def name(self, field: str, *, max_bytes: int = MAX_STRING_BYTES) -> str:
        """Read a string by which others refer to something: it must be valid UTF-8."""
        start = self.position
        data = self.string(field, max_bytes=max_bytes)
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            message = f"not valid UTF-8: byte {data[error.start]:#04x} at {error.start}"
        raise self.malformed(message, field, offset=start)

    def skip_strings(self, count: int) -> None:
        """Move past `count` strings, checking the length of each; makes no object of any of them.

        Nearly all strings have 1 to 255 bytes and no NULs. Their lengths are then one byte followed by seven
        zeros, and such a run stands nowhere else: a window of bytes is searched for all of them at once, and
        the lengths found are checked as a chain. Where the chain breaks, strings are walked one by one before
        the next window. The walks double, so that no file, however made, costs much more than walking alone.
        """
        self.require(8 * count, "")
        left, batch = count, SHORT_WALK
        while left > SHORT_WALK:
            skipped = self._skip_chain(left)
            left -= skipped
            if skipped >= SHORT_WALK:
                batch = SHORT_WALK
                continue
            walked = min(batch, left)
            self._walk_strings(count - left, walked, count)
            left -= walked
            batch *= 2
        self._walk_strings(count - left, left, count)

    def _skip_chain(self, limit: int) -> int:
        """Skip the strings, at most `limit`, that a window shows to be well-formed; return how many."""
        window = np.frombuffer(self.view[self.position : self.position + WINDOW_BYTES], np.uint8)
        zero = window == 0
        pairs = zero[:-1] & zero[1:]
        fours = pairs[:-2] & pairs[2:]
        sevens = fours[:-3] & fours[3:]
        starts = np.flatnonzero(sevens[1:])  # bytes that seven zeros follow
        if len(starts) == 0 or starts[0] != 0:
            return 0
        linked = np.diff(starts) == window[starts[:-1]].astype(np.intp) + 8
        links = len(linked) if linked.all() else int(linked.argmin())
        skipped = min(links, limit)
        self.position += int(starts[skipped])
        return skipped

    def _walk_strings(self, first: int, walked: int, count: int) -> None:
        """Skip strings `first` to `first + walked` of `count`, one by one."""
        view, size, position, length_at = self.view, self.size, self.position, U64.unpack_from
        for index in range(first, first + walked):
            remaining = size - position - 8 * (count - index)  # every string left has a length at least
            length = length_at(view, position)[0] if remaining >= 0 else 0
            if length > remaining or length > MAX_STRING_BYTES:
                self.position = position
                self._refuse_string(index, count)
            position += 8 + length
        self.position = position

    def _refuse_string(self, index: int, count: int) -> None:
        """Raise what is wrong with the string at the cursor, the `index`-th of `count`."""
        field, lengths = f"[{index}].length", 8 * (count - index)
        self.require(lengths, field)
        (length,) = U64.unpack_from(self.view, self.position)
        if length > MAX_STRING_BYTES:
            raise self.malformed(too_long(length, MAX_STRING_BYTES), field, offset=self.position)
        self.require(lengths + length, field)


def too_long(length: int, allowed: int) -> str:
    """Say that a string is longer than it may be."""
    return f"a string of {length} bytes; {allowed} are allowed"
