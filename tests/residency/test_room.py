"""What a model may hold of each device: limits, what others hold, what other models hold, margins."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from app.devices.simulated import SimulatedDevice
from app.errors import DoesNotFit, OutOfDeviceMemory
from app.placement import HOST, HostMode, PlacementRequest
from app.residency import Loadmaster
from app.residency.eviction import Evict
from tests.residency.deck import KIB, MIB, assert_books_agree, at, books, ended, rows, service
from tests.residency.instruments import TINY

AUTO = PlacementRequest()


async def available(loadmaster: Loadmaster, model: str = "tiny", request: PlacementRequest = AUTO) -> dict[str, int]:
    """By device, what a plan has to go by."""
    found = await loadmaster.plan(model, request)
    return {row.id: row.available_bytes or 0 for row in found.devices}


@pytest.mark.parametrize(
    ("memory_limit", "others_bytes", "margin_bytes", "expected"),
    [
        ("all", 0, 0, MIB),
        ("all", 300 * KIB, 0, 724 * KIB),
        ("50%", 0, 0, 512 * KIB),
        ("50%", 300 * KIB, 0, 512 * KIB),
        ("50%", 600 * KIB, 0, 424 * KIB),
        ("sim:0=10KiB", 0, 0, 10 * KIB),
        ("cpu=10KiB", 0, 0, MIB),
        ("all", 0, 24 * KIB, 1000 * KIB),
        ("50%", 600 * KIB, 24 * KIB, 400 * KIB),
        ("50%", 300 * KIB, 24 * KIB, 488 * KIB),
        ("10KiB", 0, 24 * KIB, 0),
        ("all", MIB, 0, 0),
        ("1B", MIB, 1, 0),
    ],
)
def test_available_is_the_smaller_of_two_less_the_margin(
    place: Path, memory_limit: str, others_bytes: int, margin_bytes: int, expected: int
) -> None:
    """The limit, or what others leave; what a plan calls available, and a load is refused with."""
    request = replace(AUTO, margin_bytes=margin_bytes)

    async def main() -> None:
        device = SimulatedDevice("sim:0", MIB, others_bytes=others_bytes)
        async with service(place, device, memory_limit=memory_limit) as loadmaster:
            assert (await available(loadmaster, request=request))["sim:0"] == expected
            whole = await loadmaster.plan("tiny", replace(request, n_gpu_layers="all"))
            assert whole.fits is (whole.devices[0].required_bytes <= expected)
            if not whole.fits:
                with pytest.raises(DoesNotFit) as caught:
                    await loadmaster.load("tiny", replace(request, n_gpu_layers="all"))
                assert (caught.value.device, caught.value.available_bytes) == ("sim:0", expected)
                assert caught.value.largest_n_gpu_layers == (await loadmaster.plan("tiny", request)).n_gpu_layers

    asyncio.run(main())


@pytest.mark.parametrize(("memory_limit", "others_bytes"), [("all", 300 * KIB), ("60%", 300 * KIB), ("60%", 600 * KIB)])
def test_other_models_take_their_part_of_it(place: Path, memory_limit: str, others_bytes: int) -> None:
    """Once only, whether the limit or the others' part is what counts; a model's own bytes are its own to use."""
    (place / "models" / "second.gguf").write_bytes(TINY)

    async def main() -> None:
        device = SimulatedDevice("sim:0", MIB, others_bytes=others_bytes)
        async with service(place, device, memory_limit=memory_limit) as loadmaster:
            before = await available(loadmaster)
            await (await loadmaster.load("second", PlacementRequest(1))).wait()
            used = rows(loadmaster)["sim:0"].used_bytes
            assert used > 0
            assert (await available(loadmaster))["sim:0"] == before["sim:0"] - used
            assert (await available(loadmaster, "second"))["sim:0"] == before["sim:0"]
            await assert_books_agree(loadmaster, "second")

    asyncio.run(main())


def test_auto_takes_what_the_limit_allows(place: Path) -> None:
    """For every limit the most layers that fit below it, and never a byte more; a margin counts as well."""

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", MIB)) as loadmaster:
            rooms = [
                (await loadmaster.plan("tiny", PlacementRequest(n))).devices[0].required_bytes for n in (1, 2, 3, 4)
            ]
        for n, needed in enumerate(rooms, start=1):
            for nbytes, expected in ((needed, n), (needed - 1, n - 1)):
                for margin in (0, 4 * KIB):
                    limit = f"{nbytes + margin}B"
                    async with service(place, SimulatedDevice("sim:0", MIB), memory_limit=limit) as loadmaster:
                        await (await loadmaster.load("tiny", PlacementRequest(margin_bytes=margin))).wait()
                        row = rows(loadmaster)["sim:0"]
                        assert loadmaster._residents["tiny"].current.placement.n_gpu_layers == expected
                        assert row.used_bytes + margin <= row.limit_bytes == nbytes + margin
                        await assert_books_agree(loadmaster, "tiny")
                        await (await loadmaster.unload("tiny")).wait()

    asyncio.run(main())


def test_what_others_take_later_is_not_planned_with(place: Path) -> None:
    """A loaded model keeps what it has, may give it up and have it back, and gets no more; nor does another."""
    (place / "models" / "second.gguf").write_bytes(TINY)

    async def main() -> None:
        device = SimulatedDevice("sim:0", MIB)
        async with service(place, device) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(2))).wait()
            held = rows(loadmaster)["sim:0"].used_bytes
            device.others_bytes = MIB - held

            assert (await available(loadmaster))["sim:0"] == held
            assert (await available(loadmaster, "second"))["sim:0"] == 0
            with pytest.raises(DoesNotFit) as caught:
                await loadmaster.offload("tiny", lambda request: replace(request, n_gpu_layers=3))
            assert (caught.value.available_bytes, caught.value.largest_n_gpu_layers) == (held, 2)
            await (await loadmaster.offload("tiny", at(1))).wait()
            assert rows(loadmaster)["sim:0"].used_bytes < held
            await (await loadmaster.offload("tiny", lambda request: replace(request, n_gpu_layers="auto"))).wait()
            assert rows(loadmaster)["sim:0"].used_bytes == held
            await assert_books_agree(loadmaster, "tiny")

            device.others_bytes = 0
            assert (await available(loadmaster, "second"))["sim:0"] == MIB - held

    asyncio.run(main())


def test_what_others_take_between_plan_and_copy_undoes_the_load(place: Path) -> None:
    """It is refused, by the ledger if it has heard of it, else by the device, and nothing is left behind."""

    async def main() -> None:
        device = SimulatedDevice("sim:0", MIB)
        async with service(place, device) as loadmaster:
            before = books(loadmaster, "tiny")
            job = await loadmaster.load("tiny", PlacementRequest(4))
            device.others_bytes = MIB
            failure = await ended(job)
            assert isinstance(failure, DoesNotFit | OutOfDeviceMemory)
            assert failure.facts.get("free_bytes", failure.facts.get("available_bytes")) == 0
            device.others_bytes = 0
            assert books(loadmaster, "tiny") == before

    asyncio.run(main())


def test_the_host_s_limit_is_for_copies(place: Path) -> None:
    """What is copied needs room below it, all models together, the margin too; mapped or locked pages do not."""
    (place / "models" / "second.gguf").write_bytes(TINY)
    buffered = PlacementRequest(0, host=HostMode.BUFFERED)

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", MIB)) as loadmaster:
            needed = (await loadmaster.plan("tiny", buffered)).devices[-1].required_bytes
        async with service(place, SimulatedDevice("sim:0", MIB), memory_limit=f"cpu={needed}B") as loadmaster:
            assert (await available(loadmaster, request=buffered))[HOST] == needed
            with pytest.raises(DoesNotFit) as caught:
                await loadmaster.load("tiny", replace(buffered, margin_bytes=1))
            assert (caught.value.device, caught.value.available_bytes) == (HOST, needed - 1)
            await (await loadmaster.load("tiny", buffered)).wait()
            with pytest.raises(DoesNotFit) as caught:
                await loadmaster.load("second", buffered, evict=Evict.NONE)
            assert (caught.value.device, caught.value.available_bytes) == (HOST, 0)
            assert caught.value.largest_n_gpu_layers == 4
            for host in (HostMode.MMAP, HostMode.MLOCK):
                await (await loadmaster.load("second", replace(buffered, host=host))).wait()

    asyncio.run(main())
