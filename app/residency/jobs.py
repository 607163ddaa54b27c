"""Jobs: changes on their way, with stages, bytes and a way to call them off. Owned by the event loop."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from app.devices import Meter
from app.errors import Cancelled, LoadmasterError, NotFound
from app.placement import Placement
from app.residency.records import Cause, JobKind, JobRecord, JobResult, JobState, VerifyResult
from app.residency.tally import Tally
from app.residency.wishes import Wish

HISTORY: Final = 1000
SAMPLE_SECONDS: Final = 0.1  # ten progress events a second at most
WINDOW_SECONDS: Final = 2.0  # the rate is that of the last two seconds

STAGES: Final[dict[JobKind, tuple[str, ...]]] = {
    JobKind.LOAD: (
        "open",
        "architecture",
        "hyperparameters",
        "skeleton",
        "plan",
        "allocate",
        "transfer",
        "vocabulary",
        "verify",
        "ready",
    ),
    JobKind.OFFLOAD: ("plan", "allocate", "transfer", "verify", "ready"),
    JobKind.UNLOAD: ("withdraw", "release", "done"),
    JobKind.VERIFY: ("structure", "data", "done"),
}


class Job:
    """One change of one model. `changed` is called whenever there is something new to tell."""

    def __init__(
        self,
        kind: JobKind,
        model: str,
        request: object,
        changed: Callable[["Job"], None],
        cause: Cause = Cause.REQUEST,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.kind = kind
        self.cause = cause
        self.model = model
        self.request = request
        """What was asked for; an equal request joins this job instead of starting its own."""
        self.state = JobState.QUEUED
        self.stage: str | None = None
        self.stages = STAGES[kind]
        self.work_bytes = 0
        """How many bytes there are to copy, or, for a verification, to look at."""
        self.generation: int | None = None
        self.result: JobResult | VerifyResult | None = None
        self.error: LoadmasterError | None = None
        self.created_at = time.time()
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.target: Placement | None = None
        """What the job is to bring about, where it places a model."""
        self.former: Wish | None = None
        """What was wished for before, and is again if the job comes to nothing."""
        self.superseded_by: Job | None = None
        """Called this one off for a wish of its own: putting a former wish back is its business now."""
        self.keeps_wish = cause is Cause.RESTART
        """A restart's, or called off by a stop: what is wished for stays wished for, even if it cannot be had."""
        self.accepted = asyncio.Event()
        """Set once the wish behind the job is durable, or the job has ended without it."""
        self._ended = asyncio.Event()
        self._changed = changed
        self._cancelled = False
        self._impossible: LoadmasterError | None = None
        self._meters: list[Meter] = []
        self._bytes_before = 0
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def ended(self) -> bool:
        """Whether the job has come to its end, whichever."""
        return self._ended.is_set()

    @property
    def called_off(self) -> bool:
        """Whether the job was cancelled, even if it has not ended yet."""
        return self._cancelled

    @property
    def worked_bytes(self) -> int:
        """How many of the `work_bytes` are done; only grows."""
        return self._bytes_before + sum(meter.bytes_done for meter in self._meters)

    @property
    def bytes_total(self) -> int:
        """Bytes that are to be copied to devices; a verification copies none."""
        return 0 if self.kind is JobKind.VERIFY else self.work_bytes

    @property
    def bytes_done(self) -> int:
        """Bytes copied to devices, and acknowledged by them."""
        return min(self.worked_bytes, self.bytes_total)

    def accept(self) -> None:
        """Its wish is durable: whoever asked is told, and so is everybody else."""
        self.accepted.set()
        self._changed(self)

    def start(self) -> None:
        """Queued no longer."""
        self.state = JobState.RUNNING
        self.started_at = time.time()
        self._changed(self)

    def enter(self, stage: str) -> None:
        """Go on to a stage, unless the job is there or past it already; Cancelled if it was called off."""
        self.check()
        self.reach(stage)

    def reach(self, stage: str) -> None:
        """The same, where it is too late to call the job off."""
        position = self.stages.index(self.stage) if self.stage else -1
        if self.stages.index(stage) > position:
            self.stage = stage
            self._changed(self)

    def meter(self) -> Meter:
        """A meter for one copying thread; its bytes count for this job, and cancelling the job stops it."""
        meter = Meter()
        if self._cancelled:
            meter.cancel()
        self._meters.append(meter)
        return meter

    def forget(self, meters: Iterable[Meter]) -> None:
        """Meters whose threads have ended; their bytes stay counted."""
        for meter in meters:
            self._meters.remove(meter)
            self._bytes_before += meter.bytes_done

    def cancel(self) -> None:
        """Call the job off at its next check; without effect once it has switched to its last generation."""
        self._cancelled = True
        for meter in self._meters:
            meter.cancel()

    def fail(self, error: LoadmasterError) -> None:
        """What the job is to bring about cannot be any more: call it off, and let it end by this error."""
        self._impossible = error
        self.cancel()

    def require_possible(self) -> None:
        """Raise the error by which the job was made to fail. A cancel is not heard."""
        if self._impossible is not None:
            raise self._impossible

    def check(self) -> None:
        """Raise Cancelled if the job was called off, or the error by which it was made to fail."""
        self.require_possible()
        if self._cancelled:
            raise Cancelled(f"{self.kind} job {self.id} of {self.model} was cancelled", job=self.id)

    def end(self, state: JobState, error: LoadmasterError | None = None) -> None:
        """The end: everything that was staged or replaced is freed, or retired to a live holder."""
        self.state = state
        self.error = error
        self.finished_at = time.time()
        if state is JobState.SUCCEEDED:
            self.stage = self.stages[-1]
        self._ended.set()
        self.accepted.set()
        self._changed(self)

    async def wait(self) -> None:
        """Return when the job has ended; raises its error where it failed or was cancelled."""
        await self._ended.wait()
        if self.error is not None:
            raise self.error

    async def wait_ended(self) -> None:
        """Return when the job has ended, whichever way."""
        await self._ended.wait()

    async def sample(self) -> None:
        """Tell about progress, while bytes move, until cancelled."""
        told = -1
        while True:
            done = self.worked_bytes
            now = time.monotonic()
            self._samples.append((now, done))
            while now - self._samples[0][0] > WINDOW_SECONDS:
                self._samples.popleft()
            if done != told:
                told = done
                self._changed(self)
            await asyncio.sleep(SAMPLE_SECONDS)

    def record(self) -> JobRecord:
        """The job now."""
        rate = self._rate()
        left = self.work_bytes - self.worked_bytes
        return JobRecord(
            id=self.id,
            kind=self.kind,
            cause=self.cause,
            model=self.model,
            state=self.state,
            stage=self.stage,
            stages=self.stages,
            progress=self._progress(),
            bytes_done=self.bytes_done,
            bytes_total=self.bytes_total,
            bytes_per_second=rate,
            eta_seconds=max(0, left) / rate if rate and not self.ended else None,
            generation=self.generation,
            result=self.result,
            error=self.error,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
        )

    def _progress(self) -> float:
        """The share of the bytes that is done, or, where there are none, of the stages. 1.0 means succeeded."""
        if self.state is JobState.SUCCEEDED:
            return 1.0
        if self.work_bytes:
            return min(0.999, self.worked_bytes / self.work_bytes)
        return self.stages.index(self.stage) / len(self.stages) if self.stage else 0.0

    def _rate(self) -> float | None:
        """Bytes per second: of the last moments while the job runs, of the whole of it afterwards."""
        if self.ended:
            seconds = (self.finished_at or 0.0) - (self.started_at or self.finished_at or 0.0)
            return self.worked_bytes / seconds if seconds > 0 and self.worked_bytes else None
        if len(self._samples) < 2:
            return None
        (then, before), (now, done) = self._samples[0], self._samples[-1]
        return (done - before) / (now - then) if done > before else None


