"""Copies that go wrong otherwise: short, wrong on arrival, one beside others."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.devices import Buffer, Meter, Segment
from app.devices.simulated import Faults, SimulatedDevice
from app.errors import TransferFailed
from app.model import ProblemKind
from app.placement import PlacementRequest, Slab, Slice, SplitMode
from app.residency.records import VerifyResult
from tests.residency.deck import ALL, MIB, books, ended, service
from tests.residency.test_every_fault import LOADS, Case, devices, load, rehearse, slabs, strikes, write


class Hasty(SimulatedDevice):
    """A device that says it is done before it is: from its fourth copy on the last byte of all is never sent."""

    def copy(self, fd: int, segments: Sequence[Segment], buffer: Buffer, meter: Meter) -> None:
        """Copy, and acknowledge what was copied."""
        if self._copies >= 3:
            *whole, last = segments
            segments = [*whole, replace(last, nbytes=last.nbytes - 1)]
        super().copy(fd, segments, buffer, meter)


@pytest.mark.parametrize("n_gpu_layers", [None, 1], ids=["load", "offload"])
def test_a_copy_that_comes_up_short_is_found_before_the_switch(place: Path, n_gpu_layers: int | None) -> None:
    """Nobody ever reads it: the job fails with the numbers, and what was there serves on."""

    async def main() -> None:
        async with service(place, Hasty("sim:0", 4 * MIB)) as loadmaster:
            if n_gpu_layers is not None:
                await (await loadmaster.load("tiny", PlacementRequest(n_gpu_layers, split_mode=SplitMode.NONE))).wait()
            before = books(loadmaster, "tiny")
            failure = await ended(await loadmaster.load("tiny", PlacementRequest(3)))
            assert isinstance(failure, TransferFailed)
            assert (failure.device, failure.done_bytes) == ("sim:0", failure.requested_bytes - 1)
            assert f"{failure.done_bytes} of {failure.requested_bytes} bytes of layer" in failure.message
            assert books(loadmaster, "tiny") == before

    asyncio.run(main())


@pytest.mark.parametrize("case", LOADS.values(), ids=LOADS)
def test_whichever_copy_arrives_wrong_deep_verify_names_it(place: Path, case: Case) -> None:
    """The load succeeds, for the device has acknowledged every byte; a deep look names one tensor and its device."""
    write(place, case)

    async def main() -> None:
        rehearsal = await rehearse(place, case)
        for device, number in strikes(rehearsal, "failcopy"):
            first, second, host = devices(rehearsal.sizes, device, flip=number)
            async with service(place, first, second, host=host) as loadmaster:
                await load(loadmaster, case.after)
                job = await loadmaster.verify("tiny", deep=True)
                await job.wait()
                assert isinstance(job.result, VerifyResult)
                (problem,) = job.result.problems
                part = copies(slabs(loadmaster), device)[number - 1]
                at = part.start + part.nbytes // 2
                where = f"byte {at} of the copy on {device} is not the file's"
                assert problem.message == f"{part.tensor.name}: {where}"
                assert (problem.kind, problem.tensor) == (ProblemKind.WRONG_COPY, part.tensor.name)
                await (await loadmaster.unload("tiny")).wait()

    asyncio.run(main())


def copies(held: Sequence[Slab], device: str) -> list[Slice]:
    """What each copy to a device brings first; a slab takes one copy from each file that it is in."""
    first: dict[tuple[Slab, int], Slice] = {}
    for slab in held:
        for part in slab.slices:
            if slab.device == device and part.nbytes:
                first.setdefault((slab, part.tensor.file), part)
    return list(first.values())


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
