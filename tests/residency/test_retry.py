"""Out of memory: one more try where replaced slabs were freed meanwhile, and none otherwise."""

import asyncio
import threading
from pathlib import Path

import pytest

from app.devices.simulated import Faults, SimulatedBuffer, SimulatedDevice
from app.errors import OutOfDeviceMemory
from app.placement import PlacementRequest
from app.residency.records import JobState
from tests.residency.deck import MIB, assert_books_agree, at, books, ended, rows, service, until

WHOLE = PlacementRequest("all")
SLABS = 6
"""How many the whole model has on one device."""


class Hesitant(SimulatedDevice):
    """A device that refuses some allocations, by number, and lets somebody else act before it does."""

    def __init__(self, *refused: int) -> None:
        super().__init__("sim:0", 4 * MIB)
        self.refuses = threading.Event()
        self.go_on = threading.Event()
        self._refused = refused
        self._asked = 0

    def allocate(self, nbytes: int) -> SimulatedBuffer:
        """As any other, or not."""
        self._asked += 1
        if self._asked not in self._refused:
            return super().allocate(nbytes)
        self.refuses.set()
        self.go_on.wait(30)
        raise OutOfDeviceMemory(device=self.id, requested_bytes=nbytes, free_bytes=0)


@pytest.mark.parametrize(
    ("lets_go", "refused", "succeeds"),
    [(True, (SLABS + 1,), True), (False, (SLABS + 1,), False), (True, (SLABS + 1, SLABS + 2), False)],
    ids=["freed", "held", "full again"],
)
def test_one_more_try_where_slabs_were_freed(
    place: Path, lets_go: bool, refused: tuple[int, ...], succeeds: bool
) -> None:
    """A reader lets go of replaced slabs just as the device is full; where it does not, the job fails as it should."""

    async def main() -> None:
        device = Hesitant(*refused)
        async with service(place, device) as loadmaster:
            await (await loadmaster.load("tiny", WHOLE)).wait()
            holding = loadmaster._residents["tiny"].hold()
            holding.__enter__()
            await (await loadmaster.offload("tiny", at(0))).wait()
            before = books(loadmaster, "tiny")
            job = await loadmaster.offload("tiny", at(4))
            await asyncio.to_thread(device.refuses.wait, 30)
            if lets_go:
                holding.__exit__(None, None, None)
                await until(lambda: rows(loadmaster)["sim:0"].retired_bytes == 0)
            device.go_on.set()
            error = await ended(job)
            if succeeds:
                assert (job.state, error) == (JobState.SUCCEEDED, None)
            else:
                assert isinstance(error, OutOfDeviceMemory)
                assert books(loadmaster, "tiny").wish == before.wish
                assert books(loadmaster, "tiny").placement == before.placement
            if not lets_go:
                assert books(loadmaster, "tiny") == before
                holding.__exit__(None, None, None)
                await until(lambda: rows(loadmaster)["sim:0"].retired_bytes == 0)
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_no_second_try_where_nothing_was_freed(place: Path) -> None:
    """The fault would not strike twice, and so a second try would have gone well."""

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", 4 * MIB, faults=Faults(oom=2))) as loadmaster:
            assert isinstance(await ended(await loadmaster.load("tiny", WHOLE)), OutOfDeviceMemory)

    asyncio.run(main())
