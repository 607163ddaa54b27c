"""CUDA devices, where there is CuPy, a driver and a GPU; `test_pretended.py` runs this on a double of CuPy."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.devices import Device, DeviceKind, Meter, Segment
from app.devices.limits import limits_of
from tests.devices.contract import DeviceTests
from tests.devices.instruments import SOURCE_BYTES, Source

pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)

from app.devices.cuda import MAX_RINGS, RING_BYTES, CudaDevice, cuda_devices

pytestmark = pytest.mark.gpu

MIB = 1 << 20


@pytest.fixture
def gpu(source: Source) -> Iterator[CudaDevice]:
    """The first GPU, its context made already: that opens descriptors of its own."""
    devices = cuda_devices()
    if not devices:
        pytest.skip("no NVIDIA driver or no GPU")
    buffer = devices[0].allocate(1)
    devices[0].copy(source.fd, [Segment(0, 0, 1)], buffer, Meter())
    buffer.release()
    devices[0].close()
    yield devices[0]
    devices[0].close()


class TestCudaDevice(DeviceTests):
    """The contract, on a GPU."""

    @pytest.fixture
    def device(self, gpu: CudaDevice) -> Device:
        """The first GPU."""
        return gpu


def test_says_what_it_is(gpu: CudaDevice) -> None:
    """A GPU has its compute capability and its place on the bus."""
    assert gpu.kind is DeviceKind.CUDA
    assert gpu.id == "cuda:0"
    assert re.fullmatch(r"\d+\.\d+", str(gpu.capabilities["compute_capability"]))
    assert re.fullmatch(r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d", str(gpu.capabilities["pci_bus_id"]))


def test_has_the_drivers_uuid(gpu: CudaDevice) -> None:
    """A GPU, or a slice of one, is named as nvidia-smi names it, in full; no two have the same name."""
    uuids = [device.uuid for device in cuda_devices()]

    assert re.fullmatch(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", gpu.uuid or "")
    assert len(set(uuids)) == len(uuids)


def test_release_frees_at_once(gpu: CudaDevice) -> None:
    """What a buffer took is free again when its release returns."""
    before = gpu.memory().free_bytes
    buffer = gpu.allocate(256 * MIB)
    during = gpu.memory().free_bytes
    buffer.release()
    after = gpu.memory().free_bytes

    assert before is not None
    assert during is not None
    assert after is not None
    assert before - during >= 256 * MIB
    assert after - during >= 256 * MIB


def test_others_are_not_charged_with_our_buffers(gpu: CudaDevice) -> None:
    """However buffers come and go, each look finds with others what they have, and nothing that is on its way to us."""
    before = gpu.memory().others_bytes
    assert before is not None
    seen = []

    def come_and_go(_: int) -> None:
        for _ in range(10):
            buffer = gpu.allocate(64 * MIB)
            seen.append(gpu.memory().others_bytes or 0)
            buffer.release()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come_and_go, range(4)))

    assert all(abs(others - before) < 32 * MIB for others in seen)


def test_another_opening_is_another(gpu: CudaDevice) -> None:
    """What the same GPU, opened a second time, has allocated is others'."""
    before = gpu.memory().others_bytes
    buffer = cuda_devices()[0].allocate(256 * MIB)
    during = gpu.memory().others_bytes
    buffer.release()

    assert before is not None
    assert during is not None
    assert during - before >= 128 * MIB


def test_refuses_the_buffer_of_another_opening(gpu: CudaDevice, source: Source) -> None:
    """A buffer belongs to the device object that allocated it."""
    buffer = cuda_devices()[0].allocate(1)

    with pytest.raises(ValueError, match="cuda:0"):
        gpu.copy(source.fd, [Segment(0, 0, 1)], buffer, Meter())
    buffer.release()


def test_copies_again_after_close(gpu: CudaDevice, source: Source) -> None:
    """Staging memory that was given back is made anew when it is needed."""
    buffer = gpu.allocate(1000)
    gpu.close()

    gpu.copy(source.fd, [Segment(7, 0, 1000)], buffer, Meter())

    assert buffer.read(0, 1000) == source.data[7:1007]
    buffer.release()


class Meeting(Meter):
    """The meter of a copy that goes no further, once bytes of it are there, until as many others are as far."""

    __slots__ = ("_others",)

    def __init__(self, others: threading.Barrier) -> None:
        super().__init__()
        self._others: threading.Barrier | None = others

    def add(self, nbytes: int) -> None:
        """Wait for the others, the first time."""
        others, self._others = self._others, None
        if others:
            others.wait()
        super().add(nbytes)


def test_copies_side_by_side(gpu: CudaDevice, source: Source) -> None:
    """As many copies as there are rings are under way at once, and no more; what they pin is kept, until close."""
    buffers = [gpu.allocate(SOURCE_BYTES) for _ in range(2 * MAX_RINGS)]
    together = threading.Barrier(MAX_RINGS, timeout=60)

    def copy(number: int) -> None:
        gpu.copy(source.fd, [Segment(number, number, SOURCE_BYTES - number)], buffers[number], Meeting(together))

    assert gpu.staging_bytes == 0
    with ThreadPoolExecutor(len(buffers)) as threads:
        list(threads.map(copy, range(len(buffers))))

    assert gpu.staging_bytes == MAX_RINGS * RING_BYTES
    for number, buffer in enumerate(buffers):
        assert buffer.read(0, SOURCE_BYTES) == bytes(number) + source.data[number:]
        buffer.release()
    gpu.close()
    assert gpu.staging_bytes == 0


def test_pins_no_more_than_it_needs(gpu: CudaDevice, source: Source) -> None:
    """One copy after the other takes one ring, whichever thread it comes from."""
    buffer = gpu.allocate(SOURCE_BYTES)
    for number in range(2 * MAX_RINGS):
        with ThreadPoolExecutor(1) as thread:
            thread.submit(gpu.copy, source.fd, [Segment(0, 0, number + 1)], buffer, Meter()).result()

    assert gpu.staging_bytes == RING_BYTES
    buffer.release()


def test_a_limit_is_a_share_of_what_the_driver_reports(gpu: CudaDevice) -> None:
    """Half of a GPU is half of its total."""
    assert limits_of("50%", [gpu]) == {gpu.id: (gpu.memory().total_bytes or 0) // 2}


def test_devices_are_apart(source: Source) -> None:
    """Threads that go from one GPU to another and back reach the one that they mean, and each has its own staging."""
    devices = cuda_devices()[:2]
    if len(devices) < 2:
        pytest.skip("there are not two GPUs")
    before = [device.memory() for device in devices]

    def there_and_back(number: int) -> None:
        first, second = devices if number % 2 else devices[::-1]
        mine, other = first.allocate(MIB), second.allocate(MIB)
        first.copy(source.fd, [Segment(number, 0, MIB)], mine, Meter())
        second.copy(source.fd, [Segment(2 * number, 0, MIB)], other, Meter())
        assert mine.read(0, MIB) == source.data[number : number + MIB]
        assert other.read(0, MIB) == source.data[2 * number : 2 * number + MIB]
        other.release()
        mine.release()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(there_and_back, range(16)))

    buffer = devices[0].allocate(1)
    with pytest.raises(ValueError, match=devices[1].id):
        devices[1].copy(source.fd, [], buffer, Meter())
    buffer.release()
    for device in devices:
        assert 0 < device.staging_bytes <= 4 * RING_BYTES
        device.close()
    assert [device.memory().total_bytes for device in devices] == [memory.total_bytes for memory in before]
