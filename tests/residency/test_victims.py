"""Models that make room, and those they make room for: whatever happens to either of them meanwhile."""

import asyncio
from pathlib import Path

import pytest

from app.devices.simulated import SimulatedBuffer, SimulatedDevice
from app.errors import Cancelled, DoesNotFit, ModelBusy
from app.placement import PlacementRequest, Strategy
from app.residency import Loadmaster
from app.residency.eviction import Evict
from app.residency.jobs import Job
from app.residency.records import JobKind, JobResult, JobState
from tests.gguf_builder import tiny_llama
from tests.residency.deck import KIB, books, ended, rows, service, until

EVERY = PlacementRequest("all")
SIZE = 149_248  # bytes of one of the models on a device


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three models of one size."""
    (tmp_path / "models").mkdir()
    for seed, model in enumerate("abc"):
        (tmp_path / "models" / f"{model}.gguf").write_bytes(tiny_llama(4, seed=seed))
    return tmp_path


def device(models: float, rate: int | None = None) -> SimulatedDevice:
    """A device for so many of them."""
    return SimulatedDevice("sim:0", int(models * SIZE), bytes_per_second=rate)


async def full(loadmaster: Loadmaster) -> None:
    """Load a and b, of which a was used before b."""
    for model in "ab":
        await (await loadmaster.load(model, EVERY)).wait()


async def begun(loadmaster: Loadmaster, model: str, evict: Evict = Evict.MODELS) -> tuple[asyncio.Task[Job], Job]:
    """Begin to load c, and catch the job of a model that makes room for it before it has done anything."""
    loading = asyncio.create_task(loadmaster.load("c", EVERY, evict=evict))
    async with asyncio.timeout(30):
        while (job := loadmaster.jobs.active(model)) is None:  # noqa: ASYNC110 - the very next moment
            await asyncio.sleep(0)
    assert job.state is JobState.QUEUED
    return loading, job


@pytest.mark.parametrize("evict", [Evict.MODELS, Evict.LAYERS])
def test_a_cancelled_eviction_calls_off_what_it_was_for(place: Path, evict: Evict) -> None:
    """The load ends at once and says which job was cancelled; the model that was to make room is as it was."""

    async def main() -> None:
        async with service(place, device(2)) as loadmaster:
            await full(loadmaster)
            before = books(loadmaster, "a")
            loading, making_room = await begun(loadmaster, "a", evict)
            loadmaster.cancel(making_room.id)
            error = await ended(await loading)
            assert isinstance(error, Cancelled)
            assert making_room.id in error.message
            assert books(loadmaster, "a") == before
            assert books(loadmaster, "c").wish is None

    asyncio.run(main())


def test_a_cancelled_load_leaves_no_claim_behind(place: Path) -> None:
    """Called off while it waits for room: what was evicted for it is gone, and nothing is reserved."""

    async def main() -> None:
        async with service(place, device(2)) as loadmaster:
            await full(loadmaster)
            loading, making_room = await begun(loadmaster, "a")
            job = await loading
            loadmaster.cancel(job.id)
            assert isinstance(await ended(job), Cancelled)
            assert making_room.state is JobState.SUCCEEDED
            assert (rows(loadmaster)["sim:0"].used_bytes, rows(loadmaster)["sim:0"].reserved_bytes) == (SIZE, 0)
            assert loadmaster._wishes.current.keys() == {"b"}

    asyncio.run(main())


@pytest.mark.parametrize("evict", [Evict.MODELS, Evict.LAYERS])
def test_an_unload_of_what_makes_room_makes_room(place: Path, evict: Evict) -> None:
    """It joins the eviction, or takes the place of the shrinking; the load goes on either way."""

    async def main() -> None:
        async with service(place, device(2)) as loadmaster:
            await full(loadmaster)
            loading, making_room = await begun(loadmaster, "a", evict)
            unload = await loadmaster.unload("a")
            assert unload.kind is JobKind.UNLOAD
            assert (unload is making_room) is (evict is Evict.MODELS)
            await (await loading).wait()
            assert loadmaster._residents.keys() == {"b", "c"}
            assert loadmaster._wishes.current.keys() == {"b", "c"}

    asyncio.run(main())


def test_what_makes_room_is_busy(place: Path) -> None:
    """A load of a model that is being evicted is refused, and comes through once it is gone."""

    async def main() -> None:
        async with service(place, device(2)) as loadmaster:
            await full(loadmaster)
            buffer = loadmaster._residents["a"].current.slabs[0].buffer
            assert isinstance(buffer, SimulatedBuffer)
            with buffer.opened():  # until that is over, it cannot be given back
                loading, making_room = await begun(loadmaster, "a")
                with pytest.raises(ModelBusy) as caught:
                    await loadmaster.load("a", EVERY)
            assert caught.value.job == making_room.id
            await (await loading).wait()
            await (await loadmaster.load("a", EVERY)).wait()
            assert loadmaster._residents.keys() == {"a", "c"}

    asyncio.run(main())


def test_a_reader_of_what_makes_room_is_waited_for(place: Path) -> None:
    """It comes between the decision and the eviction: the load is queued no longer, and goes on when it lets go."""

    async def main() -> None:
        async with service(place, device(2)) as loadmaster:
            await full(loadmaster)
            loading, making_room = await begun(loadmaster, "a")
            reading = await loadmaster.read("a", "token_embd.weight")
            job = await loading
            await ended(making_room)
            await until(lambda: job.stage == "plan")
            assert rows(loadmaster)["sim:0"].retired_bytes == SIZE
            reading.close()
            await job.wait()
            assert rows(loadmaster)["sim:0"].used_bytes == 2 * SIZE

    asyncio.run(main())


def test_a_load_that_waits_for_room_is_queued(place: Path) -> None:
    """Everybody sees that it waits, and for how many bytes; what others make room for is theirs alone."""

    async def main() -> None:
        async with service(place, device(2)) as loadmaster:
            await full(loadmaster)
            loading, making_room = await begun(loadmaster, "a")
            states = {job.model: job.record().state for job in loadmaster.jobs.running()}
            assert states == {"a": JobState.QUEUED, "c": JobState.QUEUED}
            await (await loading).wait()
            assert making_room.finished_at is not None
            assert ((await loading).started_at or 0) >= making_room.finished_at

    asyncio.run(main())


@pytest.mark.parametrize("evict", [Evict.MODELS, Evict.LAYERS])
def test_a_stop_amid_an_eviction_keeps_the_wishes(place: Path, evict: Evict) -> None:
    """The next start loads what was asked for last, in the room that was to be made for it."""

    async def main() -> None:
        async with service(place, device(2)) as loadmaster:
            await full(loadmaster)
            loading, _ = await begun(loadmaster, "a", evict)
            loadmaster.begin_stop()
            await ended(await loading)
            wishes = dict(loadmaster._wishes.current)
        assert wishes["c"] is not None
        async with service(place, device(2)) as loadmaster:
            await until(lambda: not loadmaster.restoring)
            assert loadmaster._wishes.current == wishes
            assert loadmaster._residents.keys() == wishes.keys()
            assert loadmaster.library.record(loadmaster.library.entry("c")).n_gpu_layers == 4

    asyncio.run(main())


@pytest.mark.parametrize("strategy", [Strategy.FIRST, Strategy.ENDS, Strategy.BEST, Strategy.LLAMA_CPP])
def test_what_was_shrunk_is_restored_as_it_is(place: Path, strategy: Strategy) -> None:
    """A restart puts as many layers back as were left; these can be shrunk once more."""

    async def main() -> None:
        async with service(place, device(2.5)) as loadmaster:
            await (await loadmaster.load("a", PlacementRequest("all", strategy))).wait()
            await (await loadmaster.load("b", EVERY)).wait()
            job = await loadmaster.load("c", EVERY, evict=Evict.LAYERS)
            await job.wait()
            assert isinstance(job.result, JobResult)
            (shrunk,) = job.result.evicted
            left = loadmaster.library.record(loadmaster.library.entry("a"))
            assert left.n_gpu_layers == shrunk.n_gpu_layers
            assert left.n_gpu_layers
        async with service(place, device(2.5)) as loadmaster:
            await until(lambda: not loadmaster.restoring)
            again = loadmaster.library.record(loadmaster.library.entry("a"))
            assert (again.n_gpu_layers, again.strategy) == (left.n_gpu_layers, left.strategy)
            await (await loadmaster.unload("c")).wait()
            loadmaster.touch("b")
            more = PlacementRequest("all", margin_bytes=64 * KIB)
            job = await loadmaster.load("c", more, evict=Evict.LAYERS)
            await job.wait()
            assert isinstance(job.result, JobResult)
            (shrunk,) = job.result.evicted
            assert shrunk.model == "a"
            assert shrunk.n_gpu_layers is not None
            assert shrunk.n_gpu_layers < left.n_gpu_layers

    asyncio.run(main())


def test_loads_at_once_share_a_device(place: Path) -> None:
    """All of them have bytes there before the first has all of its own."""

    async def main() -> None:
        async with service(place, device(3, rate=400 * KIB)) as loadmaster:
            jobs = [await loadmaster.load(model, EVERY) for model in "abc"]
            await until(lambda: all(job.bytes_done for job in jobs))
            assert not any(job.ended for job in jobs)
            for job in jobs:
                await job.wait()

    asyncio.run(main())


@pytest.mark.slow
def test_a_reader_that_never_lets_go_of_an_evicted_model_ends_the_load(place: Path) -> None:
    """After half a minute, in words and with the numbers, as what does not fit; nothing of the load is left."""

    async def main() -> None:
        async with service(place, device(2)) as loadmaster:
            await full(loadmaster)
            loading, _ = await begun(loadmaster, "a")
            with loadmaster._residents["a"].hold():
                job = await loading
                async with asyncio.timeout(60):
                    await job.wait_ended()
                assert isinstance(job.error, DoesNotFit)
                assert (job.error.device, job.error.largest_n_gpu_layers) == ("sim:0", 0)
                assert job.error.required_bytes > job.error.available_bytes
            await until(lambda: rows(loadmaster)["sim:0"].retired_bytes == 0)
            assert set(loadmaster._residents) == {"b"}
            assert books(loadmaster, "c").wish is None

    asyncio.run(main())
