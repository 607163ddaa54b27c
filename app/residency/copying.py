"""Copying: the bytes of slabs cut into portions, and the readers that take one portion after the other.

A device is fed by several readers at once, for one thread that copies out of the page cache is slower than memory and
than any bus. Portions are taken in the order of the file, which is what the kernel's readahead is best at: to ask for
more ahead of it (WILLNEED) made cold files slower.

What is copied stays in the page cache, for the next load or to come back to the host, but for files that are larger
than all of it may be: they would push out everything else, and their own beginnings before their ends are read.

All sizes and offsets are in bytes.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from app.devices import Device, Meter, Segment
from app.devices.mapping import PAGE
from app.errors import TransferFailed
from app.residency.files import OpenFiles
from app.residency.residents import LiveSlab

log = logging.getLogger(__name__)

READERS: Final = max(1, len(os.sched_getaffinity(0)) - 1)
"""For all devices of a job together, one for each at least: a core is left to those who ask."""

PORTION_BYTES: Final = 64 << 20
"""At most; small enough that the last reader of a load is never alone for long."""

NICENESS: Final = 5
"""Of threads that copy, beside the process's own: where both want a core, who asks gets three times as much of it."""


def step_aside() -> None:
    """Have the calling thread give way to those that answer: Linux keeps a niceness for each thread.

    A copy is as fast as before wherever a core is idle otherwise. Does not raise: a pool whose threads fail to begin
    is broken for good, and a sandbox may well forbid this.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
    except OSError as error:
        log.info("a thread that copies keeps the priority of those that answer: %s", error.strerror)


@dataclass(frozen=True, slots=True)
class Portion:
    """What one reader copies in one go: some of one slab's bytes, out of one file, in the order of the slab."""

    live: LiveSlab
    file: int
    segments: tuple[Segment, ...]

    @property
    def nbytes(self) -> int:
        """Tensor bytes."""
        return sum(segment.nbytes for segment in self.segments)


def portions(slabs: Iterable[LiveSlab]) -> Iterator[Portion]:
    """All tensor bytes of the slabs, each once, in portions of at most PORTION_BYTES."""
    for live in slabs:
        by_file: dict[int, list[Segment]] = {}
        for part in live.slab.slices:
            segments = by_file.setdefault(part.tensor.file, [])
            segments += _cut(Segment(part.tensor.offset + part.start, part.slab_offset, part.nbytes))
        for file, segments in by_file.items():
            for group in _grouped(segments):
                yield Portion(live, file, group)


def copy_portions(device: Device, files: OpenFiles, waiting: deque[Portion], meter: Meter, *, in_passing: bool) -> None:
    """Be a reader: take portions until none is waiting, and check that the device acknowledges each byte. Blocks.

    `in_passing` has the page cache forget each portion once it is copied.
    """
    while True:
        try:
            portion = waiting.popleft()
        except IndexError:
            return
        meter.check()
        before = meter.bytes_done
        with files.in_order(portion.file) as fd:
            device.copy(fd, portion.segments, portion.live.buffer, meter)
            if in_passing:
                _forget(fd, portion.segments)
        done = meter.bytes_done - before
        if done != portion.nbytes:
            raise TransferFailed(
                f"{device.id}: {done} of {portion.nbytes} bytes of layer {portion.live.slab.layer} arrived",
                device=device.id,
                done_bytes=done,
                requested_bytes=portion.nbytes,
            )


def _forget(fd: int, segments: Sequence[Segment]) -> None:
    """Each run of segments at once: a page, or a large folio, that two of them share is forgotten only as a whole."""
    start = end = segments[0].file_offset
    for segment in segments:
        if not 0 <= segment.file_offset - end < PAGE:
            os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)
            start = segment.file_offset
        end = segment.file_offset + segment.nbytes
    os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)


def _cut(segment: Segment) -> Iterator[Segment]:
    for start in range(0, segment.nbytes, PORTION_BYTES):
        nbytes = min(PORTION_BYTES, segment.nbytes - start)
        yield Segment(segment.file_offset + start, segment.buffer_offset + start, nbytes)


def _grouped(segments: Iterable[Segment]) -> Iterator[tuple[Segment, ...]]:
    group: list[Segment] = []
    nbytes = 0
    for segment in segments:
        if group and nbytes + segment.nbytes > PORTION_BYTES:
            yield tuple(group)
            group, nbytes = [], 0
        group.append(segment)
        nbytes += segment.nbytes
    if group:
        yield tuple(group)
