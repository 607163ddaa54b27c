"""The port: what a place for bytes can do. All sizes and offsets are in bytes.

A *buffer* is one allocation (residency keeps one slab in each). Bytes enter a buffer from a file only, by
`Device.copy`, and leave it by `Buffer.read`; a buffer's bytes never change once its copies are done.
Every method may block and may be called from any thread; none may be called on the event loop.

A device can be lost, and is so for good. From then on its `loss` says why; `allocate`, `copy` and `read` raise
DeviceLost and leave nothing behind, `memory` knows neither what is free nor what is others', and `release` and `close`
give back what there is to give back and do not raise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from app.devices.loss import Loss
from app.errors import Cancelled


class DeviceKind(StrEnum):
    """What a device is made of."""

    HOST = "host"
    CUDA = "cuda"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What the driver reports, in bytes, other processes included; None where it does not say.

    `others_bytes` is what is taken, but not by this device's own buffers: the memory of other processes, and what the
    driver itself needs for this one. `total - free - others` is what the device's buffers take.
    """

    total_bytes: int | None
    free_bytes: int | None
    others_bytes: int | None


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of bytes to copy: `nbytes` at `file_offset` of the file go to `buffer_offset` of the buffer."""

    file_offset: int
    buffer_offset: int
    nbytes: int


class Meter:
    """How far a copy is, and whether it is still wanted.

    `bytes_done` only grows. One thread adds (`+=` is not atomic, so every copying thread has a meter of its own);
    anyone may read it or cancel.
    """

    __slots__ = ("_cancelled", "bytes_done")

    def __init__(self) -> None:
        self.bytes_done = 0
        self._cancelled = False

    def add(self, nbytes: int) -> None:
        """Count bytes that the device has acknowledged; raises Cancelled once `cancel` was called."""
        self.bytes_done += nbytes
        self.check()

    def cancel(self) -> None:
        """Ask the copy to stop at its next `add` or `check`."""
        self._cancelled = True

    def check(self) -> None:
        """Raise Cancelled if the copy is no longer wanted."""
        if self._cancelled:
            raise Cancelled("the copy was cancelled")


class Buffer(Protocol):
    """One allocation on a device."""

    @property
    def nbytes(self) -> int:
        """The size that was asked for."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """Copy `nbytes` from `offset` back to the host, from the device and nowhere else.

        Raises ValueError outside the buffer or after `release`, DeviceLost.
        """

    def release(self) -> None:
        """Give the memory back before returning. Idempotent; afterwards `read` raises."""


class Device(Protocol):
    """A place with a capacity."""

    @property
    def id(self) -> str:
        """`cpu`, `cuda:0`, `sim:1`."""

    @property
    def kind(self) -> DeviceKind:
        """What it is made of."""

    @property
    def name(self) -> str:
        """The product's name, for people."""

    @property
    def uuid(self) -> str | None:
        """The driver's name for the physical device, where it has one."""

    @property
    def capabilities(self) -> dict[str, bool | int | str | None]:
        """Facts for people, known at start and constant: compute capability, simulated bandwidth and the like."""

    @property
    def staging_bytes(self) -> int:
        """Host memory that the device itself pins now, for bytes on their way to it; 0 where they need none.

        The one thing here that never blocks, beside the facts that are constant.
        """

    @property
    def loss(self) -> Loss:
        """Whether the device is lost, and why."""

    def memory(self) -> DeviceMemory:
        """What the driver says now."""

    def allocate(self, nbytes: int) -> Buffer:
        """One allocation of exactly `nbytes` (> 0), all zero. Raises OutOfDeviceMemory or DeviceLost.

        Nothing is left behind then.
        """

    def copy(self, fd: int, segments: Sequence[Segment], buffer: Buffer, meter: Meter) -> None:
        """Read the segments from the open file `fd` (pread, never its file position) and copy them into `buffer`.

        Several threads may copy at once, also into one buffer; not into the same bytes of it.

        Returns when the device has acknowledged every byte; `meter.add` has then been called for each byte once,
        at least every 8 MiB. Raises TransferFailed (also where the file is shorter than a segment says), Cancelled
        (from the meter), DeviceLost or ValueError (a segment outside the buffer); the buffer's contents are then
        undefined and nothing is in flight any more.
        """

    def close(self) -> None:
        """Give back everything the device itself holds (staging, streams). Idempotent; buffers are released first."""
