"""May this model be loaded, and where would it go? Looks at everything, changes nothing."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from app.devices import Device, DeviceKind
from app.errors import InvalidModel, InvalidValue, UnknownDevice
from app.placement import HOST, Override, Overrides, PlacementRequest, Plan, moves
from app.residency.ledger import Ledger
from app.residency.library import Library
from app.residency.memory import Memory
from app.residency.reconcile import Decision, reconcile, restored
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
    ) -> None:
        self._devices = {id_: device for id_, device in devices.items() if id_ != HOST}
        self._library = library
        self._ledger = ledger
        self._memory = memory
        self._residents = residents

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

    async def rehearse(self, entry: Entry, request: PlacementRequest) -> None:
        """Match overrides on a thread; what is found is remembered, so that deciding is quick, whatever they are.

        Raises InvalidValue for what is no pattern.
        """
        if request.overrides:
            tensors = [tensor for layer in entry.require_model().layers for tensor in layer.tensors]
            await asyncio.to_thread(Overrides(request.overrides).devices_of, tensors)

    async def plan(self, entry: Entry, request: PlacementRequest, *, table: bool) -> Plan:
        """What `decide` would decide now, worked out on a thread: a table takes its time."""
        resident = self._residents.get(entry.id)
        current = resident.current.placement if resident else None
        model, room = entry.require_model(), self._room(entry.id)
        decision = await asyncio.to_thread(reconcile, model, request, current, room, table=table)
        return decision.plan

    def decide(self, entry: Entry, request: PlacementRequest, *, rebalance: bool = False) -> Decision:
        """Where the model would go from where it is, and how; a plan that does not fit has no moves."""
        resident = self._residents.get(entry.id)
        current = resident.current.placement if resident else None
        model = entry.require_model()
        return reconcile(model, request, current, self._room(entry.id), rebalance=rebalance)

    def decide_again(self, entry: Entry, wish: Wish) -> Decision:
        """Where a model that an earlier process had goes: to where it was, or, where that cannot be, to a new place."""
        decision = self.decide(entry, wish.request)
        placement = restored(entry.require_model(), wish, room := self._room(entry.id))
        if placement is None:
            return decision
        plan = replace(decision.plan, fits=True, n_gpu_layers=placement.n_gpu_layers, placement=placement)
        return Decision(plan, moves((), placement.slabs, room))

    def _room(self, model: str) -> dict[str, int]:
        """What the model may hold of each device and of the host, its own present bytes included.

        Where other processes use a device, too, what the driver has free counts as well: they may have taken some of
        what was to be ours.
        """
        record = self._memory.record()
        room = {}
        for device in record.devices:
            room[device.id] = self._ledger.room(device.id, model)
            if device.kind is DeviceKind.CUDA and device.free_bytes is not None:
                free = device.free_bytes - self._ledger.promised_to_others(device.id, model)
                room[device.id] = min(room[device.id], max(0, free) + self._ledger.held(device.id, model))
        resident = self._residents.get(model)
        own = self._ledger.held(HOST, model) + (resident.files.locked_bytes if resident else 0)
        free = record.host.available_bytes - self._ledger.promised_to_others(HOST, model)
        room[HOST] = max(0, free) + own
        return room
