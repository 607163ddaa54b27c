"""The simulated device: capacity, real pages, a bandwidth, and faults to order."""

import mmap
import os
import resource
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.devices import Device, DeviceKind, DeviceMemory, Meter, Segment
from app.devices.simulated import CREDIT_SECONDS, Faults, SimulatedDevice, TokenClock, first_bytes
from app.errors import Cancelled, DeviceError, DeviceLost, OutOfDeviceMemory, TransferFailed
from tests.devices.contract import DeviceTests, LostDeviceTests
from tests.devices.instruments import RecordingMeter, Source, open_descriptors

MIB = 1 << 20


class TestSimulatedDevice(DeviceTests):
    """The contract, on a simulated device."""

    free_is_exact = True

    @pytest.fixture
    def device(self) -> Device:
        """A device with room for the contract."""
        return SimulatedDevice("sim:0", 64 * MIB)


class TestSlowDevice(TestSimulatedDevice):
    """The contract, on a simulated device with a bandwidth."""

    @pytest.fixture
    def device(self) -> Device:
        """A device of 1 GiB per second."""
        return SimulatedDevice("sim:0", 64 * MIB, bytes_per_second=1 << 30)


class TestSharedDevice(TestSimulatedDevice):
    """The contract, on a simulated device of which somebody else holds a part."""

    @pytest.fixture
    def device(self) -> Device:
        """As much room as the others have, and as much again that they do not."""
        return SimulatedDevice("sim:0", 128 * MIB, others_bytes=64 * MIB)


class TestLostDevice(LostDeviceTests):
    """The contract of a lost device, on a simulated one."""

    @pytest.fixture
    def broken(self) -> tuple[Device, Callable[[], None]]:
        """A device that somebody pulls out."""
        device = SimulatedDevice("sim:1", MIB)

        def pull_out() -> None:
            device.broken = "pulled out"

        return device, pull_out


def test_always_says_that_it_is_simulated() -> None:
    """Kind and capabilities tell what it is, and what was ordered."""
    device = SimulatedDevice("sim:3", MIB, bytes_per_second=7, faults=Faults(oom=1, flip=2))

    assert device.id == "sim:3"
    assert device.kind is DeviceKind.SIMULATED
    assert device.capabilities == {"bytes_per_second": 7, "oom": 1, "failcopy": None, "flip": 2, "lose": None}


def test_capacity_is_the_sum_of_live_buffers() -> None:
    """What is allocated is not free, what is released is, and one byte too many is refused with the numbers."""
    device = SimulatedDevice("sim:0", 10_000)
    first, second = device.allocate(6_000), device.allocate(4_000)
    assert device.memory() == DeviceMemory(10_000, 0, 0)

    second.release()
    with pytest.raises(OutOfDeviceMemory) as caught:
        device.allocate(4_001)

    assert (caught.value.requested_bytes, caught.value.free_bytes) == (4_001, 4_000)
    device.allocate(4_000).release()
    first.release()
    first.release()
    assert device.memory() == DeviceMemory(10_000, 10_000, 0)


def test_what_others_hold_cannot_be_had() -> None:
    """It is not free, and an allocation that needs a byte of it is refused with what is free."""
    device = SimulatedDevice("sim:0", 10_000, others_bytes=7_000)
    assert device.memory() == DeviceMemory(10_000, 3_000, 7_000)

    with pytest.raises(OutOfDeviceMemory) as caught:
        device.allocate(3_001)

    assert (caught.value.requested_bytes, caught.value.free_bytes) == (3_001, 3_000)
    buffer = device.allocate(3_000)
    assert device.memory() == DeviceMemory(10_000, 0, 7_000)
    buffer.release()
    assert device.memory() == DeviceMemory(10_000, 3_000, 7_000)


def test_a_full_host_is_out_of_memory() -> None:
    """A device larger than its host refuses what the host does not have, and counts nothing."""
    device = SimulatedDevice("sim:0", 1 << 60)

    with pytest.raises(OutOfDeviceMemory) as caught:
        device.allocate(1 << 59)

    assert caught.value.free_bytes is not None
    assert caught.value.free_bytes < 1 << 59
    assert device.memory().free_bytes == 1 << 60


