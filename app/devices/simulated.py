"""A device without the hardware: a capacity, perhaps a bandwidth, and faults to order. Sizes are in bytes.

Its memory is real: each buffer is a memory file whose pages exist from the start; other processes can map it.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from app.devices.base import Buffer, DeviceKind, DeviceMemory, Meter, Segment
from app.devices.file_copy import PIECE_BYTES, FileCopy, check_range, check_segments, pieces
from app.devices.host import host_allocation
from app.devices.lifetime import Lifetime
from app.devices.loss import Loss
from app.errors import DeviceLost, OutOfDeviceMemory

SLICES_PER_SECOND: Final = 20  # how often a slow copy looks up, to count and to hear of a cancel
CREDIT_SECONDS: Final = 0.005  # of idleness that may be made up for: what a sleep oversleeps is not lost
READ_BYTES: Final = 1 << 30  # at once; Linux reads no more than 2 GiB


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, once each: the nth call counted from process start, or None for never."""

    oom: int | None = None  # the nth allocation fails
    failcopy: int | None = None  # the nth copy fails half-way
    flip: int | None = None  # the nth copy arrives with one bit flipped
    lose: int | None = None  # the nth copy loses the device half-way


class TokenClock:
    """When bytes that share a link will have passed it. The caller brings the time, in seconds, and waits."""

    def __init__(self, bytes_per_second: int) -> None:
        self.bytes_per_second = bytes_per_second
        self._free_at = float("-inf")
        self._lock = threading.Lock()

    def reserve(self, nbytes: int, now: float) -> float:
        """Queue `nbytes` behind all that came before; returns when the last of them will have passed."""
        with self._lock:
            start = max(self._free_at, now - CREDIT_SECONDS)
            self._free_at = start + nbytes / self.bytes_per_second
            return self._free_at


