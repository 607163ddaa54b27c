"""What a machine can do with the bytes of a file, by the shortest way there is: the ceilings of our own loads.

Every buffer here begins at a page: on AMD's Zen 3 the kernel copies seven times slower to where an address lies 16
bytes further in its page than the source does in its own, and that is where a bytearray of some size begins.
"""

import itertools
import mmap
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Self

from app.devices.host import MappedFile
from app.devices.mapping import Mapping

PIECE_BYTES = 8 << 20
GPU_BYTES = 256 << 20
HOST_REGISTER_PORTABLE = 1  # of the CUDA runtime; CuPy has no name for it
COLD_SHARE = 0.01
"""What may be left of a cold file in the page cache."""
WARM_SHARE = 0.99
"""What is enough of a warm file: a kernel that reclaims memory before it is short (DAMON) takes pages at any time."""
COOLING_SECONDS = 5.0


class Source:
    """A file, open, that can be put into the page cache and out of it."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        self.nbytes = os.fstat(self.fd).st_size
        self._mapping = MappedFile(self.fd, self.nbytes)

    @property
    def cached(self) -> float:
        """The share of it that is in the page cache."""
        resident = self._mapping.resident_bytes()
        assert resident is not None
        return resident / self.nbytes

    def warm(self) -> None:
        """Have all of it in the page cache."""
        if self.cached < WARM_SHARE:
            read(self, 1, PIECE_BYTES, ExitStack())

    def cool(self) -> bool:
        """Have nothing of it in the page cache; whether the file system does that."""
        deadline = time.monotonic() + COOLING_SECONDS
        while self.cached > COLD_SHARE and time.monotonic() < deadline:
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)  # but for pages that are still on their way
        return self.cached <= COLD_SHARE

    def close(self) -> None:
        """Forget the file."""
        self._mapping.close()
        os.close(self.fd)

    @classmethod
    @contextmanager
    def of(cls, path: Path) -> Iterator[Self]:
        """The file at that path, for the length of a block."""
        with closing(cls(path)) as source:
            yield source


Copy = Callable[[Source, int, int, ExitStack], None]
"""Gets all of a source by so many threads, in pieces of so many bytes; what it makes is left for later to free."""


def seconds(copy: Copy, source: Source, threads: int, piece_bytes: int = PIECE_BYTES) -> float:
    """How long it takes, without freeing what was made."""
    with ExitStack() as leftovers:
        began = time.perf_counter()
        copy(source, threads, piece_bytes, leftovers)
        return time.perf_counter() - began


def read(source: Source, threads: int, piece_bytes: int, _: ExitStack) -> None:
    """Into one buffer for each thread, over and over."""

    def work(offsets: Iterator[int]) -> None:
        with buffer_of(piece_bytes) as buffer:
            for offset in offsets:
                fill(source, buffer, offset)

    in_threads(work, source.nbytes, threads, piece_bytes)


def populate(source: Source, _: int, __: int, leftovers: ExitStack) -> None:
    """As llama.cpp loads to the host (llama-mmap.cpp): map the file, and have the kernel read and map every page."""
    os.posix_fadvise(source.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    leftovers.callback(Mapping(source.nbytes, protection=mmap.PROT_READ, flags=flags, fd=source.fd).close)
    os.posix_fadvise(source.fd, 0, 0, os.POSIX_FADV_NORMAL)  # the descriptor serves others after this


def into_mapping(source: Source, threads: int, piece_bytes: int, leftovers: ExitStack) -> None:
    """Into a fresh memory file through its mapping: each page is made, zeroed and mapped when it is written to."""
    _read_into(mapped(memory_file(source, leftovers), source, leftovers), source, threads, piece_bytes)


def into_allocated(source: Source, threads: int, piece_bytes: int, leftovers: ExitStack) -> None:
    """The same, but all pages are made before."""
    target = memory_file(source, leftovers)
    os.posix_fallocate(target, 0, source.nbytes)
    _read_into(mapped(target, source, leftovers), source, threads, piece_bytes)


def into_populated(source: Source, threads: int, piece_bytes: int, leftovers: ExitStack) -> None:
    """The same, but all pages are made, zeroed and mapped before."""
    mapping = mapped(memory_file(source, leftovers), source, leftovers)
    mapping.populate()
    _read_into(mapping, source, threads, piece_bytes)


def by_sendfile(source: Source, threads: int, piece_bytes: int, leftovers: ExitStack) -> None:
    """From page to page in the kernel: nothing is zeroed, nothing is mapped."""
    _send_into(memory_file(source, leftovers), source, threads, piece_bytes)


def by_sendfile_into_allocated(source: Source, threads: int, piece_bytes: int, leftovers: ExitStack) -> None:
    """The same, but all pages are made before: none can be missing half-way."""
    target = memory_file(source, leftovers)
    os.posix_fallocate(target, 0, source.nbytes)
    _send_into(target, source, threads, piece_bytes)


def by_buffer(source: Source, threads: int, piece_bytes: int, leftovers: ExitStack) -> None:
    """Through one buffer for each thread: copied twice, once within the processor's cache; nothing is zeroed."""
    target = memory_file(source, leftovers)

    def work(offsets: Iterator[int]) -> None:
        with buffer_of(piece_bytes) as buffer:
            for offset in offsets:
                with fill(source, buffer, offset) as piece:
                    written = 0
                    while written < len(piece):
                        with piece[written:] as rest:
                            written += os.pwrite(target, rest, offset + written)

    in_threads(work, source.nbytes, threads, piece_bytes)


