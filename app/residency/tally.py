"""What jobs have come to since the process began: counts, bytes and seconds, and one line in the log for each.

Owned by the event loop. Nothing here knows who counts it together or who reads the log.
"""

import logging
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from app.residency.records import Cause, JobKind, JobRecord, JobState, VerifyResult

log = logging.getLogger(__name__)

JOB_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""From the unload of a small model to the load of a large one from a network."""


class Histogram:
    """How many observations were at most as large as each bound, and the sum of all. Cheap: a bisection each."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """How many values were at most this bound, for each of them, `+Inf` last."""
        buckets, below = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            below += count
            buckets.append((bound, float(below)))
        return buckets


class Tally:
    """The jobs that have ended."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[JobKind, Cause, JobState]] = Counter()
        self.failures: Counter[str] = Counter()
        """How many jobs have failed, by the code of their error."""
        self.seconds: defaultdict[tuple[JobKind, JobState], Histogram] = defaultdict(lambda: Histogram(JOB_SECONDS))
        """How long they ran; what was waited for before does not count."""
        self.copied_bytes = 0
        """How many bytes they have copied to devices."""

    def count(self, job: JobRecord) -> None:
        """A job has ended: count it, and write its line."""
        seconds = (job.finished_at or 0.0) - job.started_at if job.started_at and job.finished_at else 0.0
        self.ended[job.kind, job.cause, job.state] += 1
        self.seconds[job.kind, job.state].observe(max(0.0, seconds))
        self.copied_bytes += job.bytes_done
        if job.state is JobState.FAILED and job.error is not None:
            self.failures[job.error.code] += 1
        _tell(job, seconds)


def _tell(job: JobRecord, seconds: float) -> None:
    rate = round(job.bytes_per_second) if job.bytes_done and job.bytes_per_second else None
    facts = {
        "event": "job",
        "job": job.id,
        "kind": job.kind,
        "cause": job.cause,
        "model": job.model,
        "state": job.state,
        "bytes": job.bytes_done,
        "seconds": round(seconds, 6),
        "bytes_per_second": rate,
        "generation": job.generation,
        "code": job.error.code if job.error else None,
    }
    done = f"{job.bytes_done} bytes copied in {seconds:.3f} s{f', {rate} bytes/s' if rate else ''}"
    if isinstance(job.result, VerifyResult):
        facts["ok"] = job.result.ok
        done = f"{job.result.summary}, in {seconds:.3f} s"
    level = logging.WARNING if job.state is JobState.FAILED else logging.INFO
    what = f"{job.kind} of {job.model} ({job.cause}) {job.state}"
    log.log(level, "%s: %s", what, f"{job.error}; {done}" if job.error else done, extra={"facts": facts})
