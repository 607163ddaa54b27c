"""What every device does: one test class, run on each implementation. Real files, real memory, real threads."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from app.devices import Device, DeviceKind, DeviceMemory, Meter, Segment
from app.errors import Cancelled, DeviceLost, OutOfDeviceMemory, TransferFailed
from tests.devices.instruments import (
    SOURCE_BYTES,
    RecordingMeter,
    Source,
    Stranger,
    open_descriptors,
    own_bytes,
    read_until_refused,
)


class DeviceTests:
    """The contract of `app.devices.base.Device` and `Buffer`; a subclass brings the fixture `device`."""

    free_is_exact: ClassVar[bool] = False  # whether nobody else can change what `memory` says

    @pytest.fixture
    def device(self) -> Device:
        """The device under test."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def books(self, device: Device, source: Source) -> Iterator[None]:
        """After each test the device holds what it held before, and so does the process."""
        descriptors, memory = open_descriptors(), device.memory()
        yield
        device.close()
        assert open_descriptors() == descriptors
        if self.free_is_exact:
            assert device.memory() == memory

    def test_says_what_it_is(self, device: Device) -> None:
        """A device has an id, a name and facts, and its memory adds up."""
        memory = device.memory()
        total, free = memory.total_bytes, memory.free_bytes

        assert device.id.split(":")[0] in {"cpu", "sim", "cuda"}
        assert device.name
        assert all(isinstance(key, str) for key in device.capabilities)
        assert total is not None
        assert free is not None
        assert 0 <= free <= total
        assert 0 <= (memory.others_bytes or 0) <= total - free

    def test_tells_its_own_from_others(self, device: Device) -> None:
        """What is neither free nor others' is what its buffers take; of the host nobody knows."""
        own = []
        for nbytes in (12 << 20, 1, 8 << 20):
            buffer = device.allocate(nbytes)
            own.append(own_bytes(device.memory()))
            buffer.release()
            own.append(own_bytes(device.memory()))

        assert own in ([12 << 20, 0, 1, 0, 8 << 20, 0], [None] * 6)
        assert (None in own) is (device.kind is DeviceKind.HOST)

    def test_starts_with_zeros(self, device: Device) -> None:
        """A fresh buffer is as large as asked for, and holds zeros."""
        buffer = device.allocate(100_001)

        assert buffer.nbytes == 100_001
        assert buffer.read(0, 100_001) == bytes(100_001)
        buffer.release()

    def test_copies_segments(self, device: Device, source: Source) -> None:
        """Segments arrive where they belong, from and to odd offsets, in any order; what lies between stays zero."""
        segments = [Segment(4097, 300, 5000), Segment(11, 7, 1), Segment(1, 8000, 1999), Segment(0, 9, 0)]
        buffer = device.allocate(10_000)

        device.copy(source.fd, segments, buffer, Meter())

        expected = bytearray(10_000)
        for segment in segments:
            arrived = source.data[segment.file_offset : segment.file_offset + segment.nbytes]
            expected[segment.buffer_offset : segment.buffer_offset + segment.nbytes] = arrived
        assert buffer.read(0, 10_000) == bytes(expected)
        buffer.release()

    def test_copies_more_than_one_piece(self, device: Device, source: Source) -> None:
        """A segment larger than what is read at once arrives whole."""
        buffer = device.allocate(SOURCE_BYTES)

        device.copy(source.fd, [Segment(0, 0, SOURCE_BYTES)], buffer, Meter())

        assert buffer.read(0, SOURCE_BYTES) == source.data
        buffer.release()

    def test_copies_many_small_segments(self, device: Device, source: Source) -> None:
        """More segments than any staging has room for arrive in their places."""
        segments = [Segment(13 * number, 64 * number, 13) for number in range(500)]
        buffer = device.allocate(64 * 500)

        device.copy(source.fd, segments, buffer, Meter())

        for segment in segments:
            expected = source.data[segment.file_offset : segment.file_offset + 13]
            assert buffer.read(segment.buffer_offset, 13) == expected
        buffer.release()

    def test_leaves_the_file_position(self, device: Device, source: Source) -> None:
        """The file's position belongs to its other readers."""
        os.lseek(source.fd, 123, os.SEEK_SET)
        buffer = device.allocate(1000)

        device.copy(source.fd, [Segment(5, 0, 1000)], buffer, Meter())

        assert os.lseek(source.fd, 0, os.SEEK_CUR) == 123
        buffer.release()

    @pytest.mark.parametrize(("offset", "nbytes"), [(0, 0), (0, 1), (999, 1), (1000, 0), (17, 400)])
    def test_reads_ranges(self, device: Device, source: Source, offset: int, nbytes: int) -> None:
        """A read returns exactly the range, also an empty one at the end."""
        buffer = device.allocate(1000)
        device.copy(source.fd, [Segment(0, 0, 1000)], buffer, Meter())

        assert buffer.read(offset, nbytes) == source.data[offset : offset + nbytes]
        buffer.release()

    @pytest.mark.parametrize(("offset", "nbytes"), [(-1, 1), (0, -1), (0, 1001), (1000, 1), (5000, 0)])
    def test_refuses_reads_outside(self, device: Device, offset: int, nbytes: int) -> None:
        """A range outside the buffer is an error, never fewer bytes."""
        buffer = device.allocate(1000)

        with pytest.raises(ValueError, match="1000 bytes"):
            buffer.read(offset, nbytes)
        buffer.release()

    @pytest.mark.parametrize(
        "segment",
        [Segment(0, -1, 1), Segment(0, 0, -1), Segment(0, 0, 1001), Segment(0, 1000, 1), Segment(-1, 0, 1)],
    )
    def test_refuses_segments_outside(self, device: Device, source: Source, segment: Segment) -> None:
        """A segment outside the buffer or before the file is refused before a byte is copied."""
        buffer, meter = device.allocate(1000), Meter()

        with pytest.raises(ValueError, match="byte"):
            device.copy(source.fd, [Segment(0, 0, 10), segment], buffer, meter)

        assert meter.bytes_done == 0
        assert buffer.read(0, 1000) == bytes(1000)
        buffer.release()

    @pytest.mark.parametrize("nbytes", [0, -1])
    def test_refuses_empty_buffers(self, device: Device, nbytes: int) -> None:
        """A buffer has at least one byte."""
        with pytest.raises(ValueError, match=str(nbytes)):
            device.allocate(nbytes)

    def test_refuses_a_stranger(self, device: Device, source: Source) -> None:
        """A buffer that the device did not allocate is refused."""
        with pytest.raises(ValueError, match=device.id):
            device.copy(source.fd, [Segment(0, 0, 1)], Stranger(), Meter())

    def test_runs_out_of_memory(self, device: Device) -> None:
        """What no machine has is refused with the numbers, and leaves nothing behind."""
        with pytest.raises(OutOfDeviceMemory) as caught:
            device.allocate(1 << 62)

        assert caught.value.device == device.id
        assert caught.value.requested_bytes == 1 << 62
        assert caught.value.free_bytes is None or caught.value.free_bytes < 1 << 62

    def test_notices_a_short_file(self, device: Device, source: Source) -> None:
        """A file that ends within a segment fails the copy: how far it came, how much was wanted, what was there."""
        buffer, meter = device.allocate(2000), Meter()
        segments = [Segment(0, 0, 1000), Segment(SOURCE_BYTES - 10, 1000, 1000)]

        with pytest.raises(TransferFailed, match=f"{SOURCE_BYTES} bytes") as caught:
            device.copy(source.fd, segments, buffer, meter)

        assert caught.value.device == device.id
        assert caught.value.requested_bytes == 2000
        assert caught.value.done_bytes in {0, 1000}  # bytes still in flight are not done
        assert caught.value.done_bytes == meter.bytes_done
        buffer.release()

    def test_notices_an_unreadable_file(self, device: Device) -> None:
        """A descriptor that cannot be read at an offset fails the copy with the reason."""
        reader, writer = os.pipe()
        buffer = device.allocate(10)

        with pytest.raises(TransferFailed, match="reading the file at byte 0"):
            device.copy(reader, [Segment(0, 0, 10)], buffer, Meter())

        os.close(reader)
        os.close(writer)
        buffer.release()

    def test_counts_every_byte_once(self, device: Device, source: Source) -> None:
        """The meter has every byte once, in steps of at most 8 MiB."""
        segments = [Segment(5, 0, SOURCE_BYTES - 5), Segment(0, SOURCE_BYTES, 77)]
        buffer, meter = device.allocate(SOURCE_BYTES + 77), RecordingMeter()

        device.copy(source.fd, segments, buffer, meter)

        assert sum(meter.added) == meter.bytes_done == SOURCE_BYTES - 5 + 77
        assert max(meter.added) <= 8 << 20
        buffer.release()

    def test_stops_in_the_middle(self, device: Device, source: Source) -> None:
        """A cancelled copy stops at its next step; the buffer can be released, or filled after all."""
        buffer, meter = device.allocate(SOURCE_BYTES), RecordingMeter(until=1)

        with pytest.raises(Cancelled):
            device.copy(source.fd, [Segment(0, 0, SOURCE_BYTES)], buffer, meter)

        assert 0 < meter.bytes_done < SOURCE_BYTES
        device.copy(source.fd, [Segment(0, 0, SOURCE_BYTES)], buffer, Meter())
        assert buffer.read(0, SOURCE_BYTES) == source.data
        buffer.release()

    def test_does_not_start_when_cancelled(self, device: Device, source: Source) -> None:
        """A copy that was cancelled before it began copies nothing."""
        buffer, meter = device.allocate(1000), Meter()
        meter.cancel()

        with pytest.raises(Cancelled):
            device.copy(source.fd, [Segment(0, 0, 1000)], buffer, meter)

        assert meter.bytes_done == 0
        assert buffer.read(0, 1000) == bytes(1000)
        buffer.release()

    def test_releases_once(self, device: Device, source: Source) -> None:
        """A second release does nothing; a read or a copy after the first is refused."""
        buffer = device.allocate(1000)

        buffer.release()
        buffer.release()

        with pytest.raises(ValueError, match="released"):
            buffer.read(0, 1)
        with pytest.raises(ValueError, match="released"):
            device.copy(source.fd, [Segment(0, 0, 1)], buffer, Meter())

    def test_releases_after_a_failure_still_in_hand(self, device: Device) -> None:
        """A buffer can be released while the error of its copy, with all its frames, is being handled."""
        buffer = device.allocate(10)
        descriptor = os.open(os.devnull, os.O_RDONLY)
        try:
            device.copy(descriptor, [Segment(0, 0, 10)], buffer, Meter())
        except TransferFailed:
            buffer.release()
        os.close(descriptor)

        with pytest.raises(ValueError, match="released"):
            buffer.read(0, 1)

    def test_copies_concurrently(self, device: Device, source: Source) -> None:
        """Copies from several threads, into one buffer and into several, do not disturb each other."""
        shared = device.allocate(4 << 20)
        own = [device.allocate(4 << 20) for _ in range(4)]

        def work(number: int) -> None:
            device.copy(source.fd, [Segment(number << 20, number << 20, 1 << 20)], shared, Meter())
            device.copy(source.fd, [Segment(number, 0, 4 << 20)], own[number], Meter())

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))

        assert shared.read(0, 4 << 20) == source.data[: 4 << 20]
        for number, buffer in enumerate(own):
            assert buffer.read(0, 4 << 20) == source.data[number : number + (4 << 20)]
        for buffer in [shared, *own]:
            buffer.release()

    def test_reads_while_it_is_released(self, device: Device, source: Source) -> None:
        """A read that races with the release returns the right bytes or is refused; it never crashes."""
        for _ in range(20):
            buffer = device.allocate(1 << 20)
            device.copy(source.fd, [Segment(0, 0, 1 << 20)], buffer, Meter())
            started = threading.Barrier(4)
            with ThreadPoolExecutor(4) as threads:
                reads = [threads.submit(read_until_refused, buffer, started) for _ in range(3)]
                started.wait()
                buffer.release()
                assert all(set(read.result()) <= {source.data[: 1 << 20]} for read in reads)

    def test_gives_its_staging_back(self, device: Device, source: Source) -> None:
        """What a device pins of the host for its copies it keeps for the next one, and gives back when it closes."""
        buffer = device.allocate(1000)
        device.copy(source.fd, [Segment(0, 0, 1000)], buffer, Meter())
        kept = device.staging_bytes
        device.copy(source.fd, [Segment(0, 0, 1000)], buffer, Meter())
        buffer.release()

        assert device.staging_bytes == kept
        device.close()
        assert device.staging_bytes == 0

    def test_closes_twice(self, device: Device, source: Source) -> None:
        """A second close does nothing."""
        buffer = device.allocate(1000)
        device.copy(source.fd, [Segment(0, 0, 1000)], buffer, Meter())
        buffer.release()

        device.close()
        device.close()

        assert isinstance(device.memory(), DeviceMemory)


