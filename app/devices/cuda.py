"""CUDA devices, through CuPy's bindings of the runtime; the only file that imports cupy. Sizes are in bytes.

Copies only: no kernels, no arrays, no memory pools. One bad kernel would poison the context, and with it lose every
weight on the device; without kernels CuPy needs the driver and nothing of the CUDA toolkit.

The current device belongs to the thread, so every method makes its own current first. It does not restore the one
before: since CUDA 12 that would create a context, hundreds of megabytes, on a device that nobody asked for.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from cupy import cuda
from cupy.cuda import runtime

from app.devices.base import Buffer, DeviceKind, DeviceMemory, Meter, Segment
from app.devices.cuda_driver import INSUFFICIENT_DRIVER, MEMORY_ALLOCATION, NO_DEVICE, STICKY, device_uuid
from app.devices.file_copy import PIECE_BYTES, FileCopy, check_range, check_segments, pieces
from app.devices.lending import Lending
from app.devices.lifetime import Lifetime
from app.devices.loss import Loss
from app.devices.mapping import Mapping, unfilled_bytes
from app.errors import DeviceError, DeviceLost, DeviceUnavailable, OutOfDeviceMemory

HOST_REGISTER_PORTABLE: Final = 1  # pinned for every context
SLOTS: Final = 3  # one is read into, one travels, one is ready
SLOT_BYTES: Final = PIECE_BYTES
RING_BYTES: Final = SLOTS * SLOT_BYTES

MAX_RINGS: Final = 8
"""Of a device, and so copies at a time; 192 MiB of pinned memory. A core reads 8 to 25 GB/s out of the page cache, and
PCIe 5 x16 takes 55: three readers are enough on a fast host, and seven on a slow one."""


class Gpu:
    """One device of the runtime: makes itself current, names itself in errors, and has a stream for small work.

    Once it is lost nothing is asked of it any more.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = f"cuda:{index}"
        self.loss = Loss(self.id)
        self._stream: Any = None
        self._making = threading.Lock()
        self._allocated_bytes = 0
        self._counting = threading.Lock()

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        """Be the calling thread's device; a CUDA error inside becomes a DeviceError or DeviceLost that says `doing`."""
        self.loss.check()
        try:
            cuda.Device(self.index).use()
            yield
        except runtime.CUDARuntimeError as error:
            status: int = error.status
            lost = self.lost_by(error, doing)
            raise lost or DeviceError(f"{self.id}: {doing}: {error}", device=self.id, status=status) from error

    def lost_by(self, error: Exception, doing: str) -> DeviceLost | None:
        """Judge an error: the one to be raised where the device is lost by it, None where it is not."""
        if not isinstance(error, runtime.CUDARuntimeError) or error.status not in STICKY:
            return None
        return self.loss.found(f"{doing}: {error}", status=error.status)

    @contextmanager
    def counting(self, nbytes: int) -> Iterator[None]:
        """Allocate `nbytes` inside, or free them where `nbytes` is negative: counted if that does not raise."""
        with self._counting:
            yield
            self._allocated_bytes += nbytes

    def memory(self) -> DeviceMemory:
        """Ask the driver, while nothing is allocated or freed here: others have what is taken and not ours.

        Our own context counts as theirs, and what the driver rounds our allocations up by: neither is ours to place.
        NVML would not say it better: it counts by process, context included, may not see those of other containers,
        and its figures would be of another moment than ours. Call it inside `current`.
        """
        with self._counting:
            free, total = runtime.memGetInfo()
            return DeviceMemory(total, free, max(0, total - free - self._allocated_bytes))

    def stream(self) -> Any:
        """Return the stream for zeroing and reading back. Call it inside `current`."""
        with self._making:
            if self._stream is None:
                self._stream = cuda.Stream(non_blocking=True)
            return self._stream

    def close(self) -> None:
        """Drop the stream."""
        with self._making:
            self._stream = None


