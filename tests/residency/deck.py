"""What residency tests stand on: a real service on simulated devices, and ways to look at its books and bytes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.api.schemas import encode
from app.devices import Device, DeviceMemory
from app.devices.host import HostDevice
from app.devices.limits import limits_of
from app.devices.simulated import SimulatedDevice
from app.errors import LoadmasterError
from app.placement import HOST, Placement, PlacementRequest
from app.residency import Loadmaster
from app.residency.events import Event
from app.residency.jobs import Job
from app.residency.ledger import LedgerRow
from app.residency.records import DeviceMemoryRecord
from app.residency.wishes import Wish, Wishes
from tests.residency.instruments import descriptors, original

MIB = 1 << 20
KIB = 1 << 10
ALL = PlacementRequest(n_gpu_layers="all", split_weights="equal")


def two_devices() -> tuple[SimulatedDevice, SimulatedDevice]:
    """Two roomy devices as fast as memory."""
    return SimulatedDevice("sim:0", 4 * MIB), SimulatedDevice("sim:1", 4 * MIB)


def slow_device() -> SimulatedDevice:
    """A device that takes half a second for the tiny model."""
    return SimulatedDevice("sim:0", 4 * MIB, bytes_per_second=400 * KIB)


@asynccontextmanager
async def service(
    directory: Path, *devices: Device, host: Device | None = None, memory_limit: str = "all"
) -> AsyncIterator[Loadmaster]:
    """A running service on `directory`/models; once it has stopped, all of its books must be at zero.

    `host` takes the place of the host's memory, and must be named "cpu".
    """
    wishes = await Wishes.open(directory / "state")
    places = [*devices, host or HostDevice()]
    limits = limits_of(memory_limit, places)
    loadmaster = Loadmaster([directory / "models"], places, limits, wishes, encode)
    try:
        await loadmaster.start()
        yield loadmaster
    finally:
        await loadmaster.stop()
    for id_, row in rows(loadmaster).items():
        assert (row.used_bytes, row.weights_bytes, row.reserved_bytes, row.retired_bytes) == (0, 0, 0, 0), id_
    for device in (*devices, *([host] if host else [])):
        assert device.loss.reason or allocated(device.memory()) == 0


def allocated(memory: DeviceMemory | DeviceMemoryRecord) -> int:
    """What a simulated device's buffers take."""
    return (memory.total_bytes or 0) - (memory.free_bytes or 0) - (memory.others_bytes or 0)


def at(n_gpu_layers: int) -> Callable[[PlacementRequest], PlacementRequest]:
    """The change of a request that an offload to `n_gpu_layers` is."""
    return lambda request: PlacementRequest(n_gpu_layers, request.strategy, request.devices, request.split_mode)


def rows(loadmaster: Loadmaster) -> dict[str, LedgerRow]:
    """The ledger by device, the host included."""
    return {device: loadmaster._ledger.row(device) for device in loadmaster.devices}


@dataclass(frozen=True)
class Books:
    """Everything that a job which comes to nothing must leave as it was."""

    placement: Placement | None
    generation: int | None
    wish: Wish | None
    rows: dict[str, LedgerRow]
    free_bytes: dict[str, int | None]
    descriptors: list[str]


def books(loadmaster: Loadmaster, model: str) -> Books:
    """The books now."""
    resident = loadmaster._residents.get(model)
    devices = [device for device in loadmaster.devices.values() if device.id != HOST]
    return Books(
        resident.current.placement if resident else None,
        resident.current.number if resident else None,
        loadmaster._wishes.current.get(model),
        rows(loadmaster),
        {device.id: device.memory().free_bytes for device in devices},
        descriptors(),
    )


async def until(condition: Callable[[], bool]) -> None:
    """Let the service go on until it is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - of what has no event
            await asyncio.sleep(0.001)


async def ended(job: Job) -> LoadmasterError | None:
    """Wait for a job's end, whichever; its error."""
    await job.wait_ended()
    return job.error


@asynccontextmanager
async def listening(loadmaster: Loadmaster) -> AsyncIterator[AsyncIterator[Event]]:
    """Every event from now on; the snapshot has been heard."""
    async with aclosing(loadmaster.broadcast.listen().events(loadmaster.snapshot)) as events:
        await anext(events)
        yield events


async def heard(events: AsyncIterator[Event], **wanted: object) -> dict[str, Any]:
    """The data of the first event that has these fields."""
    async for event in events:
        data = fields(event)
        if wanted.items() <= data.items():
            return data
    raise AssertionError("the stream ended")


async def progress(loadmaster: Loadmaster, job: Job) -> None:
    """Wait until bytes of a running job have arrived."""
    async with listening(loadmaster) as events:
        while (await heard(events, id=job.id))["bytes_done"] == 0:
            pass


def fields(event: Event) -> dict[str, Any]:
    """An event's data."""
    data: dict[str, Any] = json.loads(event.data)
    return data


async def assert_books_agree(loadmaster: Loadmaster, model: str) -> None:
    """Sums over tensors, layers, devices, ledger and memory agree, and bytes read back are the file's."""
    await loadmaster.memory.ask()
    entry = loadmaster.library.entry(model)
    described = entry.require_model()
    record = loadmaster.memory.record()
    memory = loadmaster.memory.model(model)
    assert replace(loadmaster.memory._made(), time=record.time) == record
    assert loadmaster.library.records() == tuple(map(loadmaster.library.record, loadmaster.library.entries()))
    assert memory is not None
    assert memory.total_bytes == described.size_bytes == memory.gpu_bytes + memory.cpu_bytes
    assert sum(memory.devices.values()) == memory.total_bytes
    for found in (loadmaster.library.tensors(entry, described.tensors), loadmaster.library.layers(entry)):
        sums: dict[str, int] = {HOST: 0}
        for one in found:
            assert sum(one.devices.values()) == one.size_bytes
            for id_, nbytes in one.devices.items():
                sums[id_] = sums.get(id_, 0) + nbytes
        assert sums == memory.devices
    for device in record.devices:
        assert device.weights_bytes == sum(one.devices.get(device.id, 0) for one in record.models)
        assert device.used_bytes == device.weights_bytes + device.padding_bytes
        assert device.lost or device.used_bytes + device.retired_bytes == allocated(device)
    for tensor in described.tensors:
        reading = await loadmaster.read(model, tensor.name)
        data = b"".join([chunk async for chunk in reading.chunks(0, tensor.nbytes)])
        assert data == original(entry.files[tensor.file].path, tensor.offset, tensor.nbytes), tensor.name
