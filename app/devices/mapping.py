"""Address ranges straight from libc: what `mmap` of the standard library cannot do.

It duplicates every descriptor, hides the address, and knows neither mlock nor mincore; and calls by ctypes
let other threads run meanwhile. Sizes and offsets are in bytes; whatever libc refuses is an OSError.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

PAGE: Final = mmap.PAGESIZE

MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23  # <linux/mman.h>, since Linux 5.14
MAP_FAILED: Final = ctypes.c_void_p(-1).value
PYBUF_READ: Final = 0x100  # <cpython/object.h>
PYBUF_WRITE: Final = 0x200
LOW_BITS: Final = bytes(value & 1 for value in range(256))  # mincore(2): the other bits are reserved
MINCORE_PAGES: Final = 1 << 18  # asked for at once: a vector of 256 KiB for each GiB

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.munlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.memcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.memcpy.restype = ctypes.c_void_p
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)

_memory_view = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_memory_view.restype = ctypes.py_object
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
_new_bytes.restype = ctypes.py_object
_bytes_address = ctypes.pythonapi.PyBytes_AsString
_bytes_address.argtypes = (ctypes.py_object,)
_bytes_address.restype = ctypes.c_void_p


class Mapping:
    """`nbytes` of this process's address space from `address`, until `close`. `Lifetime` guards its users."""

    __slots__ = ("_flags", "address", "nbytes")

    def __init__(self, nbytes: int, *, protection: int, flags: int, fd: int = -1, offset: int = 0) -> None:
        address = _libc.mmap(None, nbytes, protection, flags, fd, offset)
        if address == MAP_FAILED:
            raise _refused()
        self.address: int = address
        self.nbytes = nbytes
        self._flags = PYBUF_WRITE if protection & mmap.PROT_WRITE else PYBUF_READ

    @classmethod
    def anonymous(cls, nbytes: int) -> Self:
        """Map fresh zeroed memory of this process alone."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        return cls(nbytes, protection=mmap.PROT_READ | mmap.PROT_WRITE, flags=flags)

    @classmethod
    def read_only(cls, fd: int, nbytes: int, offset: int = 0) -> Self:
        """Map a file's pages, as the page cache has them, from a multiple of the page. The descriptor is not kept."""
        return cls(nbytes, protection=mmap.PROT_READ, flags=mmap.MAP_SHARED, fd=fd, offset=offset)

    @contextmanager
    def view(self, offset: int = 0, nbytes: int | None = None) -> Iterator[memoryview]:
        """Lend a part as a memoryview, no copy; it dies with the block, so that none outlives the pages."""
        size = self.nbytes - offset if nbytes is None else nbytes
        with _memory_view(self.address + offset, size, self._flags) as view:
            yield view

    def read(self, offset: int, nbytes: int) -> bytes:
        """Copy out `nbytes` from `offset`, without the GIL."""
        result, address = unfilled_bytes(nbytes)
        _libc.memcpy(address, self.address + offset, nbytes)
        return result

    def populate(self) -> None:
        """Make every page exist now rather than at its first write. Does nothing before Linux 5.14."""
        failed = _libc.madvise(self.address, self.nbytes, MADV_POPULATE_WRITE)
        if failed and ctypes.get_errno() != errno.EINVAL:
            raise _refused()

    def read_in(self) -> bool:
        """Have every page read from the file now; waits for the disk. False before Linux 5.14, which cannot."""
        if not _libc.madvise(self.address, self.nbytes, MADV_POPULATE_READ):
            return True
        if ctypes.get_errno() == errno.EINVAL:
            return False
        raise _refused()

    def lock(self, offset: int, nbytes: int) -> None:
        """Read the pages in and keep them in memory. `offset` is a multiple of the page."""
        if _libc.mlock(self.address + offset, nbytes):
            raise _refused()

    def unlock(self, offset: int, nbytes: int) -> None:
        """Let the pages go again. `offset` is a multiple of the page."""
        if _libc.munlock(self.address + offset, nbytes):
            raise _refused()

    def resident_bytes(self) -> int:
        """How much of the range is in memory, by mincore: true only where the kernel deigns to tell."""
        resident = 0
        for start in range(0, self.nbytes, MINCORE_PAGES * PAGE):
            length = min(MINCORE_PAGES * PAGE, self.nbytes - start)
            pages = -(-length // PAGE)
            vector = ctypes.create_string_buffer(pages)
            if _libc.mincore(self.address + start, length, vector):
                raise _refused()
            present = vector.raw.translate(LOW_BITS)
            beyond = present[-1] * (pages * PAGE - length)  # what the last page has past the end of the range
            resident += present.count(1) * PAGE - beyond
        return resident

    def close(self) -> None:
        """Unmap, which unlocks too. Only once."""
        if _libc.munmap(self.address, self.nbytes):
            raise _refused()


def unfilled_bytes(nbytes: int) -> tuple[bytes, int]:
    """A new bytes object and the address to fill it at, once, before anybody else sees it.

    The C API's own way to make one: the bytes need not be collected elsewhere first, nor copied under the GIL.
    """
    result: bytes = _new_bytes(None, nbytes)
    address: int = _bytes_address(result)
    return result, address


def _refused() -> OSError:
    """Make the error for the call that libc has just refused."""
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
