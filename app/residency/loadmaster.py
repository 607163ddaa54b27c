"""Loadmaster: the owner of everything mutable, on the event loop. All requests come in here.

A change is decided in one go, without an await between looking and claiming, then carried out by a job. DESIGN.md
says who owns what, and why.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

from app.devices import Device
from app.errors import LoadmasterError, ModelBusy, NotLoaded, StaleGeneration
from app.placement import HOST, PlacementRequest, Plan
from app.residency.admission import Admission
from app.residency.changes import Changes
from app.residency.commitments import Commitments, accepted
from app.residency.copying import READERS, step_aside
from app.residency.events import Broadcast, Event, Payload
from app.residency.eviction import Evict
from app.residency.idleness import Idleness
from app.residency.jobs import Job, Jobs
from app.residency.ledger import Ledger
from app.residency.library import Library
from app.residency.losses import Losses
from app.residency.memory import Memory
from app.residency.neighbours import Neighbours
from app.residency.orders import Orders
from app.residency.reading import Reading, open_generation
from app.residency.records import JobKind, MemoryRecord, ModelRecord, Snapshot
from app.residency.registry import Entry
from app.residency.residents import Resident
from app.residency.restart import Restart
from app.residency.transfer import Transfer
from app.residency.verify import VERIFY_THREADS, verify
from app.residency.vocabularies import Vocabularies
from app.residency.wishes import STAYS, Retention, Wish, Wishes

log = logging.getLogger(__name__)

COPY_THREADS: Final = 64 + 4 * READERS  # mostly waiting: some for each device of each model that is on its way
MEMORY_SECONDS: Final = 0.1  # ten memory events a second at most


class Loadmaster:
    """Loads, places, rebalances and unloads models, and tells about it; of each device `limits` bytes may be ours."""

    def __init__(
        self,
        directories: Sequence[Path],
        devices: Sequence[Device],
        limits: Mapping[str, int],
        wishes: Wishes,
        encode: Callable[[Payload], str],
    ) -> None:
        self.devices = {device.id: device for device in devices}
        self.broadcast = Broadcast(uuid.uuid4().hex[:12], encode)
        self.jobs = Jobs()
        self.vocabularies = Vocabularies()
        self._wishes = wishes
        self._residents: dict[str, Resident] = {}
        self._ledger = ledger = Ledger(limits)
        self._threads = ThreadPoolExecutor(COPY_THREADS, "transfer", initializer=step_aside)
        self._prefetch_threads = ThreadPoolExecutor(READERS, "prefetch", initializer=step_aside)
        self._verify_threads = ThreadPoolExecutor(VERIFY_THREADS, "verify")
        self._memory_changed = asyncio.Event()
        self._snapshot: Event | None = None
        self._snapshot_of: object = None
        self._stopping_since: float | None = None
        residents, jobs, told = self._residents, self.jobs, self._told
        self.library = Library(directories, residents, jobs, wishes)
        self.memory = Memory(self.devices, ledger, residents)
        neighbours = Neighbours(residents, jobs, ledger, wishes)
        self._admission = Admission(self.devices, self.library, ledger, self.memory, residents, neighbours)
        transfer = Transfer(self.devices, ledger, self._threads, self._prefetch_threads)
        self._changes = Changes(residents, ledger, transfer, self.vocabularies, told)
        self._losses = Losses(self.devices, residents, jobs, ledger, self._changes, self._memory_changed.set)
        self._commitments = Commitments(wishes, jobs, ledger, residents, self.library.failures, told)
        self._orders = Orders(residents, wishes, ledger, jobs, self._commitments, self._changes, self._job_changed)
        self._idleness = Idleness(residents, wishes, neighbours, self._orders)
        self._restart = Restart(self._admission, self._orders, self.library, jobs, residents, told)

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Look at the models directories, then load in the background what is wished for."""
        self._losses.watch()
        await self.library.rescan()
        await self.memory.ask()
        facts = {"event": "started", "models": len(self.library.records()), "devices": list(self.devices)}
        log.info("models: %d, devices: %s", facts["models"], ", ".join(self.devices), extra={"facts": facts})
        self._commitments.spawn(self._tell_memory())
        self._commitments.spawn(self.broadcast.keep_alive())
        self._commitments.spawn(self._idleness.watch())
        self._restart.under_way = True
        self._commitments.spawn(self._restart.run(await self._wishes.all()))

    @property
    def restoring(self) -> bool:
        """Whether the wishes of an earlier process are still being loaded."""
        return self._restart.under_way

    @property
    def accelerators(self) -> list[str]:
        """The ids of the devices that are not the host, in their order: some clients know them by number."""
        return [id_ for id_ in self.devices if id_ != HOST]

    def begin_stop(self) -> None:
        """End event streams, take no more jobs, and call off those that run; their wishes stay. Idempotent."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            jobs, streams = [job.id for job in self.jobs.running()], self.broadcast.listeners
            facts = {"event": "stopping", "jobs": jobs, "streams": streams, "models": len(self._residents)}
            log.info("stopping; jobs called off: %d, streams ended: %d", len(jobs), streams, extra={"facts": facts})
        self.broadcast.close()
        self._commitments.call_off()

    async def stop(self) -> None:
        """Call off what runs (the wishes stay), free everything, and return when it is free."""
        self.begin_stop()
        await self._commitments.settle()
        models, held = len(self._residents), sorted(id_ for id_, one in self._residents.items() if one.held)
        if held:
            log.info(
                "waiting for readers of %s", ", ".join(held), extra={"facts": {"event": "waiting", "models": held}}
            )
        for resident in list(self._residents.values()):
            await self._changes.withdraw(Job(JobKind.UNLOAD, resident.entry.id, None, lambda _: None), resident)
        await self._changes.settle()
        await self._wishes.close()
        self._threads.shutdown()
        self._prefetch_threads.shutdown()  # whose files are closed
        self._verify_threads.shutdown()
        await self.vocabularies.close()
        for device in self.devices.values():
            await asyncio.to_thread(device.close)
        seconds = time.monotonic() - (self._stopping_since or 0.0)
        facts = {"event": "stopped", "models": models, "seconds": round(seconds, 3)}
        log.info("stopped after %.3f s; models given back: %d", seconds, models, extra={"facts": facts})

    # ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def plan(
        self, model: str, request: PlacementRequest, *, allow_unknown: bool = False, table: bool = False
    ) -> Plan:
        """What `load` would do, without doing it; a plan that does not fit is returned, not raised."""
        await self.memory.ask()
        entry = self._admission.loadable(model, allow_unknown=allow_unknown)
        return await self._admission.plan(entry, self._admission.resolved(request), table=table)

    async def load(
        self,
        model: str,
        request: PlacementRequest,
        retention: Retention = STAYS,
        *,
        rebalance: bool = False,
        evict: Evict = Evict.MODELS,
        allow_unknown: bool = False,
    ) -> Job:
        """Start to bring a model to where the request says; returns the job once the wish is durable.

        Where it is so already, the job has ended. Where it does not fit otherwise, idle models make room as `evict`
        allows. Raises ModelNotFound, InvalidModel, ModelBusy, InvalidValue, UnknownDevice, DeviceLost or DoesNotFit,
        with nothing begun.
        """
        entry = self._admission.loadable(model, allow_unknown=allow_unknown)
        request = self._admission.resolved(request)
        await self.memory.ask()
        if self.jobs.active(model) is None:
            await self._admission.rehearse(entry, request, rebalance=rebalance, evict=evict)
        return await self._place(entry, Wish(request, retention=retention), rebalance=rebalance, evict=evict)

    async def offload(
        self,
        model: str,
        changed: Callable[[PlacementRequest], PlacementRequest] | None,
        retained: Callable[[Retention], Retention] = lambda retention: retention,
        *,
        generation: int | None = None,
        rebalance: bool = False,
        evict: Evict = Evict.MODELS,
    ) -> Job:
        """Change the placement of a loaded model, and how long it stays.

        `changed` and `retained` make what is wanted of what it is loaded by; without `changed` no layer moves, whatever
        would be chosen today. Raises NotLoaded, StaleGeneration where `generation` is not the current one, or what
        `load` raises.
        """
        entry = self._admission.loadable(model, allow_unknown=True)
        await self.memory.ask()
        if changed is not None and model in self._residents and self.jobs.active(model) is None:
            request = self._admission.resolved(changed(self._wish(model).request))
            await self._admission.rehearse(entry, request, rebalance=rebalance, evict=evict)
        resident = self._residents.get(model)
        active = self.jobs.active(model)
        if resident is None:
            raise NotLoaded(model) if active is None else ModelBusy(model, job=active.id, kind=active.kind)
        if generation is not None and generation != resident.current.number:
            raise StaleGeneration(model, expected=generation, generation=resident.current.number)
        former = self._wish(model)
        retention = retained(former.retention)
        if changed is None:
            return await self._stay(entry, replace(former, retention=retention))
        wish = Wish(self._admission.resolved(changed(former.request)), retention=retention)
        return await self._place(entry, wish, rebalance=rebalance, evict=evict)

    async def unload(self, model: str) -> Job:
        """Start to unload a model; a load or offload that is under way is called off first. ModelNotFound."""
        if model not in self._wishes.current:  # the wish for a model whose file is gone can be withdrawn, too
            self.library.entry(model)
        self.library.failures.pop(model, None)
        return await self._orders.unload(model)

    def touch(self, model: str) -> ModelRecord:
        """Count as a use of a loaded model; ModelNotFound, NotLoaded."""
        entry = self.library.entry(model)
        resident = self._residents.get(model)
        if resident is None:
            raise NotLoaded(model)
        resident.touch()
        self._told(model)
        return self.library.record(entry)

    async def verify(self, model: str, *, deep: bool) -> Job:
        """Start to verify a model, in any state that is not invalid; it is in nobody's way."""
        entry = self.library.entry(model)
        entry.require_model()
        job = self._orders.job(JobKind.VERIFY, model)

        async def body() -> None:
            job.result = await verify(job, entry, lambda: self._residents.get(model), self._verify_threads, deep=deep)

        return self._commitments.look(job, body)

    def cancel(self, job_id: str) -> Job:
        """Call a job off; it ends once everything that it staged is undone. NotFound."""
        job = self.jobs.get(job_id)
        if not job.ended:
            job.cancel()
        return job

    async def rescan(self) -> None:
        """Look at the models directories again, and show everybody what is there now."""
        await self.library.rescan()
        self.broadcast.resync()

    # ── looks ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def read(self, model: str, tensor: str) -> Reading:
        """A tensor to read, held where it is now; the caller closes it."""
        entry = self.library.entry(model)
        found = self.library.tensor(entry, tensor)
        return Reading(found, *await open_generation(entry, self._residents.get(model)))

    async def snapshot(self) -> Event:
        """The present as an event: made once for all who want it before anything else has been told, or has changed."""
        memory, models = await self.memory.look(), self.library.records()
        made_of = (self.broadcast.number, models, memory)
        if self._snapshot is None or made_of != self._snapshot_of:
            jobs = tuple(job.record() for job in self.jobs.newest_first())
            self._snapshot = self.broadcast.snapshot(Snapshot(models, jobs, memory))
            self._snapshot_of = made_of
        return self._snapshot

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _wish(self, model: str) -> Wish:
        return self._wishes.current.get(model) or Wish(PlacementRequest())

    async def _stay(self, entry: Entry, wish: Wish) -> Job:
        active = self.jobs.active(entry.id)
        if active is not None:
            raise ModelBusy(entry.id, job=active.id, kind=active.kind)
        return await self._orders.stay(entry, wish)

    async def _place(self, entry: Entry, wish: Wish, *, rebalance: bool, evict: Evict) -> Job:
        asked = (wish, rebalance, evict)
        active = self.jobs.active(entry.id)
        if active is not None:
            if active.request == asked and not active.called_off:
                return await accepted(active)
            raise ModelBusy(entry.id, job=active.id, kind=active.kind)
        decision = self._admission.decide(entry, wish.request, rebalance=rebalance, evict=evict)
        return await self._orders.place(entry, wish, decision, asked)

    def _job_changed(self, job: Job) -> None:
        self.broadcast.send(job.record())

    def _told(self, model: str) -> None:
        """Something about a model or its memory is new."""
        try:
            entry = self.library.entry(model)
        except LoadmasterError:  # its file is gone, and it is loaded no more: no event says that of a model
            self.broadcast.resync()
        else:
            self.broadcast.send(self.library.record(entry))
        self._memory_changed.set()
        self._idleness.changed()

    async def _tell_memory(self) -> None:
        told: MemoryRecord | None = None
        while True:
            await self._memory_changed.wait()
            self._memory_changed.clear()
            try:
                memory = await self.memory.look()
                if memory is not told:
                    self.broadcast.send(memory)
                    told = memory
            except Exception:  # the next change is to be told all the same
                log.exception("what memory there is could not be told")
            await asyncio.sleep(MEMORY_SECONDS)
