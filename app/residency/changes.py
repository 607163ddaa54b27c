"""What jobs do: open a model, take it step by step to another placement, or withdraw it.

Each step is copy, check, switch, release. Whatever fails before a switch leaves generation, placement and ledger as
they were; after the last switch nothing can fail any more.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Final

from app.errors import DoesNotFit, FileChanged, OutOfDeviceMemory
from app.model import Model, describe
from app.placement import (
    HostMode,
    MoveMode,
    Placement,
    PlacementRequest,
    Slab,
    Step,
    claims,
    counted,
    slab_sums,
    without,
)
from app.residency.files import OpenFiles, read_header
from app.residency.jobs import Job
from app.residency.ledger import Ledger
from app.residency.reconcile import Decision, host_ranges
from app.residency.records import Cause, JobResult
from app.residency.registry import Entry
from app.residency.residents import Generation, LiveSlab, Resident
from app.residency.transfer import Transfer
from app.residency.vocabularies import Vocabularies

log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 30.0
"""How long a step waits for readers to let go of slabs that are in its way."""

CANCEL_SECONDS: Final = 0.2
"""For how long a cancel may go unheard where a job waits for somebody else."""


@dataclass(frozen=True, slots=True)
class Change:
    """One placement on its way: whose, of which files, and what was decided."""

    job: Job
    entry: Entry
    files: OpenFiles
    request: PlacementRequest
    decision: Decision
    vocabulary: asyncio.Task[None] | None
    """Makes the tokenizer ready meanwhile, where that is a stage of the job."""


class Changes:
    """Carries out changes of `residents`. `told` is called with a model's id when its placement or memory changed."""

    def __init__(
        self,
        residents: dict[str, Resident],
        ledger: Ledger,
        transfer: Transfer,
        vocabularies: Vocabularies,
        told: Callable[[str], None],
    ) -> None:
        self._residents = residents
        self._ledger = ledger
        self._transfer = transfer
        self._vocabularies = vocabularies
        self._told = told
        self._generations: dict[str, int] = {}
        self._freed = asyncio.Event()
        self._given_back: Counter[str] = Counter()
        """By device, how many bytes of retired slabs were freed, ever."""
        self._reaping: set[asyncio.Task[None]] = set()
        self._leaving: set[Resident] = set()
        """Unloaded, but their files are open yet: somebody may still read them."""

    async def place(self, job: Job, entry: Entry, request: PlacementRequest, decision: Decision) -> None:
        """Take a model to the decided placement; it is opened first where it is not loaded."""
        resident = self._residents.get(entry.id)
        files = resident.files if resident else await _open(job, entry)
        try:
            job.enter("plan")
            progress = asyncio.create_task(job.sample())
            prepare = self._vocabularies.prepare
            vocabulary = asyncio.create_task(prepare(entry)) if "vocabulary" in job.stages else None
            try:
                await self._take_steps(Change(job, entry, files, request, decision, vocabulary))
            finally:
                progress.cancel()
                if vocabulary is not None:
                    vocabulary.cancel()
        finally:
            if entry.id not in self._residents:
                await asyncio.to_thread(files.close)
        if job.cause is not Cause.EVICTION:  # to make room for another is no use
            self._residents[entry.id].touch()
        job.stage = "ready"
        moved = decision.moves
        evicted = tuple(eviction.record() for eviction in decision.evictions)
        job.result = JobResult(moved.mode, len(moved.steps), moved.copied_bytes, moved.released_bytes, evicted)

    async def withdraw(self, job: Job, resident: Resident) -> None:
        """Unload: one switch to nothing, then free what nobody holds; readers keep the rest until they let go."""
        job.enter("withdraw")
        model = resident.entry.id
        slabs = resident.current.slabs
        job.generation = resident.current.number
        self._ledger.retire(model, [live.slab for live in slabs])
        drained = resident.switch(None)
        del self._residents[model]
        self._leaving.add(resident)
        job.reach("release")
        self._told(model)
        await self._reap(resident, drained)
        job.result = JobResult(MoveMode.ATOMIC, 1, 0, sum(live.slab.nbytes for live in slabs))

    def fall_back(self, resident: Resident, device: str) -> frozenset[Slab]:
        """Leave a lost device, in one switch: what was there is the file's pages, neither locked nor copied.

        Returns the slabs that are no more; their readers have them until they let go.
        """
        model, current = resident.entry.id, resident.current
        placement = without(current.placement, device)
        gone = frozenset(current.placement.slabs) - set(placement.slabs)
        if gone:
            stay = tuple(live for live in current.slabs if live.slab not in gone)
            self._ledger.retire(model, gone)
            generation = Generation(self._next_generation(model), placement, stay, current.files)
            self._reap(resident, resident.switch(generation))
            self._told(model)
        return gone

    async def settle(self) -> None:
        """Return when all that was unloaded is freed; its readers have DRAIN_SECONDS to let go of it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAIN_SECONDS
        while self._reaping or (self._leaving and loop.time() < deadline):
            await self._somebody_lets_go()

    async def _take_steps(self, change: Change) -> None:
        job = change.job
        steps = change.decision.moves.steps or (Step((), ()),)  # a load to the host alone is a generation, too
        for index, step in enumerate(steps):
            rest = steps[index + 1 :]
            await self._until_drained(job, step)
            staged = await self._stage(change, step)
            try:
                await self._check(change, last=not rest)
                job.require_possible()
            except BaseException:
                await self._transfer.discard(job.model, staged)
                raise
            resident, drained = self._switch(change, step, staged, last=not rest)
            self._ledger.claim(job.model, claims(rest))
            self._told(job.model)
            await self._reap(resident, drained)

    async def _stage(self, change: Change, step: Step) -> tuple[LiveSlab, ...]:
        """Stage what a step needs; once more where a device was full, but has been given something back meanwhile."""
        before = self._given_back.copy()
        try:
            return await self._transfer.stage(change.job, change.files, step.stage)
        except OutOfDeviceMemory as error:
            if self._reaping:
                await asyncio.wait(self._reaping)
            if self._given_back[error.device] == before[error.device]:
                raise
            log.warning("%s of %s: %s; trying once more", change.job.kind, change.job.model, error)
        return await self._transfer.stage(change.job, change.files, step.stage)

    async def _check(self, change: Change, *, last: bool) -> None:
        """What stands between copy and switch; before the last switch, the host's part is kept as was asked for.

        Locking comes last: it can fail, but once it has not, nothing else can.
        """
        job, files = change.job, change.files
        if last and change.vocabulary is not None:
            job.enter("vocabulary")
            while not change.vocabulary.done():
                await asyncio.wait((change.vocabulary,), timeout=CANCEL_SECONDS)
                job.check()
            await change.vocabulary
        if last:
            job.enter("verify")
        await asyncio.to_thread(files.check)
        job.check()
        if last:
            ranges = host_ranges(change.entry.require_model(), change.decision.placement)
            await self._transfer.lock(files, ranges if change.request.host is HostMode.MLOCK else ())
            self._transfer.prefetch(files, ranges)

    def _switch(
        self, change: Change, step: Step, staged: tuple[LiveSlab, ...], *, last: bool
    ) -> tuple[Resident, tuple[LiveSlab, ...]]:
        """The one step after which everybody sees the new placement; returns the slabs that nobody holds."""
        model = change.entry.id
        resident = self._residents.get(model)
        before = resident.current.slabs if resident else ()
        released = {live.slab for live in before}.intersection(step.release)  # a lost device's are gone already
        live = tuple(slab for slab in before if slab.slab not in released) + staged
        placement = _reached(change.decision.placement, tuple(slab.slab for slab in live))
        generation = Generation(self._next_generation(model), placement, live, change.files)
        change.job.generation = generation.number
        self._ledger.publish(model, step.stage)
        self._ledger.retire(model, released)
        if resident is None:
            resident = Resident(change.entry, change.request.host, generation, self._on_drained())
            self._residents[model] = resident
            return resident, ()
        if last:
            resident.host = change.request.host
        return resident, resident.switch(generation)

    async def _until_drained(self, job: Job, step: Step) -> None:
        """Wait for readers of replaced slabs where the step has no room otherwise; DoesNotFit after a while."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAIN_SECONDS
        while shortage := self._ledger.shortage(job.model, step.stage):
            job.check()
            if loop.time() > deadline or self._ledger.blames_others(job.model, shortage):
                resident = self._residents.get(job.model)
                now = resident.current.placement.n_gpu_layers if resident else 0
                raise DoesNotFit(**asdict(shortage), largest_n_gpu_layers=now)
            await self._somebody_lets_go()

    async def _somebody_lets_go(self) -> None:
        """Wait until something was freed, or for CANCEL_SECONDS."""
        self._freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._freed.wait()

    def _on_drained(self) -> Callable[[Resident, tuple[LiveSlab, ...]], None]:
        """For readers' threads: the last one to let go has what it held freed, by the event loop."""
        loop = asyncio.get_running_loop()

        def from_any_thread(resident: Resident, drained: tuple[LiveSlab, ...]) -> None:
            loop.call_soon_threadsafe(self._reap, resident, drained)

        return from_any_thread

    def _reap(self, resident: Resident, drained: tuple[LiveSlab, ...]) -> asyncio.Task[None]:
        """Begin to free slabs that nobody can reach any more."""
        task = asyncio.get_running_loop().create_task(self._free(resident, drained))
        self._reaping.add(task)
        task.add_done_callback(self._reaped)
        return task

    def _reaped(self, task: asyncio.Task[None]) -> None:
        self._reaping.discard(task)
        self._freed.set()

    async def _free(self, resident: Resident, drained: tuple[LiveSlab, ...]) -> None:
        await self._transfer.reap(resident.entry.id, drained)
        self._given_back.update(slab_sums(live.slab for live in drained))
        if resident.closable and resident in self._leaving:
            self._leaving.discard(resident)  # first: whoever else comes here meanwhile must not close them, too
            await asyncio.to_thread(resident.files.close)
        self._told(resident.entry.id)

    def _next_generation(self, model: str) -> int:
        """Numbers of a model only grow, over unloads too, so that an old If-Match never fits by accident."""
        self._generations[model] = self._generations.get(model, 0) + 1
        return self._generations[model]


