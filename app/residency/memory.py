"""The truth about memory: what we hold (the ledger) beside what the system reports, never one for the other."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.devices import Device, DeviceMemory
from app.devices.host import HostMemory, host_memory
from app.placement import HOST
from app.residency.files import OpenFiles
from app.residency.ledger import Ledger
from app.residency.records import DeviceMemoryRecord, HostMemoryRecord, MemoryRecord, ModelMemoryRecord
from app.residency.residents import Resident


@dataclass(frozen=True, slots=True)
class _Reported:
    """What the system said when it was last asked."""

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

    async def ask(self) -> None:
        """Ask the system anew. Whoever comes while the question is out waits for the next one, all together."""
        if self._asking is not None:
            await asyncio.wait([self._asking])  # it may have looked before the caller's change
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        files = [resident.current.files for resident in self._residents.values()]
        self._reported = await asyncio.to_thread(_report, self._devices, files)
        for device, memory in self._reported.devices.items():
            if memory.total_bytes is not None and memory.others_bytes is not None:
                self._ledger.bound(device, memory.total_bytes - memory.others_bytes)

    def record(self) -> MemoryRecord:
        """All memory now, as far as we hold it; as of the last `ask`, where the system reports it."""
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
                mapped_bytes=sum(resident.current.files.mapped_bytes for resident in residents),
                resident_bytes=reported.resident_bytes,
                locked_bytes=sum(resident.current.files.locked_bytes for resident in residents),
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


def _report(devices: Mapping[str, Device], files: Sequence[OpenFiles]) -> _Reported:
    """Blocks."""
    counts = [open_files.resident_bytes() for open_files in files]
    resident = None if None in counts else sum(count for count in counts if count is not None)
    return _Reported({id_: device.memory() for id_, device in devices.items()}, host_memory(), resident)
