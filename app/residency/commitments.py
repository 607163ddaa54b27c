"""Commitments: how a job begins, its wish durable first, and how it ends, the former wish back if it came to nothing.

Everything here runs on the event loop; nothing knows what a job does in between.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace

from app.errors import Cancelled, DeviceLost, LoadmasterError, Unavailable
from app.placement import MoveMode
from app.residency.jobs import Job, Jobs
from app.residency.ledger import Ledger
from app.residency.records import JobKind, JobResult, JobState
from app.residency.residents import Resident
from app.residency.wishes import Wish, Wishes

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True, eq=False)
class Undertaking:
    """A job, what is wished for from now on (None: nothing), and what the job does once those `after` have ended."""

    job: Job
    wish: Wish | None
    work: Work
    after: tuple[Job, ...] = ()


class Commitments:
    """Runs jobs. `told` is called with a model's id when its state has changed."""

    def __init__(
        self,
        wishes: Wishes,
        jobs: Jobs,
        ledger: Ledger,
        residents: Mapping[str, Resident],
        failures: dict[str, LoadmasterError],
        told: Callable[[str], None],
    ) -> None:
        self._wishes = wishes
        self._jobs = jobs
        self._ledger = ledger
        self._residents = residents
        self._told = told
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = failures
        self._stopping = False

    async def begin(self, asked: Undertaking, *others: Undertaking) -> Job:
        """Make these jobs their models' active ones and start them; returns the one that was asked for.

        That is once the wishes are durable, all together; raises HostError where they cannot be made so.
        """
        undertakings = (asked, *others)
        for one in undertakings:
            self._jobs.add(one.job)
            self._failures.pop(one.job.model, None)
            one.job.former = self._wishes.current.get(one.job.model)
        wishes = {one.job.model: one.wish for one in undertakings}
        durable = asyncio.ensure_future(self._wishes.put(wishes))
        for one in undertakings:
            self.spawn(self._run(one, durable))
        return await accepted(asked.job)

    async def already(self, job: Job, wish: Wish | None) -> Job:
        """End a job that has nothing to do, once its wish is durable; it is its model's active one until then."""
        job.result = JobResult(MoveMode.ATOMIC, 0, 0, 0)
        self._jobs.add(job)
        current = self._wishes.current
        try:
            if wish != current.get(job.model) or (wish is None and job.model in current):
                await self._wishes.put({job.model: wish})
        except LoadmasterError as error:
            self._jobs.end(job, JobState.FAILED, error)
            raise
        if job.superseded_by:
            job.superseded_by.former = wish
        self._jobs.end(job, JobState.SUCCEEDED)
        self._told(job.model)
        return job

    def look(self, job: Job, work: Work) -> Job:
        """Start a job that changes nothing, and so needs no wish."""
        self._jobs.add(job)
        job.accept()
        self.spawn(self._look(job, work))
        return job

    def call_off(self) -> None:
        """Take no more jobs and call off those that run; what is wished for stays. Idempotent.

        Where somebody has called a job off already, it is the former wish that stays.
        """
        self._stopping = True
        for job in self._jobs.running():
            job.keeps_wish |= not job.called_off
            job.cancel()

    async def settle(self) -> None:
        """Return when all jobs have ended and nothing works in the background any more."""
        for job in self._jobs.running():
            await job.wait_ended()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Do something in the background; an error that nobody expected is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work in the background failed by a fault of ours", exc_info=error)

    def require_open(self) -> None:
        """Raise Unavailable once jobs have been called off for good."""
        if self._stopping:
            raise Unavailable("the service is stopping")

    async def _run(self, one: Undertaking, durable: asyncio.Future[None]) -> None:
        job = one.job

        async def work() -> None:
            await asyncio.shield(durable)
            job.accept()
            self._told(job.model)
            for other in one.after:
                await other.wait_ended()
            job.start()
            await one.work()

        state, error = await _outcome(job, work)
        if error is not None:
            await self._put_back(job, one.wish, error)
        self._ledger.unclaim(job.model)
        self._jobs.end(job, state, error)
        self._told(job.model)

    async def _look(self, job: Job, work: Work) -> None:
        job.start()
        state, error = await _outcome(job, work)
        self._jobs.end(job, state, error)

    async def _put_back(self, job: Job, wish: Wish | None, error: LoadmasterError) -> None:
        """Put back the wish that the job set out to change, unless a later one took its place."""
        resident = self._residents.get(job.model)
        lost = isinstance(error, DeviceLost)  # then its last completed step may be gone as well
        if resident is not None and job.generation is not None and wish is not None and not lost:
            # It stays at its last completed step, and so does what is wished for.
            placement = resident.current.placement
            kept = replace(wish, request=replace(wish.request, host=resident.host))
            job.former = kept.settled(placement)
        if not (job.superseded_by or job.keeps_wish):
            try:
                await self._wishes.put({job.model: job.former})
            except LoadmasterError:
                log.exception("the former wish for %s could not be put back", job.model)
        if job.superseded_by:
            job.superseded_by.former = job.former
        elif resident is None and not isinstance(error, Cancelled) and job.kind is JobKind.LOAD:
            self._failures[job.model] = error


async def _outcome(job: Job, work: Work) -> tuple[JobState, LoadmasterError | None]:
    """Do the work, and say how it ended; a fault of ours must end the job, too, and looks like one in the log."""
    try:
        await work()
    except Cancelled as error:
        return JobState.CANCELLED, error
    except LoadmasterError as error:
        return JobState.FAILED, error
    except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # what a library in Rust panics with is no Exception
        log.exception("%s job %s of %s failed by a fault of ours", job.kind, job.id, job.model)
        return JobState.FAILED, LoadmasterError("internal error; the log has more")
    return JobState.SUCCEEDED, None


async def accepted(job: Job) -> Job:
    """The job, once its wish is durable; its error where it was refused for want of that."""
    await job.accepted.wait()
    if job.started_at is None and job.error is not None:
        raise job.error
    return job
