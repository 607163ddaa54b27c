"""Calling a job off, at every stage: what it staged is undone, and what was is again."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from app.devices.simulated import SimulatedDevice
from app.errors import Cancelled, ModelBusy
from app.placement import PlacementRequest
from app.residency.jobs import STAGES
from app.residency.records import JobKind, JobState, ModelState
from app.residency.vocabularies import THREADS
from app.residency.wishes import Retention
from tests.residency.deck import (
    KIB,
    MIB,
    assert_books_agree,
    at,
    books,
    ended,
    heard,
    listening,
    progress,
    service,
    slow_device,
    two_devices,
)

ALL = PlacementRequest("all")


@pytest.mark.parametrize("stage", [stage for stage in STAGES[JobKind.LOAD] if stage not in ("verify", "ready")])
def test_a_load_called_off_at_a_stage_leaves_nothing(place: Path, stage: str) -> None:
    """Cancelled at any stage before the switch, a load is as if it had never been."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            before = books(loadmaster, "tiny")
            async with listening(loadmaster) as events:
                job = await loadmaster.load("tiny", ALL)
                await heard(events, id=job.id, stage=stage)
                loadmaster.cancel(job.id)
            failure = await ended(job)
            if stage != "vocabulary":  # right before the switch, it may be too late
                assert isinstance(failure, Cancelled)
            if failure is not None:
                assert job.state is JobState.CANCELLED
                assert books(loadmaster, "tiny") == before
                assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.AVAILABLE

    asyncio.run(main())


def test_the_tokenizer_is_made_beside_the_copy(place: Path) -> None:
    """It is ready before its stage begins, and stays so if the load is called off."""

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", 4 * MIB, bytes_per_second=8 * KIB)) as loadmaster:
            before = books(loadmaster, "tiny")
            job = await loadmaster.load("tiny", ALL)
            await progress(loadmaster, job)
            await loadmaster.vocabularies.find(loadmaster.library.entry("tiny"), "", 0, 1)
            assert job.stage == "transfer"
            loadmaster.cancel(job.id)
            assert isinstance(await ended(job), Cancelled)
            assert books(loadmaster, "tiny") == before

    asyncio.run(main())


@pytest.mark.parametrize("stop", [False, True])
def test_a_cancel_is_heard_while_a_load_waits_for_its_tokenizer(place: Path, stop: bool) -> None:
    """Nobody makes it, for the threads have other things to do; nothing is left, and a stop ends it as well."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            before = books(loadmaster, "tiny")
            released = threading.Event()
            busy = [loadmaster.vocabularies._threads.submit(released.wait) for _ in range(THREADS)]
            async with listening(loadmaster) as events:
                job = await loadmaster.load("tiny", ALL)
                await heard(events, id=job.id, stage="vocabulary")
            if stop:
                loadmaster.begin_stop()
            else:
                loadmaster.cancel(job.id)
            assert isinstance(await ended(job), Cancelled)
            assert not any(one.done() for one in busy)
            assert replace(books(loadmaster, "tiny"), wish=None) == before
            released.set()
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    asyncio.run(main())


def test_a_load_called_off_at_once_leaves_nothing(place: Path) -> None:
    """Cancelled before its first stage."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            before = books(loadmaster, "tiny")
            job = await loadmaster.load("tiny", ALL)
            loadmaster.cancel(job.id)
            assert isinstance(await ended(job), Cancelled)
            assert books(loadmaster, "tiny") == before
            await (await loadmaster.load("tiny", PlacementRequest(0))).wait()

    asyncio.run(main())


def test_an_offload_called_off_leaves_the_former_placement(place: Path) -> None:
    """Cancelled in the middle of the copy, the model is loaded as it was, and the copy stops early."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(0))).wait()
            before = books(loadmaster, "tiny")
            job = await loadmaster.offload("tiny", at(4))
            await progress(loadmaster, job)
            loadmaster.cancel(job.id)
            assert isinstance(await ended(job), Cancelled)
            assert job.bytes_done < job.bytes_total
            assert books(loadmaster, "tiny") == before
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_cancelling_what_has_ended_changes_nothing(place: Path) -> None:
    """A job that has succeeded stays so."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            job = await loadmaster.load("tiny", PlacementRequest(0))
            await job.wait()
            assert loadmaster.cancel(job.id) is job
            assert job.state is JobState.SUCCEEDED
            assert not job.called_off

    asyncio.run(main())


def test_a_stop_calls_off_and_keeps_the_wish(place: Path) -> None:
    """Stopped in the middle of a load, the service undoes it, and loads the model again when it starts."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            job = await loadmaster.load("tiny", ALL)
            await progress(loadmaster, job)
        assert job.state is JobState.CANCELLED
        async with service(place, slow_device()) as loadmaster, listening(loadmaster) as events:
            await heard(events, id="tiny", state="loaded")
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_a_stop_does_not_bring_back_what_was_called_off(place: Path) -> None:
    """Cancelled, then stopped before the job has ended: it is the former wish that the next start finds."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(1))).wait()
            before = loadmaster._wishes.current["tiny"]
            job = await loadmaster.offload("tiny", at(4))
            await progress(loadmaster, job)
            loadmaster.cancel(job.id)
            loadmaster.begin_stop()
            assert isinstance(await ended(job), Cancelled)
            assert loadmaster._wishes.current["tiny"] == before

    asyncio.run(main())


def test_an_unload_called_off_brings_back_the_wish_before_the_load(place: Path) -> None:
    """An unload that called off an offload, and is called off itself, leaves what was before both of them."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(0))).wait()
            before = books(loadmaster, "tiny")
            offload = await loadmaster.offload("tiny", at(4))
            unloading = asyncio.create_task(loadmaster.unload("tiny"))
            while (unload := loadmaster.jobs.active("tiny")) in (offload, None):  # noqa: ASYNC110 - the very next moment
                await asyncio.sleep(0)
            assert unload is not None
            loadmaster.cancel(unload.id)
            assert await unloading is unload
            assert isinstance(await ended(offload), Cancelled)
            assert isinstance(await ended(unload), Cancelled)
            assert books(loadmaster, "tiny") == before

    asyncio.run(main())


def test_a_job_that_was_called_off_is_joined_by_nobody(place: Path) -> None:
    """The same request again, while a cancelled job still winds up, is not answered with that job."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            job = await loadmaster.load("tiny", ALL)
            loadmaster.cancel(job.id)
            [outcome] = await asyncio.gather(loadmaster.load("tiny", ALL), return_exceptions=True)
            assert isinstance(outcome, ModelBusy) or outcome is not job
            assert isinstance(await ended(job), Cancelled)

    asyncio.run(main())


def test_an_unload_that_is_cancelled_puts_back_what_was_wished_for_last(place: Path) -> None:
    """Also where that was not durable yet when the unload was asked for, and changed no byte."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            pinning = asyncio.create_task(
                loadmaster.offload("tiny", lambda request: request, lambda _: Retention(True))
            )
            while loadmaster.jobs.active("tiny") is None:  # noqa: ASYNC110 - the very next moment
                await asyncio.sleep(0)
            unloading = asyncio.create_task(loadmaster.unload("tiny"))
            await asyncio.sleep(0)
            unload = loadmaster.jobs.active("tiny")
            assert unload is not None
            loadmaster.cancel(unload.id)
            assert (await pinning).state is JobState.SUCCEEDED
            assert isinstance(await ended(await unloading), Cancelled)
            assert loadmaster._wishes.retention("tiny").pinned

    asyncio.run(main())
