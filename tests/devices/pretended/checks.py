"""What `app.devices.cuda` does when a call fails in the middle: only a double of CuPy fails to order."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cupy import pretended

from app.devices import Device, Meter, Segment
from app.devices.cuda import MAX_RINGS, RING_BYTES, CudaDevice, cuda_devices
from app.errors import Cancelled, DeviceError, DeviceLost, TransferFailed
from app.placement import PlacementRequest
from tests.devices.contract import LostDeviceTests
from tests.devices.instruments import SOURCE_BYTES, RecordingMeter, Source
from tests.gguf_builder import tiny_llama
from tests.residency.deck import ALL, assert_books_agree, at, ended, service

PIECE = 8 << 20
WHOLE = [Segment(0, 0, SOURCE_BYTES)] * 2  # twice over: more pieces than a ring has slots


@pytest.fixture
def gpu() -> Iterator[CudaDevice]:
    """The second device, which no thread has as its current one before it says so; in the end all is given back."""
    device = cuda_devices()[1]
    yield device
    pretended.faults.clear()
    device.close()
    assert (pretended.owed(), pretended.pinned, pretended.allocations) == (0, {}, {})


@pytest.mark.parametrize(
    ("call", "nth", "done"),
    [
        ("hostRegister", 1, 0),
        ("memcpyAsync", 1, 0),
        ("memcpyAsync", 3, 0),
        ("memcpyAsync", 5, 2 * PIECE),
        ("eventRecord", 2, 0),
        ("eventRecord", 4, PIECE),
        ("eventSynchronize", 1, 0),
        ("eventSynchronize", 3, 2 * PIECE),
    ],
)
def test_a_call_that_fails_fails_the_copy(gpu: CudaDevice, source: Source, call: str, nth: int, done: int) -> None:
    """Wherever a copy fails, the error has its numbers, nothing is in flight afterwards, and the next copy works."""
    buffer, meter = gpu.allocate(SOURCE_BYTES), Meter()
    pretended.faults[call] = nth

    with pytest.raises(TransferFailed, match="cudaError_t 1") as caught:
        gpu.copy(source.fd, WHOLE, buffer, meter)

    assert pretended.faults == {}
    assert pretended.owed() == 0
    assert (caught.value.device, caught.value.requested_bytes) == ("cuda:1", 2 * SOURCE_BYTES)
    assert caught.value.done_bytes == meter.bytes_done == done
    assert gpu.staging_bytes == (0 if call == "hostRegister" else RING_BYTES)

    gpu.copy(source.fd, WHOLE, buffer, Meter())
    assert buffer.read(0, SOURCE_BYTES) == source.data
    assert gpu.staging_bytes == RING_BYTES
    buffer.release()


def test_nothing_is_in_flight_after_a_cancel(gpu: CudaDevice, source: Source) -> None:
    """A copy that is called off waits for what it has sent, and so its buffer can be freed at once."""
    buffer = gpu.allocate(SOURCE_BYTES)

    with pytest.raises(Cancelled):
        gpu.copy(source.fd, WHOLE, buffer, RecordingMeter(until=PIECE))

    assert pretended.owed() == 0
    buffer.release()


def test_nothing_is_in_flight_after_a_short_file(gpu: CudaDevice, source: Source) -> None:
    """So does one whose file ends."""
    buffer = gpu.allocate(SOURCE_BYTES + 1)

    with pytest.raises(TransferFailed, match=f"{SOURCE_BYTES} bytes"):
        gpu.copy(source.fd, [Segment(0, 0, SOURCE_BYTES + 1)], buffer, Meter())

    assert pretended.owed() == 0
    buffer.release()


def test_failures_use_up_no_rings(gpu: CudaDevice, source: Source) -> None:
    """However many copies fail, and however many rings cannot be made, there is one for the next."""
    buffer = gpu.allocate(100)
    for call in ("hostRegister", "eventRecord", "memcpyAsync"):
        for _ in range(MAX_RINGS + 1):
            pretended.faults[call] = 1
            with pytest.raises(TransferFailed):
                gpu.copy(source.fd, [Segment(0, 0, 100)], buffer, Meter())

    gpu.copy(source.fd, [Segment(0, 0, 100)], buffer, Meter())
    assert buffer.read(0, 100) == source.data[:100]
    buffer.release()


def test_what_cannot_be_zeroed_is_freed(gpu: CudaDevice) -> None:
    """An allocation that fails after cudaMalloc leaves nothing behind, on the device or in its books."""
    before = gpu.memory()
    pretended.faults["memsetAsync"] = 1

    with pytest.raises(DeviceError, match="cuda:1: allocating 1000 bytes"):
        gpu.allocate(1000)

    assert gpu.memory() == before
    assert pretended.allocations == {}


def test_a_failing_read_is_an_error_of_the_device(gpu: CudaDevice) -> None:
    """What cannot be read back is refused with the device's name, and the buffer can still be released."""
    buffer = gpu.allocate(1000)
    pretended.faults["memcpyAsync"] = 1

    with pytest.raises(DeviceError, match="cuda:1: reading 10 bytes back"):
        buffer.read(0, 10)
    buffer.release()


