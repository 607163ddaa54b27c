"""Lost devices: whoever finds out, what was there falls back to the host at once, and everything else goes on."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.devices.simulated import Faults, SimulatedDevice
from app.errors import DeviceLost
from app.model import ProblemKind
from app.placement import HOST, HostMode, Override, PlacementRequest, SplitMode, Strategy
from app.residency import Loadmaster
from app.residency.events import Event
from app.residency.records import JobState, ModelState, VerifyResult
from tests.gguf_builder import tiny_llama
from tests.residency.deck import (
    ALL,
    KIB,
    MIB,
    assert_books_agree,
    at,
    ended,
    fields,
    heard,
    listening,
    progress,
    rows,
    service,
    two_devices,
    until,
)
from tests.residency.test_every_fault import LOADS, OFFLOADS, QUICK, Case, devices, load, rehearse, strikes, write

Finder = Callable[[Loadmaster], Awaitable[object]]
BESIDE = PlacementRequest("all", devices=("sim:1",))
NOTHING = (0, 0, 0, 0)
CASES = {name: case for name, case in {**LOADS, **OFFLOADS}.items() if name != "buffered-down"}
"""Those that copy to a device, and not to the host alone."""


@pytest.fixture
def two_models(place: Path) -> Path:
    """A place with two models."""
    (place / "models" / "other.gguf").write_bytes(tiny_llama(n_layer=2))
    return place


def pull_out(device: SimulatedDevice) -> None:
    """Break a device; whoever calls it next finds out."""
    device.broken = "pulled out"


def books_of(loadmaster: Loadmaster, device: str) -> tuple[int, int, int, int]:
    """What is used, reserved and retired of a device, and what is left of it for a model that holds nothing."""
    row = rows(loadmaster)[device]
    return row.used_bytes, row.reserved_bytes, row.retired_bytes, loadmaster._ledger.room(device, "nobody")


def layers_on(loadmaster: Loadmaster, model: str = "tiny") -> dict[str, int]:
    """How many slabs a model has on each device."""
    counts: dict[str, int] = {}
    for slab in loadmaster._residents[model].current.placement.slabs:
        counts[slab.device] = counts.get(slab.device, 0) + 1
    return counts


async def heard_of_loss(events: AsyncIterator[Event]) -> None:
    """Listen until a memory event says that the first device is lost, and that nothing is known of its memory."""
    async for event in events:
        if event.name == "memory" and (first := fields(event)["devices"][0])["lost"] == "pulled out":
            assert (first["free_bytes"], first["others_bytes"]) == (None, None)
            return


async def read(loadmaster: Loadmaster, tensor: str = "blk.0.attn_k.weight") -> bytes:
    """A tensor's bytes, from where they are."""
    reading = await loadmaster.read("tiny", tensor)
    return b"".join([chunk async for chunk in reading.chunks(0, reading.tensor.nbytes)])


async def find_by_reading(loadmaster: Loadmaster) -> None:
    """Be refused by the lost device; the next read is answered from the file."""
    with pytest.raises(DeviceLost, match="sim:0 is lost: pulled out"):
        await read(loadmaster)
    assert await read(loadmaster)


async def find_by_verifying(loadmaster: Loadmaster) -> None:
    """Have all bytes looked at; it is the device that is not there, and no byte that is wrong."""
    job = await loadmaster.verify("tiny", deep=True)
    await job.wait()
    assert isinstance(job.result, VerifyResult)
    assert {problem.kind for problem in job.result.problems} == {ProblemKind.LOST_COPY}
    assert all("sim:0 is lost: pulled out" in problem.message for problem in job.result.problems)


async def find_by_unloading_and_loading(loadmaster: Loadmaster) -> None:
    """An unload meets no error of the device that it leaves, and the load after it does without the device."""
    await (await loadmaster.unload("tiny")).wait()
    await (await loadmaster.load("tiny", PlacementRequest(2))).wait()


FINDERS: dict[str, Finder] = {
    "read": find_by_reading,
    "memory": lambda loadmaster: loadmaster.memory.ask(),
    "verify": find_by_verifying,
    "unload": find_by_unloading_and_loading,
}


