"""Moves where old and new do not fit side by side: layer by layer, each step whole, and readers undisturbed."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.devices.simulated import Faults, SimulatedDevice
from app.errors import Cancelled, TransferFailed
from app.placement import MoveMode, PlacementRequest, Strategy
from app.residency import Loadmaster
from app.residency.records import JobResult
from app.residency.residents import Resident
from tests.gguf_builder import tiny_llama
from tests.residency.deck import assert_books_agree, books, ended, rows, service, until

MODEL = tiny_llama(n_layer=8, tied=False)
FIRST = PlacementRequest(5, Strategy.FIRST)
LAST = PlacementRequest(5, Strategy.LAST)
Tight = tuple[Path, tuple[int, int]]
"""A place, and its devices' sizes."""


@pytest.fixture
def tight(place: Path) -> Tight:
    """A place with a larger model, and devices' sizes that have room for five of its blocks and little more."""
    (place / "models" / "tiny.gguf").write_bytes(MODEL)

    async def main() -> tuple[int, int]:
        async with service(place, *(SimulatedDevice(f"sim:{n}", 1 << 20) for n in (0, 1))) as loadmaster:
            await (await loadmaster.load("tiny", FIRST)).wait()
            used = [rows(loadmaster)[device].used_bytes for device in ("sim:0", "sim:1")]
            await (await loadmaster.unload("tiny")).wait()
            return used[0] + 4096, used[1] + 4096

    return place, asyncio.run(main())


def devices(sizes: tuple[int, int]) -> list[SimulatedDevice]:
    """Two devices of these sizes."""
    return [SimulatedDevice(f"sim:{n}", sizes[n]) for n in (0, 1)]


@contextmanager
def held(resident: Resident) -> Iterator[threading.Event]:
    """A thread that holds the present generation until the event is set, and checks its bytes then."""
    holds, let_go, wrong = threading.Event(), threading.Event(), list[str]()

    def read() -> None:
        with resident.hold() as generation:
            holds.set()
            let_go.wait()
            for tensor in resident.entry.require_model().tensors:
                data = generation.read(tensor, 0, tensor.nbytes)
                if data != MODEL[tensor.offset : tensor.offset + tensor.nbytes]:
                    wrong.append(tensor.name)

    thread = threading.Thread(target=read)
    thread.start()
    holds.wait()
    try:
        yield let_go
    finally:
        let_go.set()
        thread.join()
    assert not wrong


async def sample(loadmaster: Loadmaster, stop: asyncio.Event) -> None:
    """Look at the books as often as possible: no device ever holds more than its limit."""
    while not stop.is_set():
        for row in rows(loadmaster).values():
            assert row.used_bytes + row.reserved_bytes + row.retired_bytes <= row.limit_bytes
        await asyncio.sleep(0)


def test_layers_swap_ends_on_nearly_full_devices(tight: Tight) -> None:
    """From the first blocks to the last and back, in steps; only the three that are missing are copied."""
    place, sizes = tight

    async def main() -> None:
        async with service(place, *devices(sizes)) as loadmaster:
            await (await loadmaster.load("tiny", FIRST)).wait()
            stop = asyncio.Event()
            sampler = asyncio.create_task(sample(loadmaster, stop))
            for request in (LAST, FIRST, LAST):
                job = await loadmaster.load("tiny", request)
                await job.wait()
                assert isinstance(job.result, JobResult)
                assert (job.result.mode, job.result.copied_bytes) == (MoveMode.INCREMENTAL, job.bytes_done)
                blocks = loadmaster.library.entry("tiny").require_model().blocks
                assert job.bytes_total == sum(block.size_bytes for block in blocks[:3])
                await assert_books_agree(loadmaster, "tiny")
            stop.set()
            await sampler

    asyncio.run(main())


def test_a_step_waits_for_readers_that_are_in_its_way(tight: Tight) -> None:
    """While somebody holds the old generation there is no room; once it lets go, the job goes on and succeeds."""
    place, sizes = tight

    async def main() -> None:
        async with service(place, *devices(sizes)) as loadmaster:
            await (await loadmaster.load("tiny", FIRST)).wait()
            with held(loadmaster._residents["tiny"]) as let_go:
                job = await loadmaster.load("tiny", LAST)
                await until(lambda: any(row.retired_bytes for row in rows(loadmaster).values()))
                assert not job.ended
                let_go.set()
                await job.wait()
            await until(lambda: not any(row.retired_bytes for row in rows(loadmaster).values()))
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_a_job_that_waits_for_readers_can_be_called_off(tight: Tight) -> None:
    """It stays at the step that it had reached, whose placement becomes the wish."""
    place, sizes = tight

    async def main() -> None:
        async with service(place, *devices(sizes)) as loadmaster:
            await (await loadmaster.load("tiny", FIRST)).wait()
            with held(loadmaster._residents["tiny"]):
                job = await loadmaster.load("tiny", LAST)
                await until(lambda: any(row.retired_bytes for row in rows(loadmaster).values()))
                loadmaster.cancel(job.id)
                assert isinstance(await ended(job), Cancelled)
                assert all(row.reserved_bytes == 0 for row in rows(loadmaster).values())
            await until(lambda: not any(row.retired_bytes for row in rows(loadmaster).values()))
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_half_way_llama_cpp_counts_its_output(place: Path) -> None:
    """Five blocks and the output are six of its layers; so says what is wished for."""

    async def main() -> None:
        six = PlacementRequest(6, Strategy.FIRST)
        (place / "models" / "tiny.gguf").write_bytes(MODEL)
        async with service(place, SimulatedDevice("sim:0", 1 << 20)) as loadmaster:
            await (await loadmaster.load("tiny", six)).wait()
            used = rows(loadmaster)["sim:0"].used_bytes
            await (await loadmaster.unload("tiny")).wait()
        full = SimulatedDevice("sim:0", used + 4096, faults=Faults(failcopy=9))  # the eight before are the load's
        async with service(place, full) as loadmaster:
            await (await loadmaster.load("tiny", six)).wait()
            job = await loadmaster.offload("tiny", lambda _: PlacementRequest(6, Strategy.LLAMA_CPP))
            assert isinstance(await ended(job), TransferFailed)
            now = books(loadmaster, "tiny")
            assert now.placement is not None
            assert now.wish is not None
            layers = [slab.layer for slab in now.placement.slabs]
            assert (len(layers), "output" in layers, "input" in layers) == (6, True, False)
            assert now.placement.n_gpu_layers == now.wish.request.n_gpu_layers == 6

    asyncio.run(main())
