"""Devices, memory, streams and events, each of the device that was current when it was made."""

from app.devices.mapping import Mapping
from cupy import pretended

from . import runtime


class Device:
    """A number."""

    def __init__(self, device: int) -> None:
        self.id = device

    def use(self) -> None:
        """Make it the thread's."""
        pretended.thread.device = self.id


class Memory:
    """One cudaMalloc, and cudaFree with its last reference if that is needed; holds anything but zeros at first."""

    def __init__(self, size: int) -> None:
        if size > runtime.memGetInfo()[0]:
            raise pretended.CUDARuntimeError(pretended.OUT_OF_MEMORY)
        memory = Mapping.anonymous(size)
        self.ptr = memory.address
        with memory.view(0, min(size, 1 << 20)) as start:
            start[:] = b"\xaa" * len(start)
        with pretended.lock:
            pretended.allocations[self.ptr] = (pretended.current(), memory)

    def __del__(self) -> None:
        """Free what nobody has freed; an error here becomes a warning, and the warning fails the test."""
        if vars(self).get("ptr"):
            runtime.free(self.ptr)


class Stream:
    """A queue that nobody works off unless somebody waits."""

    def __init__(self, *, non_blocking: bool) -> None:
        with pretended.lock:
            pretended.queues.append(pretended.Queue())
            self.ptr = len(pretended.queues)

    def synchronize(self) -> None:
        """Work all of it off."""
        pretended.called("streamSynchronize")
        queue = pretended.queue_of(self.ptr)
        queue.work_off(queue.submitted)


class Event:
    """A place in a queue."""

    def __init__(self, *, block: bool, disable_timing: bool) -> None:
        self._device = pretended.current()

    def record(self, stream: Stream) -> None:
        """Remember how far the queue is now."""
        pretended.called("eventRecord")
        self._queue = pretended.queue_of(stream.ptr)
        self._place = self._queue.submitted
        if self._queue.device != self._device:
            raise pretended.CUDARuntimeError(pretended.INVALID_HANDLE)

    def synchronize(self) -> None:
        """Work the queue off as far as that."""
        pretended.called("eventSynchronize")
        self._queue.work_off(self._place)
