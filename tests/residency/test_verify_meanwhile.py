"""Verification beside everything else: it blocks nobody, and is blocked by nobody."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from app.devices.simulated import Faults, SimulatedDevice
from app.errors import Cancelled, FileChanged
from app.model import ProblemKind
from app.placement import PlacementRequest
from app.residency import Loadmaster
from app.residency.jobs import Job
from app.residency.records import JobState, ModelState, VerifyResult
from app.residency.verify import VERIFY_THREADS
from tests.residency.deck import ALL, MIB, at, ended, progress, service, slow_device, two_devices, until
from tests.residency.instruments import TINY
from tests.residency.test_files import DEEDS, NAMES, Deed, overwrite


@contextmanager
def threads_taken(loadmaster: Loadmaster) -> Iterator[Callable[[], None]]:
    """Keep the threads that look at data busy: verifications get as far as that, and wait for `let_go`."""
    gate = threading.Event()
    for _ in range(VERIFY_THREADS):
        loadmaster._verify_threads.submit(gate.wait)
    try:
        yield gate.set
    finally:
        gate.set()


async def looking(loadmaster: Loadmaster) -> Job:
    """A deep verification of the tiny model that has opened it and is about to look at its data."""
    job = await loadmaster.verify("tiny", deep=True)
    await until(lambda: job.stage == "data" or job.ended)
    return job


async def ok(job: Job) -> bool:
    """Wait for a verification; whether it found nothing."""
    await job.wait()
    assert isinstance(job.result, VerifyResult)
    return job.result.ok


def state(loadmaster: Loadmaster) -> ModelState:
    """What the tiny model is doing."""
    return loadmaster.library.state(loadmaster.library.entry("tiny"))


def test_a_model_that_loads_or_moves_is_verified_meanwhile(place: Path) -> None:
    """The change goes on, the verification ends before it, and the state of the model is that of the change."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            for change, busy in (
                (loadmaster.load("tiny", PlacementRequest(2)), ModelState.LOADING),
                (loadmaster.offload("tiny", at(4)), ModelState.MOVING),
            ):
                changing = await change
                await progress(loadmaster, changing)
                assert await ok(await loadmaster.verify("tiny", deep=True))
                assert (changing.ended, state(loadmaster)) == (False, busy)
                await changing.wait()
            assert state(loadmaster) is ModelState.LOADED
            assert await ok(await loadmaster.verify("tiny", deep=True))

    asyncio.run(main())


def test_a_model_whose_load_failed_is_verified(place: Path) -> None:
    """The file can be looked at; the failure stays what it was."""

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", 4 * MIB, faults=Faults(oom=1))) as loadmaster:
            failure = await ended(await loadmaster.load("tiny", ALL))
            assert await ok(await loadmaster.verify("tiny", deep=True))
            assert state(loadmaster) is ModelState.FAILED
            assert loadmaster.library.failures["tiny"] is failure

    asyncio.run(main())


def test_a_verification_blocks_no_change(place: Path) -> None:
    """While it waits for its turn, the model is moved, unloaded and loaded again; a load is copied beside a hundred."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            with threads_taken(loadmaster) as let_go:
                jobs = [await looking(loadmaster) for _ in range(100)]
                await (await loadmaster.load("tiny", ALL)).wait()
                jobs.append(await looking(loadmaster))
                await (await loadmaster.offload("tiny", at(1))).wait()
                jobs.append(await looking(loadmaster))
                await (await loadmaster.unload("tiny")).wait()
                await (await loadmaster.load("tiny", ALL)).wait()
                assert state(loadmaster) is ModelState.LOADED
                let_go()
                assert all([await ok(job) for job in jobs])

    asyncio.run(main())


@pytest.mark.parametrize("loaded", [False, True], ids=["available", "loaded"])
def test_a_verification_called_off_lets_go(place: Path, *, loaded: bool) -> None:
    """It ends as cancelled, with no result, and holds nothing any more."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            if loaded:
                await (await loadmaster.load("tiny", ALL)).wait()
            with threads_taken(loadmaster) as let_go:
                job = await looking(loadmaster)
                loadmaster.cancel(job.id)
                let_go()
                assert isinstance(await ended(job), Cancelled)
            assert (job.state, job.result) == (JobState.CANCELLED, None)
            if loaded:
                assert loadmaster._residents["tiny"].current.holders == 0
                assert await ok(await loadmaster.verify("tiny", deep=True))

    asyncio.run(main())


