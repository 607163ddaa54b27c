"""Orders: from a decision to its jobs. The model's own, and those of the models that make room for it.

Everything that a decision stands on is claimed here, in one go with it: there is no await before the first job is its
model's active one.
"""

import logging
from collections.abc import Callable
from typing import Final

from app.errors import TooManyJobs
from app.placement import slab_sums
from app.residency.changes import Changes
from app.residency.commitments import Commitments, Undertaking, accepted
from app.residency.jobs import Job, Jobs
from app.residency.ledger import Ledger
from app.residency.reconcile import Decision, Eviction, is_so
from app.residency.records import Cause, JobKind
from app.residency.registry import Entry
from app.residency.residents import Resident
from app.residency.wishes import Wish, Wishes

MAX_JOBS: Final = 256
log = logging.getLogger(__name__)


class Orders:
    """Begins jobs. `changed` is called whenever one of them has something new to tell."""

    def __init__(
        self,
        residents: dict[str, Resident],
        wishes: Wishes,
        ledger: Ledger,
        jobs: Jobs,
        commitments: Commitments,
        changes: Changes,
        changed: Callable[[Job], None],
    ) -> None:
        self._residents = residents
        self._wishes = wishes
        self._ledger = ledger
        self._jobs = jobs
        self._commitments = commitments
        self._changes = changes
        self._changed = changed

    def job(self, kind: JobKind, model: str, asked: object = None, cause: Cause = Cause.REQUEST) -> Job:
        """A new job, nobody's active one yet. Unavailable once the service stops, TooManyJobs where it is too busy.

        What gives memory back is never refused, and neither is what the service does of itself.
        """
        self._commitments.require_open()
        if cause is Cause.REQUEST and kind is not JobKind.UNLOAD and len(self._jobs.running()) >= MAX_JOBS:
            raise TooManyJobs(f"{MAX_JOBS} jobs are queued or running already", limit=MAX_JOBS)
        return Job(kind, model, asked, self._changed, cause)

    async def place(
        self, entry: Entry, wish: Wish, decision: Decision, asked: object, cause: Cause = Cause.REQUEST
    ) -> Job:
        """Have a model taken to where it was decided; returns the job once the wish is durable.

        Where it is so already, the job has ended. An equal `asked` may join the job while it runs.
        """
        resident = self._residents.get(entry.id)
        job = self.job(JobKind.OFFLOAD if resident else JobKind.LOAD, entry.id, asked, cause)
        if resident is not None and is_so(decision, resident.current.placement, resident.host, wish.request):
            return await self._end(job, resident, wish.placed(decision.placement))
        making_room = [self._eviction(eviction, entry.id) for eviction in decision.evictions]
        placing = self._placing(job, entry, wish, decision, tuple(one.job for one in making_room))
        return await self._commitments.begin(placing, *making_room)

    async def stay(self, entry: Entry, wish: Wish) -> Job:
        """Keep a loaded model where it is, by another wish; the job has ended."""
        resident = self._residents[entry.id]
        return await self._end(self.job(JobKind.OFFLOAD, entry.id), resident, wish)

    async def unload(self, model: str, cause: Cause = Cause.REQUEST) -> Job:
        """Have a model unloaded; a load or offload that is under way is called off first."""
        active = self._jobs.active(model)
        if active is not None and active.kind is JobKind.UNLOAD:
            return await accepted(active)
        job = self.job(JobKind.UNLOAD, model, cause=cause)
        if active is None and model not in self._residents:
            return await self._commitments.already(job, None)  # though a restart that failed leaves its wish behind
        if active is not None:
            active.superseded_by = job
            active.cancel()
        return await self._commitments.begin(self._withdrawal(job, (active,) if active else ()))

    async def _end(self, job: Job, resident: Resident, wish: Wish) -> Job:
        job.generation = resident.current.number
        resident.touch()
        return await self._commitments.already(job, wish)

    def _placing(
        self, job: Job, entry: Entry, wish: Wish, decision: Decision, after: tuple[Job, ...] = ()
    ) -> Undertaking:
        moves = decision.moves
        job.work_bytes = moves.copied_bytes
        job.target = decision.placement
        self._ledger.claim(entry.id, moves.claims())
        if not moves.copied_bytes and not self._is_held(entry.id):  # then nothing keeps it from giving back at once
            self._ledger.leave(entry.id, moves.released)

        async def work() -> None:
            for other in after:
                if other.superseded_by is None:  # else it is unloaded as was asked for, which makes room as well
                    await other.wait()
            await self._changes.place(job, entry, wish.request, decision)

        return Undertaking(job, wish.placed(decision.placement), work, after)

    def _is_held(self, model: str) -> bool:
        resident = self._residents.get(model)
        return resident is not None and resident.held

    def _withdrawal(self, job: Job, after: tuple[Job, ...] = ()) -> Undertaking:
        resident = self._residents.get(job.model)
        if resident is not None and not after and not resident.held:
            self._ledger.leave(job.model, slab_sums(live.slab for live in resident.current.slabs))

        async def work() -> None:
            resident = self._residents.get(job.model)
            if resident is not None:
                await self._changes.withdraw(job, resident)

        return Undertaking(job, None, work, after)

    def _eviction(self, eviction: Eviction, beneficiary: str) -> Undertaking:
        model, decision = eviction.model, eviction.decision
        freed = eviction.record().freed
        nbytes = sum(freed.values())
        facts = {"event": "eviction", "model": model, "for": beneficiary, "bytes": nbytes, "devices": freed}
        log.info("%s gives back %d bytes, so that %s has room", model, nbytes, beneficiary, extra={"facts": facts})
        wish = self._wishes.current.get(model)
        if decision is None or wish is None:
            return self._withdrawal(self.job(JobKind.UNLOAD, model, cause=Cause.EVICTION))
        job = self.job(JobKind.OFFLOAD, model, cause=Cause.EVICTION)
        return self._placing(job, self._residents[model].entry, wish.settled(decision.placement), decision)
