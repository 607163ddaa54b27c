"""The calls of the runtime, by CUDA's names and CuPy's signatures."""
# ruff: noqa: N802, N816

import ctypes

from cupy import pretended
from cupy.pretended import CUDARuntimeError

__all__ = ["CUDARuntimeError"]

memcpyHostToDevice = 1
memcpyDeviceToHost = 2


def getDeviceCount() -> int:
    """There are some."""
    count: int = pretended.DEVICES
    return count


def getDeviceProperties(device: int) -> dict[str, object]:
    """What is asked for, of the many."""
    total: int = pretended.TOTAL_BYTES
    return {"name": f"Pretended {device}".encode(), "major": 0, "minor": 0, "totalGlobalMem": total}


def deviceGetPCIBusId(device: int) -> str:
    """A place on no bus."""
    return f"0000:{device:02X}:00.0"


def memGetInfo() -> tuple[int, int]:
    """Free and total, of the current device."""
    pretended.called("memGetInfo")
    with pretended.lock:
        here = [memory for device, memory in pretended.allocations.values() if device == pretended.current()]
    taken = sum(-(-memory.nbytes // pretended.GRANULE) * pretended.GRANULE for memory in here)
    return pretended.TOTAL_BYTES - pretended.CONTEXT_BYTES - taken, pretended.TOTAL_BYTES


def free(ptr: int) -> None:
    """Free what nothing in flight needs."""
    pretended.called("free")
    with pretended.lock:
        _, memory = pretended.allocations.pop(ptr)
    pretended.check_idle(ptr, memory.nbytes)
    memory.close()


def hostRegister(ptr: int, size: int, flags: int) -> None:
    """Pin."""
    pretended.called("hostRegister")
    pretended.pinned[ptr] = size


def hostUnregister(ptr: int) -> None:
    """Unpin what nothing needs."""
    pretended.check_idle(ptr, pretended.pinned.pop(ptr))


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    """Copy later what is there now: out of pinned memory to the device, or back to anywhere."""
    pretended.called("memcpyAsync")
    queue = pretended.queue_of(stream)
    if kind == memcpyDeviceToHost:
        pretended.check_allocated(src, size)
        queue.submit(lambda: ctypes.memmove(dst, src, size), dst, src)
        return
    pretended.check_allocated(dst, size)
    if not any(start <= src and src + size <= start + nbytes for start, nbytes in list(pretended.pinned.items())):
        raise CUDARuntimeError(pretended.INVALID_VALUE)
    meant = ctypes.string_at(src, size)

    def arrive() -> None:
        if ctypes.string_at(src, size) != meant:
            raise AssertionError("a slot was filled again before its bytes had left")
        ctypes.memmove(dst, meant, size)

    queue.submit(arrive, dst, src)


def memsetAsync(ptr: int, value: int, size: int, stream: int) -> None:
    """Set later."""
    pretended.called("memsetAsync")
    pretended.check_allocated(ptr, size)
    pretended.queue_of(stream).submit(lambda: ctypes.memset(ptr, value, size), ptr)
