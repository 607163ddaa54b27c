"""Host memory: true copies in it, and the page cache of files that are only mapped. Sizes are in bytes."""

import errno
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import psutil

from app.devices.base import Buffer, DeviceKind, DeviceMemory, Meter, Segment
from app.devices.file_copy import PIECE_BYTES, FileCopy, check_range, check_segments, pieces
from app.devices.lifetime import Lifetime
from app.devices.loss import Loss
from app.devices.mapping import PAGE, Mapping
from app.devices.page_cache import counted_bytes, may_ask_mincore, sampled_resident_bytes
from app.errors import DeviceError, HostError, OutOfDeviceMemory

PREFETCH_BYTES: Final = 16 << 20  # at once, while `close` waits
NO_MEMORY: Final = {errno.ENOMEM, errno.ENOSPC, errno.EFAULT}

Run = tuple[int, int]  # start and end of locked pages


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The host's memory, and what this process has of it."""

    total_bytes: int
    available_bytes: int
    process_rss_bytes: int


def host_memory() -> HostMemory:
    """Ask the kernel; `available` counts the page cache that it would give up. HostError where it does not answer."""
    try:
        memory = psutil.virtual_memory()
        return HostMemory(memory.total, memory.available, psutil.Process().memory_info().rss)
    except (OSError, psutil.Error) as error:
        raise HostError(f"the kernel does not say what memory there is: {error}") from error


@contextmanager
def host_allocation(device: str, nbytes: int) -> Iterator[None]:
    """Allocate host memory inside: refuses what the host does not have, and names what the kernel refuses.

    Asking first matters: where no limit is in the way the kernel grants everything, and kills somebody later.
    Raises OutOfDeviceMemory, or DeviceError where it was not for want of memory.
    """
    available: int | None = None
    try:
        available = psutil.virtual_memory().available
        if nbytes > available:
            raise OutOfDeviceMemory(device=device, requested_bytes=nbytes, free_bytes=available)
        yield
    except OSError as error:
        if error.errno in NO_MEMORY:
            raise OutOfDeviceMemory(device=device, requested_bytes=nbytes, free_bytes=available) from error
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        reason = f"allocating {nbytes} bytes: {error.strerror} (RLIMIT_NOFILE is {files})"
        raise DeviceError(f"{device}: {reason}", device=device, requested_bytes=nbytes) from error


class HostBuffer:
    """Anonymous memory of this process."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._mapping = Mapping.anonymous(nbytes)
        self._lifetime = Lifetime("the buffer", self._mapping.close)

    def read(self, offset: int, nbytes: int) -> bytes:
        """Copy out `nbytes` from `offset`. ValueError outside the buffer or after `release`."""
        check_range(offset, nbytes, self.nbytes)
        with self._lifetime:
            return self._mapping.read(offset, nbytes)

    @contextmanager
    def writable(self) -> Iterator[memoryview]:
        """Lend the memory itself, no copy; `release` waits until the block ends."""
        with self._lifetime, self._mapping.view() as view:
            yield view

    def populate(self) -> None:
        """Make every page exist."""
        with self._lifetime:
            self._mapping.populate()

    def release(self) -> None:
        """Unmap. Idempotent; waits for reads and copies."""
        self._lifetime.end()


class HostDevice:
    """The CPU's own memory, for weights that shall not depend on a file system (`host: "buffered"`)."""

    id: Final = "cpu"
    kind: Final = DeviceKind.HOST
    name: Final = "Host memory"
    uuid: Final = None
    staging_bytes: Final = 0

    def __init__(self) -> None:
        self.capabilities: dict[str, bool | int | str | None] = {"page_bytes": PAGE}
        self.loss = Loss(self.id)  # which nobody would live to find

    def memory(self) -> DeviceMemory:
        """Ask the kernel for total and available memory; it does not say what others could not do without."""
        memory = psutil.virtual_memory()
        return DeviceMemory(memory.total, memory.available, None)

    def allocate(self, nbytes: int) -> HostBuffer:
        """Map zeroed pages, all of which exist. Raises OutOfDeviceMemory."""
        if nbytes <= 0:
            raise ValueError(f"a buffer of {nbytes} bytes cannot be")
        with host_allocation(self.id, nbytes):
            buffer = HostBuffer(nbytes)
            try:
                buffer.populate()
            except BaseException:
                buffer.release()
                raise
        return buffer

    def copy(self, fd: int, segments: Sequence[Segment], buffer: Buffer, meter: Meter) -> None:
        """Read the segments straight into the buffer. Raises TransferFailed, Cancelled, ValueError."""
        if not isinstance(buffer, HostBuffer):
            raise ValueError(f"not a buffer of {self.id}")  # noqa: TRY004 - the port's word for a wrong buffer
        check_segments(segments, buffer.nbytes)
        work = FileCopy(self.id, fd, segments, meter)
        with buffer.writable() as memory:
            for piece in pieces(segments, PIECE_BYTES):
                with memory[piece.buffer_offset : piece.buffer_offset + piece.nbytes] as target:
                    work.fill(target, piece.file_offset)
                work.acknowledge(piece.nbytes)

    def close(self) -> None:
        """Nothing is held beside the buffers."""