@pytest.mark.parametrize("find", FINDERS.values(), ids=FINDERS)
def test_what_was_there_falls_back_to_the_host(
    two_models: Path, caplog: pytest.LogCaptureFixture, find: Finder
) -> None:
    """Whoever finds out: layers of the lost device are the file's, the other device is untouched, and it is said."""

    async def main() -> None:
        first, second = two_devices()
        async with service(two_models, first, second) as loadmaster:
            for model, request in (("tiny", ALL), ("other", BESIDE)):
                await (await loadmaster.load(model, request)).wait()
            beside = loadmaster._residents["other"].current
            async with listening(loadmaster) as events:
                pull_out(first)
                await find(loadmaster)
                await heard(events, id="tiny", n_gpu_layers=2, state="loaded")
                await heard_of_loss(events)
            await until(lambda: books_of(loadmaster, "sim:0") == NOTHING)
            assert layers_on(loadmaster).keys() == {"sim:1"}
            assert loadmaster._residents["other"].current is beside
            for model in ("tiny", "other"):
                await assert_books_agree(loadmaster, model)
                await (await loadmaster.unload(model)).wait()
        errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
        assert errors == ["sim:0 is lost: pulled out; what was there falls back to the host"]

    asyncio.run(main())


def test_a_loss_in_the_middle_of_a_load_undoes_it(two_models: Path) -> None:
    """The load fails by it, with nothing left of it; asked for again, it does with the device that is there."""

    async def main() -> None:
        first, second = SimulatedDevice("sim:0", 4 * MIB, faults=Faults(lose=6)), SimulatedDevice("sim:1", 4 * MIB)
        async with service(two_models, first, second) as loadmaster:
            await (await loadmaster.load("other", PlacementRequest("all", devices=("sim:0",)))).wait()
            wish = loadmaster._wishes.current["other"]
            job = await loadmaster.load("tiny", ALL)
            failure = await ended(job)
            assert isinstance(failure, DeviceLost)
            assert (job.state, failure.device) == (JobState.FAILED, "sim:0")
            record = loadmaster.library.record(loadmaster.library.entry("tiny"))
            assert (record.state, record.error) == (ModelState.FAILED, failure)
            assert "tiny" not in loadmaster._wishes.current
            assert (layers_on(loadmaster, "other"), loadmaster._wishes.current["other"]) == ({}, wish)
            await until(lambda: books_of(loadmaster, "sim:0") == NOTHING)
            assert books_of(loadmaster, "sim:1") == (0, 0, 0, 4 * MIB)

            await (await loadmaster.load("tiny", ALL)).wait()
            assert layers_on(loadmaster) == {"sim:1": 6}
            for model in ("tiny", "other"):
                await assert_books_agree(loadmaster, model)

    asyncio.run(main())


