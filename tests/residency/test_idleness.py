"""Idle models: unloaded once nobody has used them for as long as they were to be kept, and not before."""

import asyncio
from pathlib import Path

import pytest

from app.placement import PlacementRequest
from app.residency import Loadmaster
from app.residency.records import Cause, JobKind, ModelState
from app.residency.wishes import Retention
from tests.residency.deck import service, two_devices, until

WHOLE = PlacementRequest("all")
AT_ONCE = Retention(keep_alive=0)
SOON = Retention(keep_alive=0.2)


def gone(loadmaster: Loadmaster) -> bool:
    """Whether the model has been unloaded, and its wish withdrawn."""
    return "tiny" not in loadmaster._residents and "tiny" not in loadmaster._wishes.current


async def load(loadmaster: Loadmaster, retention: Retention) -> None:
    """Load the model whole."""
    await (await loadmaster.load("tiny", WHOLE, retention)).wait()


@pytest.mark.parametrize("retention", [AT_ONCE, SOON, Retention(pinned=True, keep_alive=0)])
def test_an_idle_model_is_unloaded(place: Path, retention: Retention) -> None:
    """By a job that says why, its wish withdrawn: the next start does not load it again."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await load(loadmaster, retention)
            await until(lambda: gone(loadmaster))
            await until(lambda: loadmaster.jobs.active("tiny") is None)
            newest = loadmaster.jobs.newest_first()[0]
            assert (newest.kind, newest.cause) == (JobKind.UNLOAD, Cause.IDLENESS)
            assert loadmaster.library.records()[0].state is ModelState.AVAILABLE
        async with service(place, *two_devices()) as loadmaster:
            await until(lambda: not loadmaster.restoring)
            assert gone(loadmaster)

    asyncio.run(main())


def test_a_model_in_use_stays(place: Path) -> None:
    """While somebody holds it; it goes once they have let go."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await load(loadmaster, SOON)
            with loadmaster._residents["tiny"].hold():
                await asyncio.sleep(2 * SOON.keep_alive)
                assert not gone(loadmaster)
            await until(lambda: gone(loadmaster))

    asyncio.run(main())


def test_a_touch_puts_it_off(place: Path) -> None:
    """The time counts from the last use, and the model's record says when it is up."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await load(loadmaster, Retention(keep_alive=1000))
            [before] = loadmaster.library.records()
            assert before.expires_at is not None
            await until(lambda: (loadmaster.touch("tiny").expires_at or 0) > (before.expires_at or 0))
            [record] = loadmaster.library.records()
            assert record.expires_at is not None
            assert record.used_at is not None
            assert round(record.expires_at - record.used_at, 3) == 1000

    asyncio.run(main())


def test_how_long_it_stays_can_be_changed(place: Path) -> None:
    """By a load that moves nothing, and by an offload, which keeps what it is not told."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await load(loadmaster, Retention(pinned=True))
            await (await loadmaster.offload("tiny", lambda _: PlacementRequest(2))).wait()
            [record] = loadmaster.library.records()
            assert (record.pinned, record.keep_alive, record.expires_at) == (True, -1, None)
            job = await loadmaster.load("tiny", PlacementRequest(2), Retention(keep_alive=500))
            assert job.ended
            [record] = loadmaster.library.records()
            assert (record.pinned, record.keep_alive) == (False, 500)
            await (await loadmaster.offload("tiny", lambda request: request, lambda _: AT_ONCE)).wait()
            await until(lambda: gone(loadmaster))

    asyncio.run(main())


def test_a_restart_keeps_how_long_it_stays(place: Path) -> None:
    """Being loaded again counts as a use."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await load(loadmaster, Retention(pinned=True, keep_alive=700))
        async with service(place, *two_devices()) as loadmaster:
            await until(lambda: not loadmaster.restoring)
            [record] = loadmaster.library.records()
            assert (record.pinned, record.keep_alive) == (True, 700)
            assert record.expires_at is not None

    asyncio.run(main())
