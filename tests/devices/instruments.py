"""What device tests share beside the contract: a file to copy from, meters that remember, a look at the process."""

import threading
from dataclasses import dataclass
from pathlib import Path

from app.devices import Buffer, DeviceMemory, Meter

SOURCE_BYTES = (18 << 20) + 4321  # more than two of the largest pieces, and no multiple of anything


@dataclass(frozen=True, slots=True)
class Source:
    """An open file and what is in it."""

    fd: int
    data: bytes


def own_bytes(memory: DeviceMemory) -> int | None:
    """What is neither free nor others'; None where the device does not say."""
    if memory.total_bytes is None or memory.free_bytes is None or memory.others_bytes is None:
        return None
    return memory.total_bytes - memory.free_bytes - memory.others_bytes


class RecordingMeter(Meter):
    """A meter that remembers what was added, and cancels itself once `until` bytes are done."""

    __slots__ = ("added", "until")

    def __init__(self, until: int | None = None) -> None:
        super().__init__()
        self.added: list[int] = []
        self.until = until

    def add(self, nbytes: int) -> None:
        """Count, and cancel when it is time."""
        self.added.append(nbytes)
        if self.until is not None and self.bytes_done + nbytes >= self.until:
            self.cancel()
        super().add(nbytes)


class Stranger:
    """A buffer of no device at all."""

    nbytes = 16

    def read(self, offset: int, nbytes: int) -> bytes:
        """Zeros."""
        return bytes(nbytes - offset)

    def release(self) -> None:
        """Nothing."""


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def read_until_refused(buffer: Buffer, started: threading.Barrier) -> list[bytes]:
    """What the buffer had, read by read, until it was released."""
    started.wait()
    seen: list[bytes] = []
    try:
        while True:
            seen.append(buffer.read(0, buffer.nbytes))
    except ValueError:
        return seen
