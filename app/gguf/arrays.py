"""Metadata arrays, decoded when somebody looks: a vocabulary is megabytes that most readers skip."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from app.errors import Malformed, Truncated
from app.gguf.cursor import U64
from app.gguf.types import SCALAR_LAYOUTS, ValueType

Scalar = int | float | bool | str

VIEW_BYTES = 128  # what a view of the buffer takes itself: fewer bytes are copied instead

# What a detached array keeps: all of a short one, the first few elements of a long one.
KEPT_ELEMENTS = 1024
KEPT_BYTES = 64 * 1024
HEAD_ELEMENTS = 8


@dataclass(frozen=True, slots=True, repr=False)
class Array:
    """`count` elements of one type, `nbytes` bytes at `offset` of the file (the lengths of strings included).

    Strings decode as UTF-8 with U+FFFD for what is not: byte-level vocabularies hold tokens that are only a
    part of a character, and one such token must not hide the others.
    """

    type: ValueType
    count: int
    offset: int
    nbytes: int
    _data: bytes | memoryview  # the first `_held` elements: a view of the parsed buffer, or a copy
    _held: int

    def __len__(self) -> int:
        return self.count

    @property
    def complete(self) -> bool:
        """Whether `tolist` can decode all elements; a detached long array has only its head."""
        return self._held == self.count

    def __iter__(self) -> Iterator[Scalar]:
        """Decode all elements; raises ValueError where a detached array no longer holds them."""
        return iter(self.tolist())

    def __repr__(self) -> str:
        return f"<Array of {self.count} {self.type.name} at byte {self.offset}>"

    def head(self, n: int) -> list[Scalar]:
        """Decode the first `n` elements, or as many as there are; a detached array may hold no more than 8."""
        return self._decode(self._data, max(0, min(n, self._held)))

    def tolist(self) -> list[Scalar]:
        """Decode all elements; raises ValueError where a detached array no longer holds them."""
        if not self.complete:
            raise ValueError(f"{self} is detached and holds {self._held} elements; decode() takes the file's bytes")
        return self._decode(self._data, self.count)

    def decode(self, data: bytes | memoryview, errors: str = "replace") -> list[Scalar]:
        """Decode all elements from `nbytes` bytes that were read again from `offset` of the file.

        `errors` is for strings that are not UTF-8: with `surrogateescape` no byte of them is lost. Raises Truncated or
        Malformed where the file has changed so that they are no such array any more.
        """
        if len(data) < self.nbytes:
            raise Truncated(
                f"an array of {self.nbytes} bytes, of which {len(data)} are left",
                needed_bytes=self.offset + self.nbytes,
                offset=self.offset,
                field="array",
            )
        return self._decode(data[: self.nbytes], self.count, errors)

    def detached(self) -> "Array":
        """Copy to an array that no longer refers to the parsed buffer.

        Up to 1024 elements in 64 KiB are kept whole, else the first 8, as far as they fit in 64 KiB.
        """
        if isinstance(self._data, bytes):
            return self
        held, kept = self.count, self.nbytes
        if self.count > KEPT_ELEMENTS or self.nbytes > KEPT_BYTES:
            held, kept = self._first(HEAD_ELEMENTS, KEPT_BYTES)
        return replace(self, _data=bytes(self._data[:kept]), _held=held)

    def _first(self, elements: int, nbytes: int) -> tuple[int, int]:
        """Count the elements, and their bytes, that fit in both limits, from the first on."""
        wanted = min(elements, self.count)
        if self.type is not ValueType.STRING:
            return wanted, wanted * SCALAR_LAYOUTS[self.type].size
        ends = [end for _, end in self._spans(self._data, wanted) if end <= nbytes]
        return len(ends), ends[-1] if ends else 0

    def _decode(self, data: bytes | memoryview, count: int, errors: str = "replace") -> list[Scalar]:
        if self.type is ValueType.STRING:
            return [str(data[start:end], "utf-8", errors) for start, end in self._spans(data, count)]
        if self.type is ValueType.BOOL:
            truths: list[Scalar] = (np.frombuffer(data, np.uint8, count) != 0).tolist()
            return truths
        numbers: list[Scalar] = np.frombuffer(data, SCALAR_LAYOUTS[self.type].format, count).tolist()
        return numbers

    def _spans(self, data: bytes | memoryview, count: int) -> Iterator[tuple[int, int]]:
        """Where each string's bytes start and end, every length checked again: mapped files change."""
        end, size, length_at = 0, len(data), U64.unpack_from
        for index in range(count):
            start = end + 8
            end = start + (length_at(data, end)[0] if start <= size else 0)
            if end > size:
                raise Malformed(
                    f"string {index} of {count} ends at byte {end} of {size}: the file has changed",
                    offset=self.offset + start - 8,
                    field=f"array[{index}].length",
                )
            yield start, end