def test_a_failing_free_is_an_error_of_the_device(gpu: CudaDevice) -> None:
    """What cannot be given back is not told to be: it is neither free nor others'."""
    buffer = gpu.allocate(1000)
    before = gpu.memory()
    pretended.faults["free"] = 1

    with pytest.raises(DeviceError, match="cuda:1: freeing 1000 bytes"):
        buffer.release()

    assert gpu.memory() == before
    pretended.allocations.clear()


def test_others_are_charged_to_the_byte(gpu: CudaDevice) -> None:
    """All that is taken and not ours is others': here the context, and what allocations are rounded up by."""
    assert gpu.memory().others_bytes == pretended.CONTEXT_BYTES

    buffer, stranger = gpu.allocate(pretended.GRANULE + 1), cuda_devices()[1].allocate(pretended.GRANULE)

    assert gpu.memory().others_bytes == pretended.CONTEXT_BYTES + 2 * pretended.GRANULE - 1
    stranger.release()
    buffer.release()
    assert gpu.memory().others_bytes == pretended.CONTEXT_BYTES


def test_asking_for_memory_may_fail(gpu: CudaDevice) -> None:
    """A driver that does not answer is an error of the device, by its name."""
    pretended.faults["memGetInfo"] = 1

    with pytest.raises(DeviceError, match="cuda:1: asking for free memory"):
        gpu.memory()


def test_a_service_on_two_devices(gpu: CudaDevice, tmp_path: Path) -> None:
    """A load that fails in the middle, one that does not, offloads up and down: books agree, bytes are the file's."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf").write_bytes(tiny_llama())

    async def main() -> None:
        async with service(tmp_path, cuda_devices()[0], gpu) as loadmaster:
            pretended.faults["memcpyAsync"] = 5
            failed = await ended(await loadmaster.load("tiny", ALL))
            assert isinstance(failed, TransferFailed)
            assert pretended.allocations == {}

            assert await ended(await loadmaster.load("tiny", PlacementRequest(2))) is None
            for n in (4, 1, 3):
                assert await ended(await loadmaster.offload("tiny", at(n))) is None
                await assert_books_agree(loadmaster, "tiny")
            assert loadmaster.memory.record().host.staging_bytes >= RING_BYTES

    asyncio.run(main())


@pytest.fixture
def breakable() -> Iterator[CudaDevice]:
    """The second device, which may break; all that it had then goes with the process, as far as anybody can tell."""
    device = cuda_devices()[1]
    yield device
    device.close()
    pretended.broken.clear()
    pretended.pinned.clear()
    pretended.allocations.clear()
    pretended.queues.clear()


class TestLostCudaDevice(LostDeviceTests):
    """The contract of a lost device, after a sticky error; what happened is said in CUDA's words."""

    happened = "cudaError_t 700"

    @pytest.fixture
    def broken(self, breakable: CudaDevice) -> tuple[Device, Callable[[], None]]:
        """A device, and an illegal address."""
        return breakable, lambda: pretended.broken.update({1: pretended.ILLEGAL_ADDRESS})


def test_a_sticky_error_in_a_copy_loses_the_device(breakable: CudaDevice, source: Source) -> None:
    """It is no copy that failed but a device that is lost, with its number; a free asks nothing of it any more."""
    buffer = breakable.allocate(SOURCE_BYTES)
    breakable.copy(source.fd, WHOLE, buffer, Meter())
    pretended.broken[1] = pretended.ILLEGAL_ADDRESS

    with pytest.raises(DeviceLost, match="cuda:1 is lost: copying: cudaError_t 700") as caught:
        breakable.copy(source.fd, WHOLE, buffer, Meter())

    assert caught.value.facts["status"] == pretended.ILLEGAL_ADDRESS
    buffer.release()
    assert breakable.memory().free_bytes is None


def test_a_service_outlives_a_device(breakable: CudaDevice, tmp_path: Path) -> None:
    """What was on it falls back to the host, the other device serves on, and the service stops in good order."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf").write_bytes(tiny_llama())

    async def main() -> None:
        async with service(tmp_path, cuda_devices()[0], breakable) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            pretended.broken[1] = pretended.ILLEGAL_ADDRESS
            assert isinstance(await ended(await loadmaster.verify("tiny", deep=True)), type(None))
            assert "cudaError_t 700" in (loadmaster.memory.record().devices[1].lost or "")
            assert {slab.device for slab in loadmaster._residents["tiny"].current.placement.slabs} == {"cuda:0"}
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())