def test_too_many_descriptors_are_not_a_want_of_memory() -> None:
    """Where the process may open no more files, the error names that limit, and nothing is counted."""
    device = SimulatedDevice("sim:0", MIB)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = open_descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(DeviceError, match="RLIMIT_NOFILE") as caught:
            device.allocate(1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert not isinstance(caught.value, MemoryError)
    assert device.memory().free_bytes == MIB
    assert open_descriptors() == before


def test_pages_exist_before_the_first_write() -> None:
    """A fresh buffer has all its pages, as the kernel counts them."""
    device = SimulatedDevice("sim:0", 8 * MIB)
    buffer = device.allocate(5 * MIB + 1)

    assert os.fstat(buffer.fileno()).st_blocks * 512 >= 5 * MIB + 1
    buffer.release()


def test_another_mapping_sees_the_bytes(source: Source) -> None:
    """Whoever maps the memory file sees what was copied, and cannot cut it off."""
    device = SimulatedDevice("sim:0", MIB)
    buffer = device.allocate(5000)
    device.copy(source.fd, [Segment(3, 0, 5000)], buffer, Meter())

    with mmap.mmap(buffer.fileno(), 5000, prot=mmap.PROT_READ) as borrowed:
        assert borrowed[:] == source.data[3:5003]
    with pytest.raises(PermissionError):
        os.ftruncate(buffer.fileno(), 0)
    buffer.release()


def test_released_memory_has_no_descriptor() -> None:
    """After release there is no descriptor to map."""
    buffer = SimulatedDevice("sim:0", MIB).allocate(1)
    buffer.release()

    with pytest.raises(ValueError, match="released"):
        buffer.fileno()


def test_refuses_the_buffer_of_a_sister(source: Source) -> None:
    """Two simulated devices do not fill each other's buffers."""
    buffer = SimulatedDevice("sim:0", MIB).allocate(1)

    with pytest.raises(ValueError, match="sim:1"):
        SimulatedDevice("sim:1", MIB).copy(source.fd, [Segment(0, 0, 1)], buffer, Meter())
    buffer.release()


def test_the_nth_allocation_fails_once() -> None:
    """`oom=2` strikes the second call and no other, and leaves the books as they were."""
    device = SimulatedDevice("sim:0", MIB, faults=Faults(oom=2))
    first = device.allocate(100)

    with pytest.raises(OutOfDeviceMemory):
        device.allocate(100)

    assert device.memory().free_bytes == MIB - 100
    third = device.allocate(100)
    first.release()
    third.release()


def test_the_nth_copy_fails_half_way(source: Source) -> None:
    """`failcopy=2` strikes the second call once half of the bytes have arrived; the third is well again."""
    device = SimulatedDevice("sim:0", MIB, faults=Faults(failcopy=2))
    buffer, segments = device.allocate(3000), [Segment(0, 0, 1000), Segment(5000, 1000, 2000)]
    device.copy(source.fd, segments, buffer, Meter())
    meter = Meter()

    with pytest.raises(TransferFailed) as caught:
        device.copy(source.fd, segments, buffer, meter)

    assert (caught.value.done_bytes, caught.value.requested_bytes) == (1500, 3000)
    assert meter.bytes_done == 1500
    device.copy(source.fd, segments, buffer, Meter())
    assert buffer.read(0, 3000) == source.data[:1000] + source.data[5000:7000]
    buffer.release()


def test_the_nth_copy_loses_the_device(source: Source) -> None:
    """`lose=2` strikes the second call once half of the bytes have arrived, and with it all that is there already."""
    device = SimulatedDevice("sim:0", MIB, faults=Faults(lose=2))
    buffer, meter, before = device.allocate(3000), Meter(), open_descriptors()
    device.copy(source.fd, [Segment(0, 0, 1000)], buffer, Meter())
    assert buffer.read(0, 1000) == source.data[:1000]

    with pytest.raises(DeviceLost, match="copy 2 loses it half-way, as ordered"):
        device.copy(source.fd, [Segment(0, 0, 1000), Segment(5000, 1000, 2000)], buffer, meter)

    assert meter.bytes_done == 1500
    with pytest.raises(DeviceLost, match="copy 2"):
        buffer.read(0, 1)
    buffer.release()
    assert open_descriptors() == before - 1


def test_the_nth_copy_arrives_flipped(source: Source) -> None:
    """`flip=1` changes one bit in the middle of the first segment, silently; the next copy is right."""
    device = SimulatedDevice("sim:0", MIB, faults=Faults(flip=1))
    buffer, segments = device.allocate(3000), [Segment(0, 1000, 2000), Segment(0, 0, 1000)]
    right = source.data[:1000] + source.data[:2000]
    meter = Meter()

    device.copy(source.fd, segments, buffer, meter)

    arrived = buffer.read(0, 3000)
    changed = [at for at in range(3000) if arrived[at] != right[at]]
    assert changed == [2000]
    assert (arrived[2000] ^ right[2000]).bit_count() == 1
    assert meter.bytes_done == 3000
    device.copy(source.fd, segments, buffer, Meter())
    assert buffer.read(0, 3000) == right
    buffer.release()


def test_faults_are_counted_across_threads(source: Source) -> None:
    """However many threads copy, exactly the ordered number of copies fails."""
    device = SimulatedDevice("sim:0", MIB, faults=Faults(failcopy=17))
    buffer = device.allocate(1000)

    def copy(_: int) -> bool:
        try:
            device.copy(source.fd, [Segment(0, 0, 1000)], buffer, Meter())
        except TransferFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(copy, range(64)))

    assert done.count(False) == 1
    buffer.release()


