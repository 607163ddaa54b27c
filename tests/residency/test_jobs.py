"""Jobs: one at a time for a model, joined by those who want the same, refused to those who do not."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.devices import Buffer, Meter, Segment
from app.devices.simulated import SimulatedDevice
from app.errors import (
    Cancelled,
    DoesNotFit,
    InvalidModel,
    ModelBusy,
    ModelNotFound,
    NotFound,
    NotLoaded,
    StaleGeneration,
    TooManyJobs,
    Unavailable,
    UnknownDevice,
)
from app.placement import HostMode, PlacementRequest, Strategy
from app.residency.jobs import HISTORY, Job, Jobs
from app.residency.orders import MAX_JOBS
from app.residency.records import JobKind, JobState, ModelState
from tests.residency.deck import ALL, KIB, MIB, at, books, ended, progress, service, slow_device, two_devices


def test_fifty_identical_loads_are_one_job(place: Path) -> None:
    """All of them get the same job, and every byte travels once."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            jobs = await asyncio.gather(*(loadmaster.load("tiny", ALL) for _ in range(50)))
            assert len({job.id for job in jobs}) == 1
            await asyncio.gather(*(job.wait() for job in jobs))
            assert loadmaster.jobs.copied_bytes == jobs[0].bytes_total == jobs[0].bytes_done
            assert len(loadmaster.jobs.newest_first()) == 1

    asyncio.run(main())


def test_another_request_while_busy_is_refused_with_the_job(place: Path) -> None:
    """Load and offload name the job that is in the way; nothing of it is disturbed."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            job = await loadmaster.load("tiny", ALL)
            for other in (loadmaster.load("tiny", PlacementRequest(1)), loadmaster.offload("tiny", at(1))):
                with pytest.raises(ModelBusy, match=f"load job {job.id}") as caught:
                    await other
                assert caught.value.job == job.id
            await job.wait()

    asyncio.run(main())


def test_an_unload_calls_a_load_off_and_unloads(place: Path) -> None:
    """The load is cancelled, the unload succeeds, and nothing is wished for any more."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            before = books(loadmaster, "tiny")
            load = await loadmaster.load("tiny", ALL)
            await progress(loadmaster, load)
            unload, again = await asyncio.gather(loadmaster.unload("tiny"), loadmaster.unload("tiny"))
            await unload.wait()
            assert again is unload
            assert isinstance(load.error, Cancelled)
            assert books(loadmaster, "tiny") == before
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.AVAILABLE

    asyncio.run(main())


def test_an_unload_calls_an_offload_off_and_unloads(place: Path) -> None:
    """The same for a loaded model that is on the move."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(0))).wait()
            offload = await loadmaster.offload("tiny", at(4))
            await (await loadmaster.unload("tiny")).wait()
            assert isinstance(await ended(offload), Cancelled)
            assert books(loadmaster, "tiny").placement is None
            assert books(loadmaster, "tiny").wish is None

    asyncio.run(main())


def test_what_is_so_already_succeeds_at_once(place: Path) -> None:
    """The same load or offload again, and an unload of what is not loaded, end without a byte or a generation."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            nothing = await loadmaster.unload("tiny")
            await (await loadmaster.load("tiny", ALL)).wait()
            again, still = await loadmaster.load("tiny", ALL), await loadmaster.offload("tiny", lambda request: request)
            assert [job.state for job in (nothing, again, still)] == [JobState.SUCCEEDED] * 3
            assert [(job.bytes_total, job.generation) for job in (nothing, again, still)] == [(0, None), (0, 1), (0, 1)]

    asyncio.run(main())


