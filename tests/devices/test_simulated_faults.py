"""The faults of the simulated device: each strikes once, when it was ordered to."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.devices import Meter, Segment
from app.devices.simulated import Faults, SimulatedDevice, first_bytes
from app.errors import DeviceLost, OutOfDeviceMemory, TransferFailed
from tests.devices.instruments import Source, open_descriptors

MIB = 1 << 20


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


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 400))
def test_the_first_bytes_of_segments(sizes: list[int], nbytes: int) -> None:
    """Cutting segments keeps their order and starts, and as many bytes as asked for and there."""
    segments = [Segment(100 * number, 50 * number, size) for number, size in enumerate(sizes)]

    kept = first_bytes(segments, nbytes)

    assert sum(segment.nbytes for segment in kept) == min(nbytes, sum(sizes))
    assert [segment.file_offset for segment in kept] == [segment.file_offset for segment in segments]
    assert all(short.nbytes <= long.nbytes for short, long in zip(kept, segments, strict=True))
