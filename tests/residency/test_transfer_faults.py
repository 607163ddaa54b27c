"""A device that fails at any point of a load or an offload leaves everything exactly as it was."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from app.devices.simulated import Faults, SimulatedDevice
from app.errors import DeviceError, FileChanged, OutOfDeviceMemory, TransferFailed
from app.placement import PlacementRequest
from app.residency.records import JobState, ModelState
from tests.residency.deck import ALL, MIB, assert_books_agree, books, ended, progress, service, slow_device

SLABS = 6  # input, four blocks, output; half of them on each device
FAULTS = [("oom", OutOfDeviceMemory), ("failcopy", TransferFailed)]


def devices(fault: str, number: int, broken: str) -> list[SimulatedDevice]:
    """Two devices, one of which fails at its `number`th allocation or copy."""
    faults = Faults(oom=number) if fault == "oom" else Faults(failcopy=number)
    return [SimulatedDevice(id_, 4 * MIB, faults=faults if id_ == broken else None) for id_ in ("sim:0", "sim:1")]


@pytest.mark.parametrize("broken", ["sim:0", "sim:1"])
@pytest.mark.parametrize("number", range(1, SLABS // 2 + 1))
@pytest.mark.parametrize(("fault", "error"), FAULTS)
def test_a_failed_load_leaves_nothing(
    place: Path, fault: str, error: type[DeviceError], number: int, broken: str
) -> None:
    """At whichever slab it fails, the job says where, the books are as before, and the next try succeeds."""

    async def main() -> None:
        async with service(place, *devices(fault, number, broken)) as loadmaster:
            before = books(loadmaster, "tiny")
            job = await loadmaster.load("tiny", ALL)
            failure = await ended(job)

            assert isinstance(failure, error)
            assert failure.device == broken
            assert failure.facts["requested_bytes"]
            assert job.state is JobState.FAILED
            assert books(loadmaster, "tiny") == before
            record = loadmaster.library.record(loadmaster.library.entry("tiny"))
            assert (record.state, record.error) == (ModelState.FAILED, failure)

            await (await loadmaster.load("tiny", ALL)).wait()
            assert loadmaster.library.record(loadmaster.library.entry("tiny")).error is None
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


@pytest.mark.parametrize("number", range(1, SLABS + 1))
@pytest.mark.parametrize(("fault", "error"), FAULTS)
def test_a_failed_offload_leaves_the_former_placement(
    place: Path, fault: str, error: type[DeviceError], number: int
) -> None:
    """A model that is loaded stays loaded as it was, at its generation, and its bytes are still the file's."""

    async def main() -> None:
        async with service(place, *devices(fault, number, "sim:1")) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest("all", devices=("sim:0",)))).wait()
            before = books(loadmaster, "tiny")
            elsewhere = PlacementRequest("all", devices=("sim:1",))
            job = await loadmaster.offload("tiny", lambda _: elsewhere)
            failure = await ended(job)

            assert isinstance(failure, error)
            assert failure.device == "sim:1"
            assert job.state is JobState.FAILED
            assert books(loadmaster, "tiny") == before
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.LOADED
            await assert_books_agree(loadmaster, "tiny")

            await (await loadmaster.offload("tiny", lambda _: elsewhere)).wait()
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_a_failure_stops_the_copies_of_other_devices(place: Path) -> None:
    """The job fails with the device's error, not with the cancellation of its slower neighbour."""

    async def main() -> None:
        slow = SimulatedDevice("sim:1", 4 * MIB, bytes_per_second=1000)
        async with service(place, SimulatedDevice("sim:0", 4 * MIB, faults=Faults(failcopy=2)), slow) as loadmaster:
            job = await loadmaster.load("tiny", ALL)
            failure = await ended(job)
            assert isinstance(failure, TransferFailed)
            assert (failure.device, failure.done_bytes) == ("sim:0", failure.requested_bytes // 2)
            assert job.bytes_done < job.bytes_total / 2

    asyncio.run(main())


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (lambda path: path.unlink(), "is gone"),
        (lambda path: path.replace(path.with_name("moved.gguf")), "is gone"),
        (lambda path: path.write_bytes(path.read_bytes()), "was written to"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "changed its size"),
        (lambda path: path.write_bytes(path.read_bytes()[:60_000]), "changed its size"),
        (lambda path: path.touch(), "was written to"),
    ],
    ids=["unlinked", "moved", "rewritten", "grown", "cut", "touched"],
)
def test_a_file_that_changes_while_it_is_copied_fails_the_load(
    place: Path, deed: Callable[[Path], object], words: str
) -> None:
    """The job fails and says what happened to the file; nothing of it is left."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            before = books(loadmaster, "tiny")
            job = await loadmaster.load("tiny", PlacementRequest("all"))
            await progress(loadmaster, job)
            deed(place / "models" / "tiny.gguf")
            failure = await ended(job)
            assert isinstance(failure, FileChanged)
            assert words in failure.message
            assert books(loadmaster, "tiny") == before

    asyncio.run(main())
