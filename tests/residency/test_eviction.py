"""Models share the memory: idle ones make room, pinned ones and those in use never, and all of it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.devices.simulated import SimulatedDevice
from app.errors import DoesNotFit, NotLoaded
from app.placement import HostMode, Override, PlacementRequest, Strategy
from app.residency import Loadmaster
from app.residency.eviction import Evict
from app.residency.jobs import Job
from app.residency.records import Cause, EvictionRecord, JobKind, JobResult, JobState, ModelState
from app.residency.wishes import STAYS, Retention
from tests.residency.deck import assert_books_agree, at, ended, heard, listening, rows, service, until
from tests.residency.instruments import TINY

WHOLE = PlacementRequest("all")
PINNED = Retention(pinned=True)


@pytest.fixture
def shelf(place: Path) -> Path:
    """Four models of the same size."""
    (place / "models" / "tiny.gguf").unlink()
    for name in "abcd":
        (place / "models" / f"{name}.gguf").write_bytes(TINY)
    return place


async def model_bytes(shelf: Path) -> int:
    """What one of them takes of a device."""
    async with service(shelf, SimulatedDevice("sim:0", 1 << 26)) as loadmaster:
        await (await loadmaster.load("a", WHOLE)).wait()
        used = rows(loadmaster)["sim:0"].used_bytes
        await (await loadmaster.unload("a")).wait()
    return used


@asynccontextmanager
async def room_for(models: float, shelf: Path) -> AsyncIterator[Loadmaster]:
    """A service whose one device has room for so many of the models."""
    capacity = int(models * await model_bytes(shelf))
    async with service(shelf, SimulatedDevice("sim:0", capacity)) as loadmaster:
        yield loadmaster


async def load(loadmaster: Loadmaster, *models: str, retention: Retention = STAYS) -> None:
    """Load them whole, one after the other."""
    for model in models:
        await (await loadmaster.load(model, WHOLE, retention)).wait()


def evicted(job: Job) -> dict[str, int | None]:
    """The models that made room for a job, and how many layers they were left with."""
    assert isinstance(job.result, JobResult)
    return {one.model: one.n_gpu_layers for one in job.result.evicted}


def states(loadmaster: Loadmaster) -> dict[str, ModelState]:
    """What each model is doing."""
    return {record.id: record.state for record in loadmaster.library.records()}


def test_the_least_recently_used_model_makes_room(shelf: Path) -> None:
    """By load, touch, offload and hold; the result says which, its job says why, and its wish is withdrawn."""

    async def main() -> None:
        async with room_for(3.5, shelf) as loadmaster:
            await load(loadmaster, "a", "b", "c")
            loadmaster.touch("a")
            with loadmaster._residents["b"].hold():
                pass
            job = await loadmaster.load("d", WHOLE)
            await job.wait()
            assert evicted(job) == {"c": None}
            assert set(loadmaster._wishes.current) == {"a", "b", "d"}
            [why] = [one for one in loadmaster.jobs.newest_first() if one.model == "c" and one.cause is Cause.EVICTION]
            assert (why.kind, why.state) == (JobKind.UNLOAD, JobState.SUCCEEDED)
            await (await loadmaster.offload("a", at(3))).wait()
            job = await loadmaster.load("c", WHOLE)
            await job.wait()
            assert evicted(job) == {"b": None}
            for model in "acd":
                await assert_books_agree(loadmaster, model)

    asyncio.run(main())


def test_only_as_many_as_needed(shelf: Path) -> None:
    """What is free counts first; a load of few layers evicts one, not all; one that fits evicts none."""

    async def main() -> None:
        async with room_for(3.4, shelf) as loadmaster:
            await load(loadmaster, "a", "b", "c")
            taken = rows(loadmaster)["sim:0"].used_bytes // 3
            job = await loadmaster.load("d", PlacementRequest(1))
            await job.wait()
            assert evicted(job) == {}
            job = await loadmaster.offload("d", at(4))
            await job.wait()
            assert evicted(job) == {"a": None}
            assert isinstance(job.result, JobResult)
            assert job.result.evicted == (EvictionRecord("a", None, {"sim:0": taken}),)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("retention", "evict", "words"),
    [
        (PINNED, Evict.MODELS, "all models there are pinned: a, b"),
        (PINNED, Evict.LAYERS, "all models there are pinned: a, b"),
        (STAYS, Evict.NONE, "idle, but not evicted: a, b"),
    ],
)
def test_a_refusal_says_who_is_in_the_way(shelf: Path, retention: Retention, evict: Evict, words: str) -> None:
    """Pinned models are never evicted, and none where it was not allowed; nothing changes."""

    async def main() -> None:
        async with room_for(2.5, shelf) as loadmaster:
            await load(loadmaster, "a", "b", retention=retention)
            with pytest.raises(DoesNotFit, match=words) as caught:
                await loadmaster.load("c", WHOLE, evict=evict)
            assert [*caught.value.facts["pinned"], *caught.value.facts["idle"]] == ["a", "b"]  # type: ignore[misc]
            assert rows(loadmaster)["sim:0"].reserved_bytes == 0
            assert set(loadmaster._residents) == {"a", "b"}

    asyncio.run(main())


def test_a_model_that_is_held_is_in_use(shelf: Path) -> None:
    """The next one goes in its place; where there is no next one, the refusal says so."""

    async def main() -> None:
        async with room_for(2.5, shelf) as loadmaster:
            await load(loadmaster, "a", "b")
            with loadmaster._residents["a"].hold():
                job = await loadmaster.load("c", WHOLE)
                await job.wait()
                assert evicted(job) == {"b": None}
                with loadmaster._residents["c"].hold(), pytest.raises(DoesNotFit, match="in use: a, c"):
                    await loadmaster.load("d", WHOLE)

    asyncio.run(main())


@pytest.mark.parametrize("strategy", [Strategy.FIRST, Strategy.LAST, Strategy.ENDS, Strategy.LLAMA_CPP])
def test_layers_instead_of_models(shelf: Path, strategy: Strategy) -> None:
    """Idle models stay loaded with as many layers as there is room for; no byte is copied for it."""

    async def main() -> None:
        async with room_for(2.5, shelf) as loadmaster:
            await (await loadmaster.load("a", PlacementRequest("all", strategy))).wait()
            await load(loadmaster, "b")
            generation = loadmaster._residents["a"].current.number
            job = await loadmaster.load("c", WHOLE, evict=Evict.LAYERS)
            await job.wait()
            [(model, left)] = evicted(job).items()
            assert model == "a"
            assert left is not None
            assert 0 < left < 4
            resident = loadmaster._residents["a"]
            assert (resident.current.placement.n_gpu_layers, resident.current.number) == (left, generation + 1)
            wish = loadmaster._wishes.current["a"]
            assert wish is not None
            assert wish.request == PlacementRequest(left, strategy)
            [why] = [one for one in loadmaster.jobs.newest_first() if one.cause is Cause.EVICTION]
            assert (why.kind, why.bytes_total) == (JobKind.OFFLOAD, 0)
            before = resident.current.placement
            for name in "abc":
                await assert_books_agree(loadmaster, name)
            capacity = rows(loadmaster)["sim:0"].limit_bytes
            wishes = dict(loadmaster._wishes.current)
        async with service(shelf, SimulatedDevice("sim:0", capacity)) as loadmaster:
            await until(lambda: not loadmaster.restoring)
            assert loadmaster._wishes.current == wishes
            assert set(states(loadmaster).values()) == {ModelState.LOADED, ModelState.AVAILABLE}
            assert loadmaster._residents["a"].current.placement == before

    asyncio.run(main())


def test_layers_are_not_taken_where_that_would_not_be_what_was_asked_for(shelf: Path) -> None:
    """Overrides say where tensors are whatever n is, and copies on the host would have to be made first."""

    async def main() -> None:
        async with room_for(2.1, shelf) as loadmaster:
            pulled = PlacementRequest("all", overrides=(Override("norm", "sim:0"),))
            await (await loadmaster.load("a", pulled)).wait()
            await (await loadmaster.load("b", PlacementRequest("all", host=HostMode.BUFFERED))).wait()
            await (await loadmaster.offload("b", lambda request: replace(request, n_gpu_layers=3))).wait()
            with pytest.raises(DoesNotFit, match="idle, but not evicted: a"):
                await loadmaster.load("c", WHOLE, evict=Evict.LAYERS)

    asyncio.run(main())


def test_auto_never_counts_on_eviction(shelf: Path) -> None:
    """It takes what is free; so it never evicts anybody."""

    async def main() -> None:
        async with room_for(1.5, shelf) as loadmaster:
            await load(loadmaster, "a")
            job = await loadmaster.load("b", PlacementRequest("auto"))
            await job.wait()
            assert evicted(job) == {}
            assert 0 < loadmaster._residents["b"].current.placement.n_gpu_layers < 4

    asyncio.run(main())


def test_a_load_waits_in_sight_for_what_others_give_back(shelf: Path) -> None:
    """It is queued until they have; a second load finds that room taken, and evicts another."""

    async def main() -> None:
        async with room_for(2.5, shelf) as loadmaster:
            await load(loadmaster, "a", "b")
            async with listening(loadmaster) as events:
                first = await loadmaster.load("c", WHOLE)
                second = await loadmaster.load("d", WHOLE)
                assert (await heard(events, id=first.id))["state"] == "queued"
                await first.wait()
                await second.wait()
            assert (evicted(first), evicted(second)) == ({"a": None}, {"b": None})
            assert set(loadmaster._residents) == {"c", "d"}

    asyncio.run(main())


def test_room_that_is_being_given_back_is_room(shelf: Path) -> None:
    """A load right behind an unload that nobody waited for fits, and evicts nobody."""

    async def main() -> None:
        async with room_for(2.5, shelf) as loadmaster:
            await load(loadmaster, "a", "b")
            await loadmaster.unload("b")
            job = await loadmaster.load("c", WHOLE)
            await job.wait()
            assert evicted(job) == {}
            assert set(loadmaster._residents) == {"a", "c"}

    asyncio.run(main())


def test_a_load_that_is_called_off_leaves_the_rest_in_order(shelf: Path) -> None:
    """What was evicted for it is gone, and says so; the memory is free again."""

    async def main() -> None:
        async with room_for(1.5, shelf) as loadmaster:
            await load(loadmaster, "a")
            job = await loadmaster.load("b", WHOLE)
            loadmaster.cancel(job.id)
            assert await ended(job) is not None
            await until(lambda: loadmaster.jobs.active("a") is None)
            assert loadmaster._residents == {}
            assert loadmaster._wishes.current == {}
            assert rows(loadmaster)["sim:0"].reserved_bytes == 0

    asyncio.run(main())


def test_a_touch_is_for_loaded_models(shelf: Path) -> None:
    """It moves `used_at`, and is refused where nothing is loaded."""

    async def main() -> None:
        async with room_for(1.5, shelf) as loadmaster:
            with pytest.raises(NotLoaded):
                loadmaster.touch("a")
            await load(loadmaster, "a")
            before = loadmaster._residents["a"].used_at
            assert loadmaster.touch("a").used_at is not None
            assert loadmaster._residents["a"].used_at > before

    asyncio.run(main())