async def _open(job: Job, entry: Entry) -> OpenFiles:
    """The files, opened and understood anew: they must still hold the model that was planned."""
    job.enter("open")
    files = await asyncio.to_thread(OpenFiles, entry.id, entry.files)
    try:
        headers = [await asyncio.to_thread(read_header, file) for file in entry.files]
        job.enter("architecture")
        model = await asyncio.to_thread(describe, headers)
        _require_as_planned(job, entry, model)
    except BaseException:
        await asyncio.to_thread(files.close)
        raise
    return files


def _require_as_planned(job: Job, entry: Entry, model: Model) -> None:
    planned = entry.require_model()
    job.enter("hyperparameters")
    if (model.architecture, model.hyperparameters) != (planned.architecture, planned.hyperparameters):
        raise FileChanged(f"{entry.id}: the metadata is not the one that was planned", model=entry.id)
    job.enter("skeleton")
    if model.tensors != planned.tensors:
        raise FileChanged(f"{entry.id}: the tensors are not the ones that were planned", model=entry.id)


def _reached(target: Placement, slabs: tuple[Slab, ...]) -> Placement:
    """The target, or as much of it as these slabs are."""
    if set(slabs) == set(target.slabs):
        return target
    return replace(target, n_gpu_layers=counted(target.strategy, slabs), slabs=slabs)
