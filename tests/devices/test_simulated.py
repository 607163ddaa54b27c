"""The simulated device: capacity, real pages, what others hold."""

import mmap
import os
import resource
from collections.abc import Callable

import pytest

from app.devices import Device, DeviceKind, DeviceMemory, Meter, Segment
from app.devices.simulated import Faults, SimulatedDevice
from app.errors import DeviceError, OutOfDeviceMemory
from tests.devices.contract import DeviceTests, LostDeviceTests
from tests.devices.instruments import Source, open_descriptors

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
