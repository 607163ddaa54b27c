"""May this model be loaded, and where would it go? Looks at everything, changes nothing."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from app.devices import Device
from app.errors import DoesNotFit, InvalidModel, InvalidValue, UnknownDevice
from app.placement import HOST, HostMode, Override, Placement, PlacementRequest, Plan
from app.residency.eviction import Evict
from app.residency.finding import Case, Finding
from app.residency.ledger import Ledger
from app.residency.library import Library
from app.residency.memory import Memory
from app.residency.neighbours import Neighbours
from app.residency.reconcile import Decision, propose, reconcile, restored
from app.residency.registry import Entry
from app.residency.residents import Resident
from app.residency.wishes import Wish


class Admission:
    """Decides on requests, by what is there at this moment; `Memory.ask` comes before."""

    def __init__(
        self,
        devices: Mapping[str, Device],
        library: Library,
        ledger: Ledger,
        memory: Memory,
        residents: Mapping[str, Resident],
        neighbours: Neighbours,
    ) -> None:
        self._devices = {id_: device for id_, device in devices.items() if id_ != HOST}
        self._library = library
        self._ledger = ledger
        self._memory = memory
        self._residents = residents
        self._neighbours = neighbours
        self._rehearsed: dict[str, tuple[Case, Finding]] = {}

    def loadable(self, model: str, *, allow_unknown: bool) -> Entry:
        """The entry of a model that may be loaded; ModelNotFound, or InvalidModel, which says why it may not."""
        entry = self._library.entry(model)
        described = entry.require_model()
        if described.type != "model":
            raise InvalidModel(f"{model} is no model but {described.type!r}", model=model)
        if not described.tensors:
            raise InvalidModel(f"{model} has no tensors to load", model=model)
        if described.problems:
            more = f" (and {len(described.problems) - 1} more)" if len(described.problems) > 1 else ""
            raise InvalidModel(f"{model}: {described.problems[0].message}{more}", model=model)
        if not described.architecture_known and not allow_unknown:
            raise InvalidModel(
                f"unknown architecture {described.architecture!r} (allow_unknown_architecture loads it all the same)",
                model=model,
                param="allow_unknown_architecture",
            )
        return entry

    def resolved(self, request: PlacementRequest) -> PlacementRequest:
        """The request with its devices by id; UnknownDevice, or InvalidValue where one is named twice."""
        by_uuid = {device.uuid: id_ for id_, device in self._devices.items() if device.uuid}
        ids: list[str] = []
        for name in request.devices or ():
            id_ = by_uuid.get(name, name)
            if id_ not in self._devices:
                raise UnknownDevice(name, list(self._devices))
            if id_ in ids:
                raise InvalidValue(f"devices: {name} is {id_}, which is named already", param="devices")
            ids.append(id_)
        overrides = tuple(
            Override(override.pattern, by_uuid.get(override.device, override.device)) for override in request.overrides
        )
        return replace(request, devices=tuple(ids) if request.devices is not None else None, overrides=overrides)

    async def rehearse(
        self, entry: Entry, request: PlacementRequest, *, rebalance: bool = False, evict: Evict = Evict.NONE
    ) -> None:
        """Find a place on a thread; it is remembered, so that `decide` is quick if nothing has changed by then.

        Raises InvalidValue for what cannot be asked of this model, or DeviceLost.
        """
        case = self._case(entry, request, rebalance, evict)
        self._rehearsed[entry.id] = case, await asyncio.to_thread(case.find)

    async def plan(self, entry: Entry, request: PlacementRequest, *, table: bool) -> Plan:
        """The plan that `decide` would take now, worked out on a thread: a table takes its time."""
        model, room = entry.require_model(), self._room(entry.id, request)
        return await asyncio.to_thread(propose, model, request, self._placement(entry), room, table=table)

    def decide(
        self, entry: Entry, request: PlacementRequest, *, rebalance: bool = False, evict: Evict = Evict.NONE
    ) -> Decision:
        """Where the model goes from where it is, how, and which idle models make room for it.

        Raises DoesNotFit, which names those that do not make room, or DeviceLost.
        """
        case = self._case(entry, request, rebalance, evict)
        rehearsed, found = self._rehearsed.pop(entry.id, (None, None))
        if found is None or rehearsed is None or not rehearsed.is_like(case):
            found = case.find()
        if not found.plan.fits:
            raise self._refusal(entry, found.plan)
        evictions = tuple(self._neighbours.eviction(model, evict, level) for model, level in found.levels.items())
        decision = reconcile(self._placement(entry), found.plan.placement, found.room)
        return replace(decision, evictions=evictions)

    def decide_again(self, entry: Entry, wish: Wish) -> Decision:
        """Where a model that an earlier process had goes: to where it was, or, where that cannot be, to a new place."""
        room = self._room(entry.id, wish.request)
        placement = restored(entry.require_model(), wish, room)
        return reconcile(None, placement, room) if placement else self.decide(entry, wish.request)

    def _case(self, entry: Entry, request: PlacementRequest, rebalance: bool, evict: Evict) -> Case:
        here = None if rebalance else self._placement(entry)
        offers = tuple(self._neighbours.offers(entry.id, evict))
        return Case(entry.require_model(), request, here, self._room(entry.id, request), offers)

    def _placement(self, entry: Entry) -> Placement | None:
        resident = self._residents.get(entry.id)
        return resident.current.placement if resident else None

    def _there(self, request: PlacementRequest) -> list[str]:
        """The devices that are not lost; DeviceLost where the request names one that is, or cannot do without any."""
        there = [id_ for id_ in self._devices if not self._ledger.is_lost(id_)]
        wanted = dict.fromkeys(request.devices or (), "devices")
        wanted |= {one.device: f"overrides[{index}].device" for index, one in enumerate(request.overrides)}
        if not there and request.n_gpu_layers not in (0, "auto"):
            wanted |= dict.fromkeys(self._devices, "n_gpu_layers")
        for id_, param in wanted.items():
            if id_ in self._devices and id_ not in there:
                raise self._devices[id_].loss.error(param=param)
        return there

    def _refusal(self, entry: Entry, plan: Plan) -> DoesNotFit:
        short = plan.shortest
        return DoesNotFit(
            device=short.id,
            required_bytes=short.required_bytes,
            available_bytes=short.available_bytes or 0,
            largest_n_gpu_layers=plan.largest_n_gpu_layers,
            **self._neighbours.on(short.id, entry.id),
        )

    def _room(self, model: str, request: PlacementRequest) -> dict[str, int]:
        """What the model may hold of each device and of the host, its own present bytes included.

        Of the host that is what is available, which what devices pin is not. Only copies of our own have a limit, too,
        and they have it to themselves. Raises DeviceLost.
        """
        room = {device: self._ledger.room(device, model) for device in self._there(request)}
        resident = self._residents.get(model)
        own = self._ledger.held(HOST, model) + (resident.files.locked_bytes if resident else 0)
        free = self._memory.record().host.available_bytes - self._ledger.claimed_by_others(HOST, model)
        room[HOST] = max(0, free) + own
        if request.host is HostMode.BUFFERED:
            room[HOST] = min(room[HOST], self._ledger.room(HOST, model))
        return room