class LostDeviceTests:
    """What every device does that is lost; a subclass brings the fixture `broken`, and what is said of it."""

    happened: ClassVar[str] = "pulled out"

    @pytest.fixture
    def broken(self) -> tuple[Device, Callable[[], None]]:
        """A device, and what breaks it."""
        raise NotImplementedError

    def test_nothing_can_be_had_of_it(self, broken: tuple[Device, Callable[[], None]], source: Source) -> None:
        """Allocations, copies and reads are refused with what happened; what is free and what is others' is unknown."""
        device, break_it = broken
        buffer, meter, total = device.allocate(1000), Meter(), device.memory().total_bytes
        break_it()

        for call in (
            lambda: device.allocate(1),
            lambda: device.copy(source.fd, [Segment(0, 0, 1000)], buffer, meter),
            lambda: buffer.read(0, 1000),
        ):
            with pytest.raises(DeviceLost, match=f"{device.id} is lost: .*{self.happened}") as caught:
                call()
            assert (caught.value.code, caught.value.facts["reason"]) == ("device_error", "lost")
            assert (caught.value.device, caught.value.happened) == (device.id, device.loss.reason)
        assert meter.bytes_done == 0
        assert device.memory() == DeviceMemory(total, None, None)
        buffer.release()

    def test_buffers_of_it_can_be_released(self, broken: tuple[Device, Callable[[], None]]) -> None:
        """As often as anybody likes, and it can be closed; a read afterwards is refused as of any released buffer."""
        device, break_it = broken
        buffer = device.allocate(1000)
        break_it()

        buffer.release()
        buffer.release()

        with pytest.raises(ValueError, match="released"):
            buffer.read(0, 1)
        device.close()
        device.close()

    def test_a_look_at_the_memory_finds_it(self, broken: tuple[Device, Callable[[], None]]) -> None:
        """It takes no copy and no read to know of it, and those who watch are told."""
        device, break_it = broken
        told: list[str | None] = []
        device.loss.watch(lambda: told.append(device.loss.reason))
        assert (device.loss.reason, told) == (None, [])
        break_it()

        assert device.memory().free_bytes is None
        assert told == [device.loss.reason]
        assert self.happened in (device.loss.reason or "")