def test_each_device_counts_for_itself(source: Source) -> None:
    """A fault ordered of one device does not strike another."""
    faulty = SimulatedDevice("sim:0", MIB, faults=Faults(oom=1))
    sound = SimulatedDevice("sim:1", MIB)

    sound.allocate(1).release()

    with pytest.raises(OutOfDeviceMemory):
        faulty.allocate(1)


def test_a_slow_copy_hears_of_a_cancel(source: Source) -> None:
    """A copy that would take hours ends when it is cancelled, with some bytes done and memory to release."""
    device = SimulatedDevice("sim:0", 64 * MIB, bytes_per_second=1000)
    buffer, meter = device.allocate(16 * MIB), Meter()

    with ThreadPoolExecutor(1) as threads:
        copy = threads.submit(device.copy, source.fd, [Segment(0, 0, 16 * MIB)], buffer, meter)
        while not meter.bytes_done:
            threading.Event().wait(0.001)
        meter.cancel()
        with pytest.raises(Cancelled):
            copy.result()

    assert 0 < meter.bytes_done < MIB
    buffer.release()


def test_the_slowest_copy_hears_of_a_cancel_between_bytes(source: Source) -> None:
    """At one byte a second the wait for the next byte is itself cut short."""
    device = SimulatedDevice("sim:0", MIB, bytes_per_second=1)
    buffer, meter = device.allocate(1000), Meter()

    with ThreadPoolExecutor(1) as threads:
        copy = threads.submit(device.copy, source.fd, [Segment(0, 0, 1000)], buffer, meter)
        meter.cancel()
        with pytest.raises(Cancelled):
            copy.result()

    buffer.release()


def test_progress_is_smooth(source: Source) -> None:
    """A device with a bandwidth counts at least twenty times a second."""
    device = SimulatedDevice("sim:0", MIB, bytes_per_second=20_000)
    buffer, meter = device.allocate(4000), RecordingMeter()

    device.copy(source.fd, [Segment(0, 0, 4000)], buffer, meter)

    assert meter.added == [1000] * 4
    buffer.release()


@settings(deadline=None)
@given(
    st.integers(1, 1 << 40),
    st.lists(st.tuples(st.integers(1, 1 << 23), st.floats(0, 10)), min_size=1, max_size=30),
)
def test_the_link_is_never_faster_than_its_bandwidth(rate: int, requests: list[tuple[int, float]]) -> None:
    """In any span of time no more bytes pass than the bandwidth allows, beside the credit for idleness."""
    clock, now = TokenClock(rate), 0.0
    passed = []
    for nbytes, pause in requests:
        now += pause
        passed.append((now, clock.reserve(nbytes, now), nbytes))

    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span = passed[last][1] - passed[first][0]
            sent = sum(nbytes for _, _, nbytes in passed[first : last + 1])
            assert sent <= rate * (span + CREDIT_SECONDS) * (1 + 1e-9) + rate * 1e-9


def test_the_link_is_shared() -> None:
    """Bytes queue behind all that were there before, whoever sent them."""
    clock = TokenClock(1000)

    assert clock.reserve(1000, now=5.0) == pytest.approx(6.0 - CREDIT_SECONDS)
    assert clock.reserve(500, now=5.0) == pytest.approx(6.5 - CREDIT_SECONDS)
    assert clock.reserve(1000, now=100.0) == pytest.approx(101.0 - CREDIT_SECONDS)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 400))
def test_the_first_bytes_of_segments(sizes: list[int], nbytes: int) -> None:
    """Cutting segments keeps their order and starts, and as many bytes as asked for and there."""
    segments = [Segment(100 * number, 50 * number, size) for number, size in enumerate(sizes)]

    kept = first_bytes(segments, nbytes)

    assert sum(segment.nbytes for segment in kept) == min(nbytes, sum(sizes))
    assert [segment.file_offset for segment in kept] == [segment.file_offset for segment in segments]
    assert all(short.nbytes <= long.nbytes for short, long in zip(kept, segments, strict=True))
