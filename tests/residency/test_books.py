"""The books: every sum agrees with every other after every step, and all of them end at zero."""

import asyncio
from pathlib import Path

from app.devices.simulated import SimulatedDevice
from app.placement import HostMode, PlacementRequest
from app.residency.records import JobResult, ModelState
from tests.gguf_builder import tiny_llama
from tests.residency.deck import (
    ALL,
    MIB,
    assert_books_agree,
    at,
    ended,
    rows,
    service,
    slow_device,
    two_devices,
)
from tests.residency.instruments import descriptors


def test_books_agree_at_every_number_of_layers(place: Path) -> None:
    """Up and down through every n: tensors, layers, devices, ledger and memory have one total, and the file's bytes."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(0))).wait()
            await assert_books_agree(loadmaster, "tiny")
            for n in (1, 2, 4, 3, 0, 4):
                await (await loadmaster.offload("tiny", at(n))).wait()
                await assert_books_agree(loadmaster, "tiny")
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.LOADED

    asyncio.run(main())


def test_only_missing_layers_travel(place: Path) -> None:
    """An offload to more layers copies exactly the missing ones' bytes; one to none copies nothing."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(2))).wait()
            entry = loadmaster.library.entry("tiny")
            missing = sum(layer.size_bytes for layer in entry.require_model().layers if layer.key in (2, 3))

            up = await loadmaster.offload("tiny", at(4))
            await up.wait()
            down = await loadmaster.offload("tiny", at(0))
            await down.wait()

            assert (up.bytes_total, up.bytes_done) == (missing, missing)
            assert (down.bytes_total, down.bytes_done) == (0, 0)
            assert isinstance(down.result, JobResult)
            assert down.result.released_bytes > 0

    asyncio.run(main())


def test_memory_files_account_for_what_is_used(place: Path) -> None:
    """The sizes of the memory files that the kernel shows are the used bytes, page for page."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            slabs = loadmaster._residents["tiny"].current.slabs
            assert sum("loadmaster" in name for name in descriptors()) == len(slabs)
            assert sum(live.buffer.nbytes for live in slabs) == sum(row.used_bytes for row in rows(loadmaster).values())

    asyncio.run(main())


def test_many_cycles_leave_nothing(place: Path) -> None:
    """Twenty times loaded and unloaded, every byte is given back and nothing stays open."""

    async def main() -> None:
        devices = two_devices()
        async with service(place, *devices) as loadmaster:
            before = descriptors()
            for _ in range(20):
                await (await loadmaster.load("tiny", ALL)).wait()
                await (await loadmaster.unload("tiny")).wait()
            assert [device.memory().free_bytes for device in devices] == [device.capacity_bytes for device in devices]
            assert descriptors() == before

    asyncio.run(main())


def test_generations_only_grow(place: Path) -> None:
    """An old If-Match never fits by accident, not even after an unload."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            seen = []
            for _ in range(3):
                job = await loadmaster.load("tiny", ALL)
                await job.wait()
                seen.append(job.generation)
                await (await loadmaster.unload("tiny")).wait()
            assert seen == [1, 2, 3]

    asyncio.run(main())


def test_two_loads_at_once_never_exceed_a_limit(place: Path) -> None:
    """Two models on their way to one device: at every moment used, reserved and retired are within its limit."""
    (place / "models" / "other.gguf").write_bytes(tiny_llama(n_layer=6, seed=1))

    async def main() -> None:
        device = slow_device()
        async with service(place, device) as loadmaster:
            jobs = [await loadmaster.load(model, PlacementRequest("all")) for model in ("tiny", "other")]
            most = 0
            while not all(job.ended for job in jobs):
                row = rows(loadmaster)[device.id]
                held = row.used_bytes + row.reserved_bytes + row.retired_bytes
                assert held <= row.limit_bytes
                assert device.capacity_bytes - (device.memory().free_bytes or 0) <= held
                most = max(most, held)
                await asyncio.sleep(0.01)
            assert [await ended(job) for job in jobs] == [None, None]
            assert most == rows(loadmaster)[device.id].used_bytes

    asyncio.run(main())


def test_bytes_agree_in_every_host_mode(place: Path) -> None:
    """However the host's part is kept, every tensor reads back as the file has it."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            for host in (HostMode.BUFFERED, HostMode.MMAP, HostMode.BUFFERED):
                await (await loadmaster.load("tiny", PlacementRequest(2, host=host))).wait()
                await assert_books_agree(loadmaster, "tiny")
                buffered = loadmaster.memory.record().host.buffered_bytes
                assert (buffered > 0) is (host is HostMode.BUFFERED)
                assert rows(loadmaster)["cpu"].used_bytes == buffered

    asyncio.run(main())


def test_what_devices_pin_is_the_hosts(place: Path) -> None:
    """Host memory that devices pin for their copies is shown as the host's, in one sum, and is in no model's bytes."""

    class Pinning(SimulatedDevice):
        """One that says it has staging memory; where it copies through it is its own matter."""

        staging_bytes = 24 * MIB

    async def main() -> None:
        devices = [Pinning(f"sim:{number}", 4 * MIB) for number in range(2)]
        async with service(place, *devices) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(2))).wait()
            await assert_books_agree(loadmaster, "tiny")
            host = loadmaster.memory.record().host
            assert (host.staging_bytes, host.buffered_bytes) == (48 * MIB, 0)
        async with service(place, *two_devices()) as loadmaster:
            assert loadmaster.memory.record().host.staging_bytes == 0

    asyncio.run(main())