class SimulatedBuffer:
    """A memory file that cannot change its size."""

    def __init__(
        self, device_id: str, nbytes: int, require_device: Callable[[], None], on_release: Callable[[], None]
    ) -> None:
        self.device_id = device_id
        self.nbytes = nbytes
        self._require_device = require_device
        self._on_release = on_release
        self._fd = os.memfd_create("loadmaster", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self._fd, 0, nbytes)  # a full host says so now, and not in the middle of a copy
            # Whoever maps the memory must not be able to cut it off under us.
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except BaseException:
            os.close(self._fd)
            raise
        self._lifetime = Lifetime("the buffer", self._free)

    def fileno(self) -> int:
        """Return the memory file's descriptor, the buffer's own: valid until `release`."""
        with self._lifetime:
            return self._fd

    def read(self, offset: int, nbytes: int) -> bytes:
        """Copy out `nbytes` from `offset`. ValueError outside the buffer or after `release`, DeviceLost."""
        check_range(offset, nbytes, self.nbytes)
        end = offset + nbytes
        with self._lifetime:
            self._require_device()
            starts = range(offset, end, READ_BYTES)
            return b"".join(os.pread(self._fd, min(READ_BYTES, end - start), start) for start in starts)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the memory file, with a position of its own, to be written; `release` waits until the block ends."""
        with self._lifetime:
            target = os.open(f"/proc/self/fd/{self._fd}", os.O_RDWR | os.O_CLOEXEC)
            try:
                yield target
            finally:
                os.close(target)

    def release(self) -> None:
        """Give the pages back. Idempotent; waits for reads and copies."""
        self._lifetime.end()

    def _free(self) -> None:
        os.close(self._fd)
        self._on_release()


class SimulatedDevice:
    """A device of `capacity_bytes`, whose copies share `bytes_per_second` if given, and which fails to order.

    Somebody else holds `others_bytes` of it; whoever plays that part may change the number at any time. Whoever breaks
    it says how in `broken`: it is lost from its next call on, and nobody hears of it before.
    """

    kind: Final = DeviceKind.SIMULATED
    name: Final = "Simulated device"
    uuid: Final = None
    staging_bytes: int = 0

    def __init__(
        self,
        device_id: str,
        capacity_bytes: int,
        *,
        bytes_per_second: int | None = None,
        faults: Faults | None = None,
        others_bytes: int = 0,
    ) -> None:
        self.id = device_id
        self.capacity_bytes = capacity_bytes
        self.others_bytes = others_bytes
        self.broken: str | None = None
        self.loss = Loss(device_id)
        self._faults = faults or Faults()
        self._clock = TokenClock(bytes_per_second) if bytes_per_second else None
        self.capabilities: dict[str, bool | int | str | None] = {
            "bytes_per_second": bytes_per_second,
            "oom": self._faults.oom,
            "failcopy": self._faults.failcopy,
            "flip": self._faults.flip,
            "lose": self._faults.lose,
        }
        self._lock = threading.Lock()  # guards the three counts
        self._live_bytes = 0
        self._allocations = 0
        self._copies = 0

    def memory(self) -> DeviceMemory:
        """Return the capacity, what of it is in no buffer and not others', and what is others'."""
        try:
            self._require_unbroken()
        except DeviceLost:
            return DeviceMemory(self.capacity_bytes, None, None)
        return DeviceMemory(self.capacity_bytes, self._free_bytes, self.others_bytes)

    def allocate(self, nbytes: int) -> SimulatedBuffer:
        """Make a buffer of zeros whose pages exist. Raises OutOfDeviceMemory: device full, host full, ordered.

        Or DeviceLost.
        """
        if nbytes <= 0:
            raise ValueError(f"a buffer of {nbytes} bytes cannot be")
        self._require_unbroken()
        with self._lock:
            self._allocations += 1
            free = self._free_bytes
            if nbytes > free or self._allocations == self._faults.oom:
                raise OutOfDeviceMemory(device=self.id, requested_bytes=nbytes, free_bytes=free)
            self._live_bytes += nbytes
        try:
            with host_allocation(self.id, nbytes):
                return SimulatedBuffer(self.id, nbytes, self._require_unbroken, partial(self._give_back, nbytes))
        except BaseException:
            self._give_back(nbytes)
            raise

    def copy(self, fd: int, segments: Sequence[Segment], buffer: Buffer, meter: Meter) -> None:
        """Read the segments straight into the buffer. Raises TransferFailed, Cancelled, DeviceLost, ValueError."""
        with self._lock:
            self._copies += 1
            number = self._copies
        if not isinstance(buffer, SimulatedBuffer) or buffer.device_id != self.id:
            raise ValueError(f"not a buffer of {self.id}")
        check_segments(segments, buffer.nbytes)
        work = FileCopy(self.id, fd, segments, meter)
        with buffer.opened() as target:
            half = first_bytes(segments, work.requested_bytes // 2)
            if number == self._faults.lose:
                self._transfer(work, half, target, meter)
                self.broken = f"copy {number} loses it half-way, as ordered"
            if number == self._faults.failcopy:
                self._transfer(work, half, target, meter)
                raise work.failed(f"copy {number} fails half-way, as ordered")
            self._transfer(work, segments, target, meter)
            if number == self._faults.flip and work.requested_bytes:
                first = next(segment for segment in segments if segment.nbytes)
                flip_bit(target, first.buffer_offset + first.nbytes // 2)

    def close(self) -> None:
        """Nothing is held beside the buffers."""

    def _transfer(self, work: FileCopy, segments: Sequence[Segment], target: int, meter: Meter) -> None:
        """Fill the memory, no faster than the link."""
        for piece in pieces(segments, self._piece_bytes):
            self._require_unbroken()
            # Reserved before the read, so that reading counts towards the time that the bytes take.
            due = self._clock.reserve(piece.nbytes, time.monotonic()) if self._clock else None
            os.lseek(target, piece.buffer_offset, os.SEEK_SET)
            work.send(target, piece)
            if due is not None:
                wait_until(due, meter)
            work.acknowledge(piece.nbytes)
        self._require_unbroken()

    def _require_unbroken(self) -> None:
        if self.broken is not None:
            raise self.loss.found(self.broken)

    @property
    def _free_bytes(self) -> int:
        return max(0, self.capacity_bytes - self.others_bytes - self._live_bytes)

    @property
    def _piece_bytes(self) -> int:
        if self._clock is None:
            return PIECE_BYTES
        return max(1, min(PIECE_BYTES, self._clock.bytes_per_second // SLICES_PER_SECOND))

    def _give_back(self, nbytes: int) -> None:
        with self._lock:
            self._live_bytes -= nbytes


def first_bytes(segments: Sequence[Segment], nbytes: int) -> list[Segment]:
    """Return the segments as far as their first `nbytes`."""
    kept = []
    for segment in segments:
        taken = min(segment.nbytes, nbytes)
        kept.append(Segment(segment.file_offset, segment.buffer_offset, taken))
        nbytes -= taken
    return kept


def flip_bit(target: int, offset: int) -> None:
    """Turn over the lowest bit of a byte of an open file."""
    (byte,) = os.pread(target, 1, offset)
    os.pwrite(target, bytes([byte ^ 1]), offset)


def wait_until(due: float, meter: Meter) -> None:
    """Sleep until the monotonic clock shows `due`, but hear of a cancel on the way."""
    while (left := due - time.monotonic()) > 0:
        meter.check()
        time.sleep(min(left, 1 / SLICES_PER_SECOND))