class MappedFile:
    """A file's pages in this address space, for sharing, locking and counting them; never dereferenced here.

    A read of the mapping would be a SIGBUS once somebody truncates the file: bytes are read by pread only.
    The descriptor stays the caller's, and open until `close`. Thread-safe.
    """

    def __init__(self, fd: int, nbytes: int) -> None:
        try:
            self._mapping = Mapping.read_only(fd, nbytes)
        except OSError as error:
            raise HostError(f"mapping {nbytes} bytes: {error.strerror}", requested_bytes=nbytes) from error
        self.nbytes = nbytes
        self._fd = fd
        self._locked: tuple[Run, ...] = ()
        self._locking = threading.Lock()
        self._lifetime = Lifetime("the mapping", self._unmap)

    @property
    def locked_bytes(self) -> int:
        """What `lock` holds in memory, in whole pages, each counted once."""
        return sum(end - start for start, end in self._locked)

    def resident_bytes(self) -> int | None:
        """How much of the file is in the page cache; None where the kernel does not say, and after `close`.

        Since Linux 5.2 mincore tells everybody who could not write the file that all of it is resident; such
        a file is sampled instead, where cachestat does not count it.
        """
        try:
            with self._lifetime:
                if (counted := counted_bytes(self._fd, self.nbytes)) is not None:
                    return counted
                if may_ask_mincore(self._fd):
                    return self._mapping.resident_bytes()
                return sampled_resident_bytes(self._fd, self.nbytes)
        except (OSError, ValueError):
            return None

    def lock(self, offset: int, nbytes: int) -> None:
        """Read these bytes' pages in and keep them there: as slow as the disk, and not to be interrupted.

        Raises HostError where it is refused, mostly for RLIMIT_MEMLOCK; what was locked before stays so.
        """
        check_range(offset, nbytes, self.nbytes)
        if not nbytes:
            return
        start, end = pages_of(offset, nbytes)
        with self._lifetime, self._locking:
            try:
                self._mapping.lock(start, end - start)
            except OSError as error:
                self._take_back(start, end)
                raise self._lock_refused(nbytes, error) from error
            self._locked = with_run(self._locked, start, end)

    def keep_locked(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Unlock all pages but those of these (offset, nbytes) ranges."""
        kept: tuple[Run, ...] = ()
        for offset, nbytes in ranges:
            check_range(offset, nbytes, self.nbytes)
            kept = with_run(kept, *pages_of(offset, nbytes)) if nbytes else kept
        with self._lifetime, self._locking:
            for start, end in without_runs(self._locked, kept):
                self._mapping.unlock(start, end - start)
            self._locked = without_runs(self._locked, without_runs(self._locked, kept))

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Read these bytes' pages into the page cache: as slow as the disk. OSError where it fails.

        By faults, as MAP_POPULATE does, for these drive the kernel's sequential readahead with large folios; advice
        (WILLNEED) reads single pages, which took twice as long, and whoever copied them later slower still. Mapped
        for a moment only, so that they do not count as this process's. ValueError once it is closed.
        """
        check_range(offset, nbytes, self.nbytes)
        start, end = pages_of(offset, nbytes)
        for position in range(start, min(end, self.nbytes), PREFETCH_BYTES):
            length = min(PREFETCH_BYTES, end - position, self.nbytes - position)
            with self._lifetime:
                part = Mapping.read_only(self._fd, length, position)
                try:
                    if not part.read_in():
                        os.posix_fadvise(self._fd, position, length, os.POSIX_FADV_WILLNEED)
                finally:
                    part.close()

    def close(self) -> None:
        """Unmap and unlock. Idempotent."""
        self._lifetime.end()

    def _unmap(self) -> None:
        self._mapping.close()
        self._locked = ()

    def _take_back(self, start: int, end: int) -> None:
        """Undo a failed mlock, which may have marked pages, and renew what was locked before."""
        with suppress(OSError):
            self._mapping.unlock(start, end - start)
            for first, last in self._locked:
                self._mapping.lock(first, last - first)

    def _lock_refused(self, nbytes: int, error: OSError) -> HostError:
        limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        shown = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit} bytes for this process"
        return HostError(
            f"locking {nbytes} bytes in memory was refused ({error.strerror}): RLIMIT_MEMLOCK is {shown}, "
            f"and {self.locked_bytes} bytes of this file are locked (Docker: --ulimit memlock=-1)",
            requested_bytes=nbytes,
            locked_bytes=self.locked_bytes,
            limit_bytes=None if limit == resource.RLIM_INFINITY else limit,
        )


def pages_of(offset: int, nbytes: int) -> Run:
    """Return the run of whole pages that hold these bytes."""
    return offset // PAGE * PAGE, -(-(offset + nbytes) // PAGE) * PAGE


def without_runs(runs: Sequence[Run], others: Sequence[Run]) -> tuple[Run, ...]:
    """Return what is in `runs` and in none of `others`; both are in order and apart."""
    left: list[Run] = []
    for run_start, end in runs:
        start = run_start
        for first, last in others:
            if start < first < end:
                left.append((start, first))
            if first < end:
                start = max(start, min(last, end))
        if start < end:
            left.append((start, end))
    return tuple(left)


def with_run(runs: tuple[Run, ...], start: int, end: int) -> tuple[Run, ...]:
    """Return the runs and this one, those that touch it merged into it, in order."""
    apart = [run for run in runs if run[1] < start or run[0] > end]
    touching = [run for run in runs if run not in apart]
    merged = (min([start, *(run[0] for run in touching)]), max([end, *(run[1] for run in touching)]))
    return tuple(sorted([*apart, merged]))