def test_the_same_slabs_by_another_strategy_are_shown_as_such(place: Path) -> None:
    """All layers are all layers by whichever strategy: no byte moves, and the placement is the one asked for last."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            slabs = loadmaster._residents["tiny"].current.slabs
            job = await loadmaster.offload("tiny", lambda request: replace(request, strategy=Strategy.LAST))
            await job.wait()
            now = loadmaster._residents["tiny"].current
            assert (now.slabs, job.bytes_total, job.generation) == (slabs, 0, now.number)
            record = loadmaster.library.record(loadmaster.library.entry("tiny"))
            assert (record.strategy, record.n_gpu_layers, record.generation) == ("last", 4, 2)

    asyncio.run(main())


def test_a_new_wish_for_the_same_placement_is_one_job_at_a_time(place: Path) -> None:
    """Asked at once for the same placement in other words, and for an unload: in the end it is unloaded."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            words = PlacementRequest(4, split_weights="equal")
            loading = asyncio.create_task(loadmaster.load("tiny", words))
            while not (loadmaster.jobs.active("tiny") or loading.done()):  # noqa: ASYNC110 - the very next moment
                await asyncio.sleep(0)
            unload = await loadmaster.unload("tiny")
            same = await loading
            await unload.wait()
            assert (same.state, unload.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
            assert loadmaster.jobs.running() == []
            assert books(loadmaster, "tiny").wish is None
            assert books(loadmaster, "tiny").placement is None

    asyncio.run(main())


def test_an_offload_needs_a_loaded_model_of_that_generation(place: Path) -> None:
    """NotLoaded, and StaleGeneration with both numbers; the current number passes."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            with pytest.raises(NotLoaded):
                await loadmaster.offload("tiny", at(1))
            await (await loadmaster.load("tiny", PlacementRequest(0))).wait()
            with pytest.raises(StaleGeneration) as caught:
                await loadmaster.offload("tiny", at(1), generation=2)
            assert (caught.value.facts["expected"], caught.value.facts["generation"]) == (2, 1)
            job = await loadmaster.offload("tiny", at(1), generation=1)
            await job.wait()
            assert job.generation == 2

    asyncio.run(main())


def test_a_refusal_begins_nothing(place: Path) -> None:
    """Unknown models and devices, invalid files and what does not fit are refused with the books untouched."""
    (place / "models" / "broken.gguf").write_bytes(b"GGUF")

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", 100 * KIB)) as loadmaster:
            before = books(loadmaster, "tiny")
            with pytest.raises(ModelNotFound):
                await loadmaster.load("../tiny", ALL)
            with pytest.raises(InvalidModel, match=r"broken\.gguf"):
                await loadmaster.load("broken", ALL)
            with pytest.raises(UnknownDevice, match="sim:7"):
                await loadmaster.load("tiny", PlacementRequest(devices=("sim:7",)))
            with pytest.raises(DoesNotFit) as caught:
                await loadmaster.load("tiny", ALL)
            assert caught.value.available_bytes == 100 * KIB < caught.value.required_bytes
            assert caught.value.device == "sim:0"
            planned = await loadmaster.plan("tiny", ALL)
            assert planned.largest_n_gpu_layers == caught.value.largest_n_gpu_layers
            assert books(loadmaster, "tiny") == before
            assert loadmaster.jobs.newest_first() == []
            await (await loadmaster.load("tiny", PlacementRequest("auto"))).wait()
            assert loadmaster.library.record(loadmaster.library.entry("tiny")).n_gpu_layers == (
                caught.value.largest_n_gpu_layers
            )

    asyncio.run(main())


def test_a_stopped_service_begins_nothing(place: Path) -> None:
    """Whoever asks too late is told so."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            pass
        with pytest.raises(Unavailable):
            await loadmaster.load("tiny", PlacementRequest(0, host=HostMode.MMAP))

    asyncio.run(main())


def test_history_is_bounded_and_never_loses_a_running_job() -> None:
    """The oldest ended jobs are forgotten, newest first is the order, and what runs stays."""
    jobs = Jobs()
    running = Job(JobKind.LOAD, "running", None, lambda _: None)
    jobs.add(running)
    for number in range(HISTORY + 20):
        job = Job(JobKind.UNLOAD, f"model-{number}", None, lambda _: None)
        jobs.add(job)
        jobs.end(job, JobState.SUCCEEDED)
    known = jobs.newest_first()
    assert len(known) == HISTORY
    assert (known[0].model, known[-1]) == (f"model-{HISTORY + 19}", running)
    assert jobs.running() == [running]
    with pytest.raises(NotFound, match="no job"):
        jobs.get("x" * 10_000)


def test_there_is_an_end_to_the_jobs_that_are_taken_on(place: Path) -> None:
    """Of requests alone: what gives memory back is never refused, and when some have ended there is room again."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            jobs = [await loadmaster.verify("tiny", deep=True) for _ in range(MAX_JOBS)]
            before = books(loadmaster, "tiny")
            with pytest.raises(TooManyJobs) as caught:
                await loadmaster.verify("tiny", deep=False)
            assert caught.value.facts == {"limit": MAX_JOBS}
            assert books(loadmaster, "tiny") == before

            await (await loadmaster.unload("tiny")).wait()
            await asyncio.gather(*(job.wait() for job in jobs))
            await (await loadmaster.load("tiny", ALL)).wait()

    asyncio.run(main())


class Panic(BaseException):
    """What a library in Rust raises where it panics: no Exception."""


class Panicking(SimulatedDevice):
    """A device that is reached through such a library."""

    def copy(self, fd: int, segments: Sequence[Segment], buffer: Buffer, meter: Meter) -> None:
        """Panic."""
        raise Panic


def test_a_job_ends_whatever_is_raised(place: Path) -> None:
    """As failed, with nothing left behind: a job that never ends would keep its model and its claims for good."""

    async def main() -> None:
        async with service(place, Panicking("sim:0", 4 * MIB)) as loadmaster:
            before = books(loadmaster, "tiny")
            job = await loadmaster.load("tiny", ALL)
            async with asyncio.timeout(30):
                await job.wait_ended()
            assert (job.state, str(job.error)) == (JobState.FAILED, "internal error; the log has more")
            assert books(loadmaster, "tiny") == before

    asyncio.run(main())