class Jobs:
    """All jobs that are known: those that run, and the last HISTORY that ended."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._active: dict[str, Job] = {}
        self.tally = Tally()

    @property
    def copied_bytes(self) -> int:
        """How many bytes all jobs have copied to devices, those that run included; only grows."""
        return self.tally.copied_bytes + sum(job.bytes_done for job in self.running())

    def add(self, job: Job) -> None:
        """Make a job known, and, unless it only looks, its model's active one."""
        self._jobs[job.id] = job
        if job.kind is not JobKind.VERIFY:
            self._active[job.model] = job
        while len(self._jobs) > HISTORY:
            oldest = next((id_ for id_, old in self._jobs.items() if old.ended), None)
            if oldest is None:
                break
            del self._jobs[oldest]

    def end(self, job: Job, state: JobState, error: LoadmasterError | None = None) -> None:
        """End a job; it is its model's active one no more."""
        if self._active.get(job.model) is job:
            del self._active[job.model]
        job.end(state, error)
        self.tally.count(job.record())

    def active(self, model: str) -> Job | None:
        """The model's job that is queued or running."""
        return self._active.get(model)

    @property
    def by_model(self) -> Mapping[str, Job]:
        """The active jobs."""
        return self._active

    def get(self, job_id: str) -> Job:
        """A job by its id; NotFound."""
        try:
            return self._jobs[job_id]
        except KeyError:
            raise NotFound(f"no job {job_id[:64]!r}", param="id") from None

    def newest_first(self) -> list[Job]:
        """All known jobs."""
        return list(reversed(self._jobs.values()))

    def running(self) -> list[Job]:
        """The jobs that have not ended."""
        return [job for job in self._jobs.values() if not job.ended]
