"""CUDA devices, where there is CuPy, a driver and a GPU."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.devices import Device, DeviceKind, Meter, Segment
from tests.devices.contract import DeviceTests
from tests.devices.instruments import Source

pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)

from app.devices.cuda import CudaDevice, cuda_devices

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
    """A GPU has the driver's UUID in full, its compute capability and its place on the bus."""
    assert gpu.kind is DeviceKind.CUDA
    assert gpu.id == "cuda:0"
    assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", gpu.uuid or "")
    assert re.fullmatch(r"\d+\.\d+", str(gpu.capabilities["compute_capability"]))
    assert re.fullmatch(r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d", str(gpu.capabilities["pci_bus_id"]))


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