INTO_MEMORY: dict[str, Copy] = {
    "preadv, mapped": into_mapping,
    "fallocate, preadv, mapped": into_allocated,
    "populate, preadv, mapped": into_populated,
    "sendfile": by_sendfile,
    "fallocate, sendfile": by_sendfile_into_allocated,
    "preadv to a buffer, pwrite": by_buffer,
}


def to_gpu(nbytes: int, *, pinned: bool) -> float:
    """Copy so many bytes from one buffer of the host to one of the first GPU, over and over; the seconds it takes."""
    from cupy import cuda  # noqa: PLC0415 - only where there is a GPU
    from cupy.cuda import runtime  # noqa: PLC0415

    cuda.Device(0).use()
    stream, target, source = cuda.Stream(non_blocking=True), cuda.Memory(GPU_BYTES), Mapping.anonymous(GPU_BYTES)
    try:
        source.populate()
        if pinned:
            runtime.hostRegister(source.address, GPU_BYTES, HOST_REGISTER_PORTABLE)
        began = time.perf_counter()
        for done in range(0, nbytes, GPU_BYTES):
            count = min(GPU_BYTES, nbytes - done)
            runtime.memcpyAsync(target.ptr, source.address, count, runtime.memcpyHostToDevice, stream.ptr)
        stream.synchronize()
        took = time.perf_counter() - began
        if pinned:
            runtime.hostUnregister(source.address)
        return took
    finally:
        source.close()


def in_threads(work: Callable[[Iterator[int]], None], nbytes: int, threads: int, piece_bytes: int) -> None:
    """Give each thread an iterator over the pieces' offsets that no other thread has taken."""
    taken = itertools.count(0, piece_bytes)

    def offsets() -> Iterator[int]:
        while (offset := next(taken)) < nbytes:
            yield offset

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, offsets()) for _ in range(threads)]:
            done.result()


@contextmanager
def buffer_of(nbytes: int) -> Iterator[memoryview]:
    """Memory of this process that begins at a page, and whose pages exist."""
    mapping = Mapping.anonymous(nbytes)
    try:
        mapping.populate()
        with mapping.view() as view:
            yield view
    finally:
        mapping.close()


def fill(source: Source, buffer: memoryview, offset: int) -> memoryview:
    """Read a piece; returns what of the buffer it takes: less than all at the end of the file."""
    wanted = buffer[: source.nbytes - offset]
    filled = 0
    while filled < len(wanted):
        with wanted[filled:] as rest:
            count = os.preadv(source.fd, [rest], offset + filled)
        assert count, "the file has become shorter"
        filled += count
    return wanted


def memory_file(source: Source, leftovers: ExitStack) -> int:
    """A memory file as large as the source, without pages."""
    fd = os.memfd_create("ceiling")
    leftovers.callback(os.close, fd)
    os.ftruncate(fd, source.nbytes)
    return fd


def mapped(fd: int, source: Source, leftovers: ExitStack) -> Mapping:
    """The memory file in this address space."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    mapping = Mapping(source.nbytes, protection=protection, flags=mmap.MAP_SHARED, fd=fd)
    leftovers.callback(mapping.close)
    return mapping


def _read_into(mapping: Mapping, source: Source, threads: int, piece_bytes: int) -> None:
    with mapping.view() as memory:

        def work(offsets: Iterator[int]) -> None:
            for offset in offsets:
                with memory[offset : offset + piece_bytes] as target:
                    fill(source, target, offset).release()

        in_threads(work, source.nbytes, threads, piece_bytes)


def _send_into(target: int, source: Source, threads: int, piece_bytes: int) -> None:
    def work(offsets: Iterator[int]) -> None:
        own = os.open(f"/proc/self/fd/{target}", os.O_WRONLY)  # with a position of its own
        try:
            for offset in offsets:
                position, end = os.lseek(own, offset, os.SEEK_SET), min(offset + piece_bytes, source.nbytes)
                while position < end:
                    count = os.sendfile(own, source.fd, position, end - position)
                    assert count, "the file has become shorter"
                    position += count
        finally:
            os.close(own)

    in_threads(work, source.nbytes, threads, piece_bytes)
