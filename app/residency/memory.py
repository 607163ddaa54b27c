"""The truth about memory: what we hold (the ledger) beside what the system reports, never one for the other.

One record serves everybody who looks: routes, events, metrics. It is made anew when the books or a figure of the
system's have changed, so its `time` says since when all of it is so.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from app.devices import Device, DeviceMemory
from app.devices.host import HostMemory, host_memory
from app.placement import HOST
from app.residency.files import OpenFiles
from app.residency.ledger import Ledger
from app.residency.records import DeviceMemoryRecord, HostMemoryRecord, MemoryRecord, ModelMemoryRecord
from app.residency.residents import Resident

FRESH_SECONDS: Final = 1.0
"""How old what the system reports may be for somebody who only looks."""

AHEAD_SECONDS: Final = 0.25
"""How long before that it is asked anew. Not sooner: to count what is in the page cache takes milliseconds a GiB."""


@dataclass(frozen=True, slots=True)
class _Reported:
    """What the system said when it was last asked: when that was, and by which revision of the books."""

    asked_at: float
    revision: int
    devices: Mapping[str, DeviceMemory]
    host: HostMemory
    resident_bytes: int | None


class Memory:
    """Asks the system on a worker thread, and puts the answer beside the ledger on the event loop."""

    def __init__(self, devices: Mapping[str, Device], ledger: Ledger, residents: Mapping[str, Resident]) -> None:
        self._devices = {id_: device for id_, device in devices.items() if id_ != HOST}
        self._ledger = ledger
        self._residents = residents
        self._reported: _Reported | None = None
        self._asking: asyncio.Task[None] | None = None
        self._record: MemoryRecord | None = None
        self._made_of: object = None

    async def look(self) -> MemoryRecord:
        """All memory: as we hold it now, and as the system reported it at most FRESH_SECONDS ago.

        It is asked anew first where the books have changed since, so that whoever has seen a job end sees what the
        device says after it; and in good time by those who look often, so that none of them waits. HostError.
        """
        reported = self._reported
        age = time.monotonic() - reported.asked_at if reported else FRESH_SECONDS
        if reported is None or age >= FRESH_SECONDS or reported.revision != self._ledger.revision:
            await self.ask()
        elif age >= FRESH_SECONDS - AHEAD_SECONDS:
            self._out()
        return self.record()

    async def ask(self) -> None:
        """Ask the system anew. Whoever comes while the question is out waits for the next one, all together."""
        if self._asking is not None:
            await asyncio.wait([self._asking])  # it may have looked before the caller's change
        await asyncio.shield(self._out())

    def _out(self) -> asyncio.Task[None]:
        """The question that is out; asked now where none is."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(_heard)
        return self._asking

    async def _ask(self) -> None:
        files = [resident.current.files for resident in self._residents.values()]
        asked_at, revision = time.monotonic(), self._ledger.revision
        self._reported = await asyncio.to_thread(_report, asked_at, revision, self._devices, files)
        for device, memory in self._reported.devices.items():
            if memory.total_bytes is not None and memory.others_bytes is not None:
                self._ledger.bound(device, memory.total_bytes - memory.others_bytes)

    def record(self) -> MemoryRecord:
        """All memory now, as far as we hold it; as of the last `ask`, where the system reports it.

        The same object for as long as nothing of it has changed.
        """
        made_of = self._present()
        if self._record is None or self._made_of != made_of:
            made = self._made()
            if self._record is None or replace(made, time=self._record.time) != self._record:
                self._record = made
            self._made_of = made_of
        return self._record

    def _present(self) -> object:
        """All that the record is made of: while it is equal, so is the record.

        Threads lock files, make staging memory and find losses, and no entry in the books says so meanwhile.
        """
        locked = [resident.files.locked_bytes for resident in self._residents.values()]
        devices = [(device.loss.reason, device.staging_bytes) for device in self._devices.values()]
        return self._ledger.revision, self._reported, locked, devices

    def _made(self) -> MemoryRecord:
        reported = self._reported
        if reported is None:
            raise LookupError("ask before the first record")
        buffered = self._ledger.row(HOST)
        residents = list(self._residents.values())
        return MemoryRecord(
            time=time.time(),
            devices=tuple(self._device(device, reported.devices[id_]) for id_, device in self._devices.items()),
            host=HostMemoryRecord(
                total_bytes=reported.host.total_bytes,
                available_bytes=reported.host.available_bytes,
                limit_bytes=buffered.limit_bytes,
                mapped_bytes=sum(resident.files.mapped_bytes for resident in residents),
                resident_bytes=reported.resident_bytes,
                locked_bytes=sum(resident.files.locked_bytes for resident in residents),
                buffered_bytes=buffered.used_bytes + buffered.retired_bytes,
                staging_bytes=sum(device.staging_bytes for device in self._devices.values()),
                process_rss_bytes=reported.host.process_rss_bytes,
            ),
            models=tuple(model_memory(resident) for resident in residents),
        )

    def model(self, model: str) -> ModelMemoryRecord | None:
        """One model's tensor bytes by device; None where it is not loaded."""
        resident = self._residents.get(model)
        return model_memory(resident) if resident else None

    def _device(self, device: Device, reported: DeviceMemory) -> DeviceMemoryRecord:
        row = self._ledger.row(device.id)
        return DeviceMemoryRecord(
            id=device.id,
            kind=device.kind,
            name=device.name,
            uuid=device.uuid,
            lost=device.loss.reason,
            total_bytes=reported.total_bytes,
            free_bytes=reported.free_bytes,
            others_bytes=reported.others_bytes,
            limit_bytes=row.limit_bytes,
            used_bytes=row.used_bytes,
            weights_bytes=row.weights_bytes,
            padding_bytes=row.padding_bytes,
            reserved_bytes=row.reserved_bytes,
            retired_bytes=row.retired_bytes,
        )


def model_memory(resident: Resident) -> ModelMemoryRecord:
    """A loaded model's tensor bytes by device."""
    devices = resident.current.placement.device_bytes(resident.entry.require_model().size_bytes)
    total, cpu = sum(devices.values()), devices[HOST]
    cpu_percent = round(100 * cpu / total, 2) if total else 0.0
    return ModelMemoryRecord(
        id=resident.entry.id,
        total_bytes=total,
        gpu_bytes=total - cpu,
        cpu_bytes=cpu,
        gpu_percent=round(100 - cpu_percent, 2) if total else 0.0,
        cpu_percent=cpu_percent,
        devices=devices,
    )


def _report(asked_at: float, revision: int, devices: Mapping[str, Device], files: Sequence[OpenFiles]) -> _Reported:
    """Blocks."""
    counts = [open_files.resident_bytes() for open_files in files]
    resident = None if None in counts else sum(count for count in counts if count is not None)
    reported = {id_: device.memory() for id_, device in devices.items()}
    return _Reported(asked_at, revision, reported, host_memory(), resident)


def _heard(task: asyncio.Task[None]) -> None:
    """Whoever needed the answer has heard of a failure; where nobody did, the next look asks for itself."""
    if not task.cancelled():
        task.exception()
