"""Every allocation and every copy of a change fails once: the books balance, what was there serves on, a retry works.

Each case is carried out once in peace, to see what it allocates and copies, and then once for each of these with that
one ordered to fail. The host's memory is a simulated device here, so that it can fail as well.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.devices.simulated import Faults, SimulatedDevice
from app.errors import DeviceError, OutOfDeviceMemory, TransferFailed
from app.placement import (
    HostMode,
    MoveMode,
    Override,
    PlacementRequest,
    Slab,
    SplitMode,
    Strategy,
    moves,
)
from app.residency import Loadmaster
from app.residency.records import JobState, ModelState
from app.residency.remembered import RememberedPlacement
from app.residency.wishes import Wish
from tests.gguf_builder import split_llama, tiny_llama
from tests.residency.deck import MIB, ended, rows, service
from tests.residency.instruments import TINY, descriptors, original

DEVICES = ("sim:0", "sim:1", "cpu")
FIVE = PlacementRequest(5)
ROWS = PlacementRequest("all", split_mode=SplitMode.ROW, split_weights=(1.0, 2.0))
EQUAL = PlacementRequest("all", split_weights="equal")
LLAMA = PlacementRequest(3, Strategy.LLAMA_CPP, split_weights="equal")
ONE_BY_ONE = PlacementRequest(2, overrides=(Override(r"blk\.[13]\.ffn_up", "sim:1"), Override("output", "sim:0")))
LARGER = (tiny_llama(n_layer=8, tied=False),)
SHARDS = tuple(split_llama(2))
TIED = (tiny_llama(),)


@dataclass(frozen=True)
class Case:
    """A change to fail in: of a model in these files, from `before` (None: not loaded) to `after`."""

    after: PlacementRequest
    before: PlacementRequest | None = None
    files: tuple[bytes, ...] = (TINY,)
    tight: bool = False


def swapped(first: str, last: str) -> PlacementRequest:
    """The first four blocks on one device, the last four on another."""
    overrides = (Override(r"blk\.[0-3]\.", first), Override(r"blk\.[4-7]\.", last))
    return PlacementRequest("all", split_weights="equal", overrides=overrides)


LOADS = {
    "layers": Case(EQUAL),
    "rows": Case(ROWS),
    "overrides": Case(ONE_BY_ONE),
    "llama.cpp-tied": Case(LLAMA, files=TIED),
    "shards": Case(EQUAL, files=SHARDS),
    "buffered": Case(PlacementRequest(2, split_weights="equal", host=HostMode.BUFFERED)),
}
OFFLOADS = {
    "up": Case(EQUAL, PlacementRequest(1, devices=("sim:0",))),
    "to-another-device": Case(PlacementRequest("all", devices=("sim:1",)), PlacementRequest("all", devices=("sim:0",))),
    "to-rows": Case(ROWS, EQUAL),
    "to-overrides": Case(ONE_BY_ONE, PlacementRequest(1, devices=("sim:0",))),
    "to-llama.cpp-tied": Case(LLAMA, PlacementRequest("all", devices=("sim:0",)), TIED),
    "shards-up": Case(EQUAL, PlacementRequest(1), SHARDS),
    "buffered-down": Case(
        PlacementRequest(1, host=HostMode.BUFFERED),
        PlacementRequest("all", split_weights="equal", host=HostMode.BUFFERED),
    ),
    "mmap-to-buffered": Case(PlacementRequest(3, host=HostMode.BUFFERED), PlacementRequest(1)),
    "steps": Case(replace(FIVE, strategy=Strategy.LAST), FIVE, LARGER, tight=True),
    "steps-of-rows": Case(
        replace(FIVE, strategy=Strategy.LAST, split_mode=SplitMode.ROW, split_weights="equal"),
        replace(FIVE, split_mode=SplitMode.ROW, split_weights="equal"),
        LARGER,
        tight=True,
    ),
    "steps-buffered": Case(
        replace(FIVE, strategy=Strategy.LAST, host=HostMode.BUFFERED),
        replace(FIVE, host=HostMode.BUFFERED),
        LARGER,
        tight=True,
    ),
    "steps-between-devices": Case(swapped("sim:1", "sim:0"), swapped("sim:0", "sim:1"), LARGER, tight=True),
}
QUICK = ("layers", "llama.cpp-tied", "shards", "up", "steps")
every_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, case in {**LOADS, **OFFLOADS}.items()
    ],
)
every_fault = pytest.mark.parametrize("fault", ["oom", "failcopy"])


@dataclass(frozen=True)
class Rehearsal:
    """A case carried out in peace: the placements between its steps, and what it asked of the devices."""

    sizes: dict[str, int]
    mode: MoveMode
    states: list[frozenset[Slab]]
    """What is held before the first step, after it, and so on."""
    staged: frozenset[int]
    """The numbers of the steps that stage something, from 0."""
    calls: dict[tuple[str, str], range]
    """By fault and device, the numbers of the calls that the change makes, as faults count them."""


def devices(sizes: dict[str, int], broken: str | None = None, **fault: int) -> list[SimulatedDevice]:
    """Two devices and the host, of these sizes, one of which may be ordered to fail."""
    return [
        SimulatedDevice(id_, size, faults=Faults(**fault) if id_ == broken else None) for id_, size in sizes.items()
    ]


def write(place: Path, case: Case) -> None:
    """Make the model of a case the only one."""
    (place / "models" / "tiny.gguf").unlink()
    for number, data in enumerate(case.files, 1):
        suffix = f"-{number:05}-of-{len(case.files):05}" if len(case.files) > 1 else ""
        (place / "models" / f"tiny{suffix}.gguf").write_bytes(data)


async def load(loadmaster: Loadmaster, request: PlacementRequest | None) -> tuple[Slab, ...]:
    """Load, unless there is nothing to load; the slabs that are held then."""
    if request is not None:
        await (await loadmaster.load("tiny", request)).wait()
    return slabs(loadmaster)


def slabs(loadmaster: Loadmaster) -> tuple[Slab, ...]:
    """What is held."""
    resident = loadmaster._residents.get("tiny")
    return resident.current.placement.slabs if resident else ()


async def rehearse(place: Path, case: Case, sizes: dict[str, int] | None = None) -> Rehearsal:
    """Carry a case out in peace; where it is tight, on devices that have room for either side, and not for both."""
    sizes = sizes or dict.fromkeys(DEVICES, 4 * MIB)
    (first, second, host) = three = devices(sizes)
    async with service(place, first, second, host=host) as loadmaster:
        before = await load(loadmaster, case.before)
        held = {id_: row.used_bytes for id_, row in rows(loadmaster).items()}
        counts = {device.id: (device._allocations, device._copies) for device in three}
        after = await load(loadmaster, case.after)
        held = {id_: max(held[id_], row.used_bytes) for id_, row in rows(loadmaster).items()}
        await (await loadmaster.unload("tiny")).wait()
    if case.tight and sizes["sim:0"] == 4 * MIB:
        return await rehearse(place, case, {**held, "cpu": 4 * MIB})
    planned = moves(before, after, sizes)
    calls = {}
    for device in three:
        allocations, copies = counts[device.id]
        calls["oom", device.id] = range(allocations + 1, device._allocations + 1)
        calls["failcopy", device.id] = range(copies + 1, device._copies + 1)
    states = [frozenset(before)]
    for step in planned.steps:
        states.append(states[-1].difference(step.release).union(step.stage))
    staged = frozenset(number for number, step in enumerate(planned.steps) if step.stage)
    return Rehearsal(sizes, planned.mode, states, staged, calls)


def strikes(rehearsal: Rehearsal, fault: str) -> Iterator[tuple[str, int]]:
    """Every device and number of a call that can fail."""
    for id_ in DEVICES:
        for number in rehearsal.calls[fault, id_]:
            yield id_, number


def assert_balanced(loadmaster: Loadmaster) -> None:
    """The ledger, the devices and the current placement agree to the byte, and nothing else is held or promised."""
    for id_, row in rows(loadmaster).items():
        here = [slab for slab in slabs(loadmaster) if slab.device == id_]
        memory = loadmaster.devices[id_].memory()
        assert (memory.total_bytes or 0) - (memory.free_bytes or 0) == row.used_bytes == sum(s.nbytes for s in here)
        assert row.weights_bytes == sum(slab.weights_bytes for slab in here)
        assert (row.reserved_bytes, row.retired_bytes) == (0, 0)
    if "tiny" in loadmaster._residents:
        current = loadmaster._residents["tiny"].current
        assert {live.slab for live in current.slabs} == set(slabs(loadmaster))
        assert all(live.buffer.nbytes == live.slab.nbytes for live in current.slabs)


async def assert_true(loadmaster: Loadmaster) -> None:
    """Every tensor reads as the file has it, and so does every byte of every slab."""
    entry = loadmaster.library.entry("tiny")
    for tensor in entry.require_model().tensors:
        reading = await loadmaster.read("tiny", tensor.name)
        data = b"".join([chunk async for chunk in reading.chunks(0, tensor.nbytes)])
        assert data == original(entry.files[tensor.file].path, tensor.offset, tensor.nbytes), tensor.name
    with loadmaster._residents["tiny"].hold() as generation:
        for live in generation.slabs:
            for part in live.slab.slices:
                path, start = entry.files[part.tensor.file].path, part.tensor.offset + part.start
                assert live.buffer.read(part.slab_offset, part.nbytes) == original(path, start, part.nbytes)


def assert_says_what_failed(failure: DeviceError, rehearsal: Rehearsal, device: str) -> None:
    """The device and the numbers, in the facts and in the words."""
    assert failure.device == device
    assert failure.message.startswith(f"{device}: ")
    if isinstance(failure, OutOfDeviceMemory):
        sizes = {slab.nbytes for state in rehearsal.states for slab in state if slab.device == device}
        assert failure.requested_bytes in sizes
        assert failure.free_bytes is not None
        assert 0 <= failure.free_bytes <= rehearsal.sizes[device]
        numbers = (failure.requested_bytes, failure.free_bytes)
    else:
        assert isinstance(failure, TransferFailed)
        assert failure.done_bytes == failure.requested_bytes // 2
        numbers = (failure.done_bytes, failure.requested_bytes)
    assert all(str(number) in failure.message for number in numbers)


async def assert_as_before(loadmaster: Loadmaster, generation: int, wish: Wish | None, rehearsal: Rehearsal) -> int:
    """The last completed step is what serves, and what is wished for; which step that is, 0 for none."""
    assert_balanced(loadmaster)
    entry = loadmaster.library.entry("tiny")
    durable = (await loadmaster._wishes.all()).get("tiny")
    if wish is None:
        assert loadmaster.library.state(entry) is ModelState.FAILED
        assert (slabs(loadmaster), durable) == ((), None)
        return 0
    assert loadmaster.library.state(entry) is ModelState.LOADED
    steps = loadmaster._residents["tiny"].current.number - generation
    assert frozenset(slabs(loadmaster)) == rehearsal.states[steps]
    if steps == 0:
        assert durable == wish
    else:
        assert durable is not None
        assert durable.placement == RememberedPlacement.of(loadmaster._residents["tiny"].current.placement)
    await assert_true(loadmaster)
    return steps


async def strike(place: Path, case: Case, rehearsal: Rehearsal, fault: str, device: str, number: int) -> int:
    """Carry a case out with one call ordered to fail, then once more; after how many steps it failed."""
    first, second, host = devices(rehearsal.sizes, device, **{fault: number})
    async with service(place, first, second, host=host) as loadmaster:
        await load(loadmaster, case.before)
        wish, opened = loadmaster._wishes.current.get("tiny"), descriptors()
        generation = loadmaster._residents["tiny"].current.number if case.before else 0

        job = await loadmaster.load("tiny", case.after)
        failure = await ended(job)

        assert isinstance(failure, DeviceError)
        assert job.state is JobState.FAILED
        assert_says_what_failed(failure, rehearsal, device)
        steps = await assert_as_before(loadmaster, generation, wish, rehearsal)
        if not steps:
            assert descriptors() == opened

        await (await loadmaster.load("tiny", case.after)).wait()
        assert {slab.layer for slab in slabs(loadmaster)} == {slab.layer for slab in rehearsal.states[-1]}
        assert_balanced(loadmaster)
        await assert_true(loadmaster)
        await (await loadmaster.unload("tiny")).wait()
    return steps


@every_fault
@every_case
def test_whatever_fails_nothing_is_lost(place: Path, case: Case, fault: str) -> None:
    """At each call: the job names the device and the numbers, all else is as it was, and the next try succeeds."""
    write(place, case)

    async def main() -> None:
        rehearsal = await rehearse(place, case)
        assert rehearsal.mode is (MoveMode.INCREMENTAL if case.tight else MoveMode.ATOMIC)
        steps = [
            await strike(place, case, rehearsal, fault, device, number) for device, number in strikes(rehearsal, fault)
        ]
        assert len(steps) >= len(rehearsal.states[-1] - rehearsal.states[0])
        assert set(steps) == rehearsal.staged

    asyncio.run(main())