def test_a_loss_in_the_middle_of_an_offload_leaves_the_rest(place: Path) -> None:
    """It fails, what it staged elsewhere is undone, and what was on the lost device is the file's; the wish stays."""

    async def main() -> None:
        first = SimulatedDevice("sim:0", 4 * MIB, faults=Faults(lose=3))
        async with service(place, first, SimulatedDevice("sim:1", 4 * MIB, bytes_per_second=400 * KIB)) as loadmaster:
            before = await loadmaster.load("tiny", PlacementRequest(2, split_weights=(2, 1)))
            await before.wait()
            assert layers_on(loadmaster) == {"sim:0": 2, "sim:1": 2}
            wish, books = loadmaster._wishes.current["tiny"], books_of(loadmaster, "sim:1")
            failure = await ended(await loadmaster.offload("tiny", lambda _: replace(ALL, split_weights=(2, 1))))
            assert isinstance(failure, DeviceLost)
            assert (layers_on(loadmaster), loadmaster._wishes.current["tiny"]) == ({"sim:1": 2}, wish)
            assert (before.generation, loadmaster._residents["tiny"].current.number) == (1, 2)
            await until(lambda: books_of(loadmaster, "sim:0") == NOTHING)
            assert books_of(loadmaster, "sim:1") == books
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_an_offload_that_would_stay_there_fails_though_it_copies_elsewhere(place: Path) -> None:
    """Its target cannot be had any more: it is stopped at once, and not when its last byte has arrived."""

    async def main() -> None:
        first, slow = SimulatedDevice("sim:0", 4 * MIB), SimulatedDevice("sim:1", 4 * MIB, bytes_per_second=20 * KIB)
        async with service(place, first, slow) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(1, split_mode=SplitMode.NONE))).wait()
            wish = loadmaster._wishes.current["tiny"]
            overrides = (Override(r"blk\.[23]", "sim:1"),)
            job = await loadmaster.offload("tiny", lambda request: replace(request, overrides=overrides))
            await progress(loadmaster, job)
            pull_out(first)
            await loadmaster.memory.ask()
            assert isinstance(await ended(job), DeviceLost)
            assert job.bytes_done < job.bytes_total
            assert (layers_on(loadmaster), loadmaster._wishes.current["tiny"]) == ({}, wish)
            await until(lambda: books_of(loadmaster, "sim:0") == NOTHING)
            assert books_of(loadmaster, "sim:1") == (0, 0, 0, 4 * MIB)
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_an_offload_that_leaves_the_lost_device_goes_on(place: Path) -> None:
    """Bytes come from the file: it arrives where it was going, and what it was to release is released once."""

    async def main() -> None:
        first, slow = SimulatedDevice("sim:0", 4 * MIB), SimulatedDevice("sim:1", 4 * MIB, bytes_per_second=400 * KIB)
        async with service(place, first, slow) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest("all", devices=("sim:0",)))).wait()
            job = await loadmaster.offload("tiny", lambda _: BESIDE)
            await progress(loadmaster, job)
            pull_out(first)
            await loadmaster.memory.ask()
            assert layers_on(loadmaster) == {}
            await job.wait()
            assert layers_on(loadmaster) == {"sim:1": 6}
            await until(lambda: books_of(loadmaster, "sim:0") == NOTHING)
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_a_loss_between_steps_keeps_the_wish_from_before(place: Path) -> None:
    """Of an offload in many steps the last completed one may be gone as well: the former wish is what remains."""
    (place / "models" / "tiny.gguf").write_bytes(tiny_llama(n_layer=8, tied=False))
    five = PlacementRequest(5, split_mode=SplitMode.NONE)

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", MIB)) as loadmaster:
            await (await loadmaster.load("tiny", five)).wait()
            size, wish = rows(loadmaster)["sim:0"].used_bytes, loadmaster._wishes.current["tiny"]
        device = SimulatedDevice("sim:0", size + 4 * KIB, faults=Faults(lose=9))
        async with service(place, device) as loadmaster:
            await until(lambda: not loadmaster.restoring)
            job = await loadmaster.offload("tiny", lambda _: replace(five, strategy=Strategy.LAST))
            assert isinstance(await ended(job), DeviceLost)
            assert job.generation is not None
            assert (layers_on(loadmaster), loadmaster._wishes.current["tiny"]) == ({}, wish)
            await until(lambda: books_of(loadmaster, "sim:0") == NOTHING)
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_readers_of_the_lost_generation_are_refused(place: Path) -> None:
    """Whoever holds it is told what happened, and what it holds is gone with its hold; then it reads on."""

    async def main() -> None:
        first, second = two_devices()
        async with service(place, first, second) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            resident = loadmaster._residents["tiny"]
            tensor = resident.entry.require_model().tensors_by_name["blk.0.attn_k.weight"]
            with resident.hold() as generation:
                await asyncio.to_thread(generation.read, tensor, 0, 1)
                pull_out(first)
                await loadmaster.memory.ask()
                assert rows(loadmaster)["sim:0"].retired_bytes > 0
                for _ in range(2):
                    with pytest.raises(DeviceLost, match="pulled out"):
                        await asyncio.to_thread(generation.read, tensor, 0, 1)
                with resident.hold() as after:
                    assert len(await asyncio.to_thread(after.read, tensor, 0, 1)) == 1
            await until(lambda: books_of(loadmaster, "sim:0") == NOTHING)

    asyncio.run(main())


def test_readers_go_on_while_a_device_is_lost(place: Path) -> None:
    """Threads that read everything meet the loss and no wrong byte, before and after it."""

    async def main() -> None:
        first, second = two_devices()
        stop, met = threading.Event(), list[str]()
        async with service(place, first, second) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            resident = loadmaster._residents["tiny"]
            tensors = resident.entry.require_model().tensors
            file = (place / "models" / "tiny.gguf").read_bytes()

            def check() -> int:
                looks = 0
                while not stop.is_set():
                    for tensor in tensors:
                        with resident.hold() as generation:
                            try:
                                data = generation.read(tensor, 0, tensor.nbytes)
                            except DeviceLost as error:
                                met.append(error.device)
                            else:
                                assert data == file[tensor.offset : tensor.offset + tensor.nbytes], tensor.name
                    looks += 1
                return looks

            reading = [asyncio.create_task(asyncio.to_thread(check)) for _ in range(3)]
            pull_out(first)
            await until(lambda: bool(met) and books_of(loadmaster, "sim:0") == NOTHING)
            await (await loadmaster.offload("tiny", at(1))).wait()
            stop.set()
            assert all(await asyncio.gather(*reading))
            assert set(met) == {"sim:0"}
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


NAMED = {
    "devices": PlacementRequest(1, devices=("sim:1", "sim:0")),
    "overrides[0].device": PlacementRequest(1, overrides=(Override("ffn", "sim:0"),)),
}


