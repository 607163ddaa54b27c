"""How many readers, and how large their slots: our own pipeline out of the page cache, and what Python costs in it.

A thread counts the processor's time that it needs; all of it but for what the kernel copies into the slot is Python's,
and an upper bound of how long it holds the interpreter's lock.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from app.devices import Meter, Segment
from app.devices.file_copy import FileCopy

if TYPE_CHECKING:
    from benchmarks.gpu_probe import Probe

MIB: Final = 1 << 20
READERS: Final = (1, 2, 3, 4, 6, 8)
SLOT_MIB: Final = (2, 4, 8, 16)
PORTION: Final = 64 * MIB  # as residency cuts them
ROUNDS: Final = 3


class TimedCopy(FileCopy):
    """A copy that knows how long its thread was in the kernel to fill slots, in seconds of the processor's."""

    filled_seconds = 0.0

    def fill(self, target: memoryview, file_offset: int) -> None:
        """Fill, and count that time."""
        began = time.thread_time()
        super().fill(target, file_offset)
        self.filled_seconds += time.thread_time() - began


def probe_sweep(probe: "Probe", fd: int) -> None:
    """One line for each number of readers; in it each size of slots."""
    buffer = probe.device.allocate(probe.nbytes)
    sizes, best = "/".join(map(str, SLOT_MIB)), 0.0
    try:
        with buffer.pointer() as pointer:
            for readers in READERS:
                answers = []
                for size in SLOT_MIB:
                    wall, python = fastest(probe, fd, pointer, readers, size * MIB)
                    best = max(best, probe.nbytes / wall)
                    answers.append(f"{probe.nbytes / wall / 1e9:.1f} ({python / wall:.0%})")
                question = f"{readers} readers, slots of {sizes} MiB, GB/s (Python's share of a core)"
                probe.say(question, ", ".join(answers))
    finally:
        buffer.release()
    probe.say("the best of these, as a share of pinned memory to the device", f"{best / probe.peak:.0%}")


def fastest(probe: "Probe", fd: int, pointer: int, readers: int, slot_bytes: int) -> tuple[float, float]:
    """The best of a few rounds: seconds by the clock, and those that Python needed, all readers together."""
    with rings(probe, readers, slot_bytes) as made:
        return min(copied(probe, fd, pointer, made) for _ in range(ROUNDS))


@contextmanager
def rings(probe: "Probe", readers: int, slot_bytes: int) -> Iterator[list[Any]]:
    """A ring for each reader."""
    from app.devices.cuda import StagingRing  # noqa: PLC0415 - the probe starts without CuPy, to say that there is none

    probe.use()
    made = list[Any]()
    try:
        for _ in range(readers):
            made.append(StagingRing(slot_bytes))
        yield made
    finally:
        for ring in made:
            ring.close()


def copied(probe: "Probe", fd: int, pointer: int, made: list[Any]) -> tuple[float, float]:
    """Copy the file once, a reader for each ring: seconds by the clock, and those of Python."""
    waiting = deque(range(0, probe.nbytes, PORTION))

    def read(ring: Any) -> float:
        probe.use()
        began, filled = time.thread_time(), 0.0
        with suppress(IndexError):
            while True:
                start = waiting.popleft()
                segment = Segment(start, start, min(PORTION, probe.nbytes - start))
                work = TimedCopy(probe.device.id, fd, [segment], Meter())
                ring.transfer(work, [segment], pointer)
                filled += work.filled_seconds
        return time.thread_time() - began - filled

    with ThreadPoolExecutor(len(made)) as pool:
        began = time.perf_counter()
        python = sum(pool.map(read, made))
        return time.perf_counter() - began, python