def test_one_called_off_does_not_stop_the_others(place: Path) -> None:
    """Of twenty verifications of one model every second is cancelled; the rest find it sound."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            with threads_taken(loadmaster) as let_go:
                jobs = [await looking(loadmaster) for _ in range(20)]
                for job in jobs[::2]:
                    loadmaster.cancel(job.id)
                let_go()
                assert all([isinstance(await ended(job), Cancelled) for job in jobs[::2]])
                assert all([await ok(job) for job in jobs[1::2]])
            assert loadmaster._residents["tiny"].current.holders == 0

    asyncio.run(main())


def test_the_service_stops_while_it_verifies(place: Path) -> None:
    """What runs is called off, and nothing stays open."""

    async def main() -> None:
        with ExitStack() as at_the_end:
            async with service(place, *two_devices()) as loadmaster:
                await (await loadmaster.load("tiny", ALL)).wait()
                let_go = at_the_end.enter_context(threads_taken(loadmaster))
                jobs = [await looking(loadmaster) for _ in range(3)]

                async def let_go_late() -> None:
                    await until(lambda: all(job.called_off for job in jobs))
                    let_go()

                waiting = asyncio.create_task(let_go_late())
            await waiting
            assert {job.state for job in jobs} == {JobState.CANCELLED}

    asyncio.run(main())


def test_moving_layers_are_true_at_every_moment(place: Path) -> None:
    """Layers go back and forth, and are unloaded and loaded, while verifications run on and on: no false alarm."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            moved = asyncio.Event()

            async def verify_on() -> int:
                count = 0
                while not moved.is_set():
                    assert await ok(await loadmaster.verify("tiny", deep=True))
                    count += 1
                return count

            verifying = [asyncio.create_task(verify_on()) for _ in range(4)]
            for _ in range(5):
                await (await loadmaster.load("tiny", ALL)).wait()
                for n_gpu_layers in (2, 4, 0, 3, 1):
                    await (await loadmaster.offload("tiny", at(n_gpu_layers))).wait()
                await (await loadmaster.unload("tiny")).wait()
            moved.set()
            assert min(await asyncio.gather(*verifying)) > 0

    asyncio.run(main())


@pytest.mark.parametrize(("deed", "words"), DEEDS, ids=NAMES)
def test_a_file_that_changed_before_is_not_the_one_to_verify(place: Path, deed: Deed, words: str) -> None:
    """Of a model that is not loaded there is nothing left to look at: the job fails, and says what happened."""

    async def main() -> None:
        async with service(place) as loadmaster:
            deed(place / "models" / "tiny.gguf")
            for deep in (False, True):
                failure = await ended(await loadmaster.verify("tiny", deep=deep))
                assert isinstance(failure, FileChanged)
                assert words.partition(" (")[0] in failure.message or "No such file" in failure.message

    asyncio.run(main())


@pytest.mark.parametrize("loaded", [False, True], ids=["available", "loaded"])
@pytest.mark.parametrize(("deed", "words"), DEEDS, ids=NAMES)
def test_a_file_that_changes_meanwhile_is_a_problem(place: Path, deed: Deed, words: str, *, loaded: bool) -> None:
    """The verification succeeds, and its first problem says what became of the file; an unload still works."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            if loaded:
                await (await loadmaster.load("tiny", PlacementRequest(2))).wait()
            with threads_taken(loadmaster) as let_go:
                job = await looking(loadmaster)
                deed(place / "models" / "tiny.gguf")
                let_go()
                assert not await ok(job)
            assert isinstance(job.result, VerifyResult)
            first, *others = job.result.problems
            assert (first.kind, first.layer, first.tensor) == (ProblemKind.FILE_CHANGED, None, None)
            assert words in first.message
            assert {problem.kind for problem in others} <= {ProblemKind.FILE_CHANGED}
            assert bool(others) == ("to 99 bytes" in words)  # then there is no tensor left
            await (await loadmaster.unload("tiny")).wait()

    asyncio.run(main())


def test_a_file_that_was_rewritten_unseen_is_told_by_the_copies(place: Path) -> None:
    """Size and time are as they were, and yet each tensor on a device is unlike the file: deep finds all of them."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            path = place / "models" / "tiny.gguf"
            model = loadmaster.library.entry("tiny").require_model()
            data = bytearray(TINY)
            for tensor in model.tensors:
                data[tensor.offset + tensor.nbytes - 1] ^= 1
            overwrite(path, bytes(data))
            job = await loadmaster.verify("tiny", deep=True)
            assert not await ok(job)
            assert isinstance(job.result, VerifyResult)
            wrong = [problem.tensor for problem in job.result.problems if problem.kind is ProblemKind.WRONG_COPY]
            assert wrong == [tensor.name for tensor in model.tensors]

    asyncio.run(main())