@pytest.mark.parametrize("param", NAMED)
def test_asking_for_it_by_name_is_refused(place: Path, param: str) -> None:
    """Load, offload and plan say that it is lost, and what happened; who leaves it out is given the others."""

    async def main() -> None:
        first, second = two_devices()
        async with service(place, first, second) as loadmaster:
            pull_out(first)
            for ask in (loadmaster.load, loadmaster.plan):
                with pytest.raises(DeviceLost, match="sim:0 is lost: pulled out") as caught:
                    await ask("tiny", NAMED[param])
                assert caught.value.param == param
            await (await loadmaster.load("tiny", ALL)).wait()
            assert layers_on(loadmaster) == {"sim:1": 6}
            with pytest.raises(DeviceLost):
                await loadmaster.offload("tiny", lambda _: NAMED[param])
            assert [device.id for device in (await loadmaster.plan("tiny", ALL)).devices] == ["sim:1", HOST]

    asyncio.run(main())


def test_without_any_device_the_host_serves(place: Path) -> None:
    """Once all are lost, models stay loaded there, load there by `auto`, and are refused where they must not."""

    async def main() -> None:
        both = two_devices()
        async with service(place, *both) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            for device in both:
                pull_out(device)
            await loadmaster.memory.ask()
            assert layers_on(loadmaster) == {}
            await assert_books_agree(loadmaster, "tiny")
            await (await loadmaster.load("tiny", PlacementRequest("auto"))).wait()
            assert loadmaster._residents["tiny"].current.placement.n_gpu_layers == 0
            for request in (ALL, PlacementRequest(1)):
                with pytest.raises(DeviceLost, match="pulled out") as caught:
                    await loadmaster.load("tiny", request)
                assert caught.value.param == "n_gpu_layers"

    asyncio.run(main())


def test_copies_on_the_host_stay_and_what_falls_back_is_the_files(place: Path) -> None:
    """Of a buffered model, layers that were copied to the host are there, and those of the lost device no copies."""

    async def main() -> None:
        first, second = two_devices()
        async with service(place, first, second) as loadmaster:
            await (await loadmaster.load("tiny", replace(ALL, n_gpu_layers=2, host=HostMode.BUFFERED))).wait()
            before = layers_on(loadmaster)
            pull_out(first)
            await loadmaster.memory.ask()
            del before["sim:0"]
            assert layers_on(loadmaster) == before
            assert before[HOST] > 0
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_a_restart_with_the_device_back_restores_the_wish(place: Path) -> None:
    """Each layer is where it was before the loss."""

    async def main() -> None:
        first, second = two_devices()
        async with service(place, first, second) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            before = loadmaster._residents["tiny"].current.placement
            pull_out(first)
            await loadmaster.memory.ask()
            assert loadmaster._residents["tiny"].current.placement != before
        async with service(place, *two_devices()) as loadmaster:
            await until(lambda: not loadmaster.restoring)
            assert loadmaster._residents["tiny"].current.placement == before
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_a_device_that_is_lost_at_the_start_is_done_without(place: Path) -> None:
    """A wish for it by name is failed and kept; the next start with the device has it."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", replace(ALL, devices=("sim:0",)))).wait()
        first, second = two_devices()
        pull_out(first)
        async with service(place, first, second) as loadmaster:
            await until(lambda: not loadmaster.restoring)
            assert isinstance(loadmaster.library.record(loadmaster.library.entry("tiny")).error, DeviceLost)
            assert loadmaster._wishes.current["tiny"] is not None
        async with service(place, *two_devices()) as loadmaster:
            await until(lambda: not loadmaster.restoring)
            assert layers_on(loadmaster) == {"sim:0": 6}

    asyncio.run(main())


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, case in CASES.items()],
)
def test_whichever_copy_loses_its_device(place: Path, case: Case) -> None:
    """The change fails by it, the wish from before stays, nothing is held there, and what is read is the file's."""
    write(place, case)

    async def main() -> None:
        rehearsal = await rehearse(place, case)
        struck = [(device, number) for device, number in strikes(rehearsal, "failcopy") if device != HOST]
        for device, number in struck:
            first, second, host = devices(rehearsal.sizes, device, lose=number)
            async with service(place, first, second, host=host) as loadmaster:
                await load(loadmaster, case.before)
                wish = loadmaster._wishes.current.get("tiny")
                failure = await ended(await loadmaster.load("tiny", case.after))
                assert isinstance(failure, DeviceLost)
                assert failure.device == device
                await until(lambda: books_of(loadmaster, device) == NOTHING)  # noqa: B023 - awaited in its round
                assert (await loadmaster._wishes.all()).get("tiny") == wish
                assert ("tiny" in loadmaster._residents) is (wish is not None)
                if wish is not None:
                    assert device not in layers_on(loadmaster)
                    await assert_books_agree(loadmaster, "tiny")
                    await (await loadmaster.unload("tiny")).wait()
        assert struck

    asyncio.run(main())
