"""The half of a copy that is the same for every device: out of the file, into memory of this process."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from app.devices.base import Meter, Segment
from app.errors import TransferFailed

PIECE_BYTES: Final = 8 << 20  # 8 MiB: read at once; the port promises progress at least as often


class FileCopy:
    """One call of `Device.copy`: reads the file, and knows how much has arrived if it must be given up."""

    def __init__(self, device: str, fd: int, segments: Sequence[Segment], meter: Meter) -> None:
        self.device = device
        self.requested_bytes = sum(segment.nbytes for segment in segments)
        self.done_bytes = 0
        self._fd = fd
        self._meter = meter

    def fill(self, target: memoryview, file_offset: int) -> None:
        """Read from `file_offset` until `target` is full: one copy, by the kernel, without the GIL.

        Raises TransferFailed where the file ends too early or cannot be read, Cancelled from the meter.
        """
        self._meter.check()
        filled = 0
        while filled < len(target):
            with target[filled:] as rest:
                filled += self._read(file_offset + filled, partial(os.preadv, self._fd, [rest], file_offset + filled))

    def send(self, target: int, piece: Segment) -> None:
        """Send a piece on to the open file `target`, at its position: as `fill`, but no page is touched before.

        A page that is written whole by the kernel need not be zeroed first, as one that is mapped must be.
        """
        self._meter.check()
        offset, end = piece.file_offset, piece.file_offset + piece.nbytes
        while offset < end:
            offset += self._read(offset, partial(os.sendfile, target, self._fd, offset, end - offset))

    def _read(self, offset: int, read: Callable[[], int]) -> int:
        try:
            nbytes = read()
        except OSError as error:
            raise self.failed(f"reading the file at byte {offset}: {error.strerror}") from error
        if not nbytes:
            size = os.fstat(self._fd).st_size
            raise self.failed(f"the file has {size} bytes and byte {offset} was wanted")
        return nbytes

    def acknowledge(self, nbytes: int) -> None:
        """Count bytes that the device has; raises Cancelled where the rest is not wanted."""
        self.done_bytes += nbytes
        self._meter.add(nbytes)

    def failed(self, reason: str) -> TransferFailed:
        """Make the error for this copy, with its numbers."""
        return TransferFailed(
            f"{self.device}: {reason}; {self.done_bytes} of {self.requested_bytes} bytes were copied",
            device=self.device,
            done_bytes=self.done_bytes,
            requested_bytes=self.requested_bytes,
        )


def pieces(segments: Sequence[Segment], nbytes: int) -> Iterator[Segment]:
    """Cut the segments, in order, into segments of at most `nbytes`; empty ones vanish."""
    for segment in segments:
        for start in range(0, segment.nbytes, nbytes):
            yield Segment(
                segment.file_offset + start,
                segment.buffer_offset + start,
                min(nbytes, segment.nbytes - start),
            )


def check_range(offset: int, nbytes: int, size: int) -> None:
    """Raise ValueError unless `nbytes` from `offset` lie within `size`."""
    if offset < 0 or nbytes < 0 or offset + nbytes > size:
        raise ValueError(f"{nbytes} bytes from byte {offset} do not lie within {size} bytes")


def check_segments(segments: Sequence[Segment], size: int) -> None:
    """Raise ValueError unless every segment ends up within a buffer of `size`."""
    for segment in segments:
        check_range(segment.buffer_offset, segment.nbytes, size)
        if segment.file_offset < 0:
            raise ValueError(f"byte {segment.file_offset} is before the start of the file")