class CudaBuffer:
    """One cudaMalloc."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        self.gpu = gpu
        self.nbytes = nbytes
        with gpu.counting(nbytes):
            self._memory: Any = cuda.Memory(nbytes)
        self._lifetime = Lifetime("the buffer", self._free)

    def zero(self) -> None:
        """Set every byte to 0, and wait for it. Call it inside `current`."""
        stream = self.gpu.stream()
        with self.pointer() as pointer:
            runtime.memsetAsync(pointer, 0, self.nbytes, stream.ptr)
            stream.synchronize()

    def read(self, offset: int, nbytes: int) -> bytes:
        """Copy `nbytes` from `offset` over the bus.

        ValueError outside the buffer or after `release`, DeviceError where the device fails or is lost.
        """
        check_range(offset, nbytes, self.nbytes)
        with self.pointer() as pointer, self.gpu.current(f"reading {nbytes} bytes back"):
            result, address = unfilled_bytes(nbytes)
            if nbytes:
                stream = self.gpu.stream()
                source, kind = pointer + offset, runtime.memcpyDeviceToHost
                runtime.memcpyAsync(address, source, nbytes, kind, stream.ptr)
                stream.synchronize()
        return result

    @contextmanager
    def pointer(self) -> Iterator[int]:
        """Lend the device address; `release` waits until the block ends."""
        with self._lifetime:
            address: int = self._memory.ptr
            yield address

    def release(self) -> None:
        """Free. Idempotent; waits for reads and copies. DeviceError where the device fails, and is not lost."""
        self._lifetime.end()

    def _free(self) -> None:
        # Not left to CuPy, which would free with its last reference, and could not say that it failed.
        pointer, self._memory.ptr = self._memory.ptr, 0
        with suppress(DeviceLost), self.gpu.current(f"freeing {self.nbytes} bytes"), self.gpu.counting(-self.nbytes):
            runtime.free(pointer)


class StagingRing:
    """Pinned host memory in three slots, and the stream that empties them. For one copy at a time, and one device.

    Make, use and close it where that device is the thread's current one. Other sizes than SLOT_BYTES are for probes.
    """

    def __init__(self, slot_bytes: int = SLOT_BYTES) -> None:
        self._slot_bytes = slot_bytes
        self._stream: Any = cuda.Stream(non_blocking=True)
        # A blocking event lets the thread sleep; the default spins a core.
        self._emptied: list[Any] = [cuda.Event(block=True, disable_timing=True) for _ in range(SLOTS)]
        self._memory = Mapping.anonymous(SLOTS * slot_bytes)
        try:
            runtime.hostRegister(self._memory.address, self._memory.nbytes, HOST_REGISTER_PORTABLE)
        except BaseException:
            self._memory.close()
            raise

    def transfer(self, work: FileCopy, segments: Sequence[Segment], pointer: int) -> None:
        """Read each piece into a slot while those before it travel. Nothing is in flight once it returns or raises."""
        travelling: deque[tuple[Any, int]] = deque()
        try:
            for number, piece in enumerate(pieces(segments, self._slot_bytes)):
                if len(travelling) == SLOTS:
                    acknowledge(work, *travelling.popleft())
                slot = number % SLOTS
                start = slot * self._slot_bytes
                with self._memory.view(start, piece.nbytes) as target:
                    work.fill(target, piece.file_offset)
                source, kind = self._memory.address + start, runtime.memcpyHostToDevice
                target_address = pointer + piece.buffer_offset
                runtime.memcpyAsync(target_address, source, piece.nbytes, kind, self._stream.ptr)
                self._emptied[slot].record(self._stream)
                travelling.append((self._emptied[slot], piece.nbytes))
            while travelling:
                acknowledge(work, *travelling.popleft())
        finally:
            self._stream.synchronize()  # would spin, but waits only where the copy failed, for a slot or two

    def close(self) -> None:
        """Unpin and unmap. Only once."""
        try:
            self._stream.synchronize()
            runtime.hostUnregister(self._memory.address)
        finally:
            self._memory.close()


class CudaDevice:
    """A GPU, by its index among those that the driver shows. Its context is made at first use."""

    kind: Final = DeviceKind.CUDA

    def __init__(self, index: int) -> None:
        properties: dict[str, Any] = runtime.getDeviceProperties(index)
        name: bytes = properties["name"]
        self._gpu = Gpu(index)
        self._total_bytes: int = properties["totalGlobalMem"]
        self.id = self._gpu.id
        self.loss = self._gpu.loss
        self.name = name.decode(errors="replace")
        self.uuid = device_uuid(index)
        self.capabilities: dict[str, bool | int | str | None] = {
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "pci_bus_id": runtime.deviceGetPCIBusId(index),
        }
        self._rings = Lending(StagingRing, StagingRing.close, most=MAX_RINGS)

    @property
    def staging_bytes(self) -> int:
        """What the rings pin; they are made by the copies that first need them."""
        return self._rings.made * RING_BYTES

    def memory(self) -> DeviceMemory:
        """Ask the driver; what other processes hold is not free."""
        try:
            with self._gpu.current("asking for free memory"):
                return self._gpu.memory()
        except DeviceLost:
            return DeviceMemory(self._total_bytes, None, None)

    def allocate(self, nbytes: int) -> CudaBuffer:
        """Allocate and zero. Raises OutOfDeviceMemory, or DeviceError where it was not for want of memory."""
        if nbytes <= 0:
            raise ValueError(f"a buffer of {nbytes} bytes cannot be")
        with self._gpu.current(f"allocating {nbytes} bytes"):
            try:
                buffer = CudaBuffer(self._gpu, nbytes)
            except runtime.CUDARuntimeError as error:
                if error.status != MEMORY_ALLOCATION:
                    raise
                free = self.memory().free_bytes
                raise OutOfDeviceMemory(device=self.id, requested_bytes=nbytes, free_bytes=free) from error
            try:
                buffer.zero()
            except BaseException:
                buffer.release()
                raise
        return buffer

    def copy(self, fd: int, segments: Sequence[Segment], buffer: Buffer, meter: Meter) -> None:
        """Read the segments into pinned memory and send them on.

        Waits for its turn where MAX_RINGS copies to this device are under way; other devices' do not count. Raises
        TransferFailed, Cancelled, DeviceLost, ValueError.
        """
        if not isinstance(buffer, CudaBuffer) or buffer.gpu is not self._gpu:
            raise ValueError(f"not a buffer of {self.id}")
        check_segments(segments, buffer.nbytes)
        work = FileCopy(self.id, fd, segments, meter)
        with buffer.pointer() as pointer:
            self.loss.check()
            try:
                cuda.Device(self._gpu.index).use()
                with self._rings.one() as ring:
                    ring.transfer(work, segments, pointer)
            except (runtime.CUDARuntimeError, OSError) as error:
                raise self._gpu.lost_by(error, "copying") or work.failed(str(error)) from error

    def close(self) -> None:
        """Give back the staging memory and the streams, once no copy uses them. Idempotent.

        A lost device's staging memory stays pinned until the process ends: nobody can unpin it.
        """
        if self._rings.made:
            with suppress(DeviceLost), self._gpu.current("giving the staging memory back"):
                self._rings.close()
        self._gpu.close()


def cuda_devices() -> list[CudaDevice]:
    """Find the devices that the driver shows, none where there is no driver. Creates no context."""
    try:
        count: int = runtime.getDeviceCount()
        return [CudaDevice(index) for index in range(count)]
    except runtime.CUDARuntimeError as error:
        status: int = error.status
        if status in {INSUFFICIENT_DRIVER, NO_DEVICE}:
            return []
        raise DeviceUnavailable(f"CUDA cannot be used: {error}", device="cuda", status=status) from error


def acknowledge(work: FileCopy, event: Any, nbytes: int) -> None:
    """Wait until the device has the bytes before `event`, then count them."""
    event.synchronize()
    work.acknowledge(nbytes)
