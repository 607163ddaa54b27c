"""How a deep verification holds: one run of tensors at a time, wherever they are by then, and never in the way."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from app.devices.simulated import Faults, SimulatedBuffer, SimulatedDevice, flip_bit
from app.model import ProblemKind
from app.placement import HostMode, PlacementRequest
from app.residency import Loadmaster
from app.residency.jobs import Job
from app.residency.records import JobKind, VerifyResult
from app.residency.verify import verify
from tests.gguf_builder import tiny_llama
from tests.residency.deck import ALL, MIB, at, rows, service, two_devices, until
from tests.residency.instruments import TINY, descriptors
from tests.residency.test_files import swap

P = ParamSpec("P")
T = TypeVar("T")


class Turns(ThreadPoolExecutor):
    """One thread, which does the next thing only when it is allowed to."""

    def __init__(self) -> None:
        super().__init__(1, "turns")
        self._allowed = threading.Semaphore(0)
        self.done = 0

    def submit(self, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Queue it behind all that came before."""

        def in_turn() -> T:
            self._allowed.acquire()
            try:
                return function(*arguments, **named)
            finally:
                self.done += 1

        return super().submit(in_turn)

    def allow(self, number: int = 1000) -> None:
        """So many things more; by default all of them."""
        self._allowed.release(number)


class Verification:
    """A deep verification of the tiny model, which looks at one tensor after the other as it is told."""

    def __init__(self, loadmaster: Loadmaster, turns: Turns) -> None:
        self.job = Job(JobKind.VERIFY, "tiny", True, lambda _: None)
        self._turns = turns
        entry, residents = loadmaster.library.entry("tiny"), loadmaster._residents
        looking = verify(self.job, entry, lambda: residents.get("tiny"), turns, deep=True, run=1)
        self._task = asyncio.create_task(looking)

    async def look(self, number: int) -> None:
        """Look at so many tensors, and stop before the next."""
        wanted = self._turns.done + number
        self._turns.allow(number)
        await until(lambda: self._turns.done == wanted)
        assert 0 < self.job.worked_bytes < self.job.work_bytes

    async def result(self) -> VerifyResult:
        """Look at the rest."""
        self._turns.allow()
        return await self._task


@asynccontextmanager
async def verifying(loadmaster: Loadmaster, after: int = 5) -> AsyncIterator[Verification]:
    """A verification in the middle: so many of its tensors are done, the next has not begun."""
    with Turns() as turns:
        verification = Verification(loadmaster, turns)
        try:
            await verification.look(after)
            yield verification
        finally:
            turns.allow()
            await asyncio.wait([verification._task])


def held(loadmaster: Loadmaster) -> tuple[int, int]:
    """Bytes that are used, and bytes that were replaced but are held, of all devices."""
    books = rows(loadmaster).values()
    return sum(row.used_bytes for row in books), sum(row.retired_bytes for row in books)


def flip(loadmaster: Loadmaster, tensor: str) -> str:
    """Flip one bit of a tensor in its device's memory; that device."""
    for live in loadmaster._residents["tiny"].current.slabs:
        for part in live.slab.slices:
            if part.tensor.name == tensor:
                assert isinstance(live.buffer, SimulatedBuffer)
                with live.buffer.opened() as memory:
                    flip_bit(memory, part.slab_offset)
                return live.slab.device
    raise AssertionError(f"{tensor} is in no slab")


def test_memory_is_free_again_before_a_verification_ends(place: Path) -> None:
    """On a full device an offload down and a load of another model succeed while a deep look is half-way."""
    (place / "models" / "other.gguf").write_bytes(tiny_llama(n_layer=6, seed=1))

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", 4 * MIB)) as loadmaster:
            needed = {}
            for model in ("tiny", "other"):
                await (await loadmaster.load(model, PlacementRequest("all"))).wait()
                needed[model] = held(loadmaster)[0]
                await (await loadmaster.unload(model)).wait()
        async with service(place, SimulatedDevice("sim:0", max(needed.values()))) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest("all"))).wait()
            async with verifying(loadmaster) as verification:
                await (await loadmaster.offload("tiny", at(0))).wait()
                assert held(loadmaster) == (0, 0)
                await (await loadmaster.load("other", PlacementRequest("all"))).wait()
                assert held(loadmaster) == (needed["other"], 0)
                assert (await verification.result()).ok

    asyncio.run(main())


def test_a_model_is_idle_while_its_verification_waits(place: Path) -> None:
    """Between two runs nobody holds it."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            async with verifying(loadmaster) as verification:
                assert loadmaster._residents["tiny"].current.holders == 0
                assert (await verification.result()).ok
            assert loadmaster._residents["tiny"].current.holders == 0

    asyncio.run(main())


@pytest.mark.parametrize("host", list(HostMode))
@pytest.mark.parametrize("after", [1, 20, 38])
def test_an_unload_in_the_middle_frees_everything_at_once(place: Path, after: int, host: HostMode) -> None:
    """Slabs, buffers and locked pages are free when the unload ends; the rest of the file is looked at all the same."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(2, host=host))).wait()
            async with verifying(loadmaster, after) as verification:
                await (await loadmaster.unload("tiny")).wait()
                assert held(loadmaster) == (0, 0)
                await loadmaster.memory.ask()
                assert loadmaster.memory.record().host.locked_bytes == 0
                found = await verification.result()
                assert found.ok
                assert verification.job.worked_bytes == verification.job.work_bytes
            assert not any(name.endswith(".gguf") for name in descriptors())

    asyncio.run(main())


def test_what_is_loaded_again_is_compared_again(place: Path) -> None:
    """Unloaded and loaded in the middle, the new copies are the ones that count: a wrong one is found."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            flip(loadmaster, "blk.2.ffn_up.weight")  # of no consequence: it is gone before its turn
            async with verifying(loadmaster) as verification:
                await (await loadmaster.unload("tiny")).wait()
                await (await loadmaster.load("tiny", ALL)).wait()
                device = flip(loadmaster, "blk.3.ffn_up.weight")
                (problem,) = (await verification.result()).problems
            assert (problem.kind, problem.tensor) == (ProblemKind.WRONG_COPY, "blk.3.ffn_up.weight")
            assert (problem.found or "").endswith(f"on {device}")

    asyncio.run(main())


def test_a_copy_that_arrives_wrong_in_the_middle_is_found(place: Path) -> None:
    """A layer moves to another device before its turn, with a bit flipped on the way: both are named."""

    async def main() -> None:
        faulty = SimulatedDevice("sim:1", 4 * MIB, faults=Faults(flip=5))  # input, blocks 0 to 3, output
        async with service(place, SimulatedDevice("sim:0", 4 * MIB), faulty) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest("all", devices=("sim:0",)))).wait()
            async with verifying(loadmaster) as verification:
                elsewhere = PlacementRequest("all", devices=("sim:1",))
                await (await loadmaster.offload("tiny", lambda _: elsewhere)).wait()
                assert rows(loadmaster)["sim:0"].retired_bytes == 0
                (problem,) = (await verification.result()).problems
            assert (problem.kind, problem.layer) == (ProblemKind.WRONG_COPY, 3)
            assert problem.message.endswith("of the copy on sim:1 is not the file's")

    asyncio.run(main())


def test_a_model_that_is_loaded_in_the_middle_is_compared(place: Path) -> None:
    """Begun with the file alone, a verification looks at copies as soon as there are any."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster, verifying(loadmaster) as verification:
            await (await loadmaster.load("tiny", ALL)).wait()
            device = flip(loadmaster, "blk.3.ffn_up.weight")
            (problem,) = (await verification.result()).problems
            assert (problem.kind, problem.tensor) == (ProblemKind.WRONG_COPY, "blk.3.ffn_up.weight")
            assert device in problem.message

    asyncio.run(main())


def test_another_file_of_the_same_name_is_not_compared(place: Path) -> None:
    """Replaced, found by a rescan and loaded in the middle: the old file is looked at to its end, and said to be gone.

    Its bytes are compared with no copy of the new one.
    """

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            async with verifying(loadmaster) as verification:
                swap(place / "models" / "tiny.gguf", tiny_llama(n_layer=4, uneven=True, tied=False, seed=1))
                await (await loadmaster.unload("tiny")).wait()
                await loadmaster.rescan()
                await (await loadmaster.load("tiny", ALL)).wait()
                (problem,) = (await verification.result()).problems
            assert problem.kind is ProblemKind.FILE_CHANGED
            assert "was replaced by another file" in problem.message

    asyncio.run(main())


def test_a_loaded_model_is_compared_with_the_file_that_it_came_from(place: Path) -> None:
    """Replaced before the verification begins, the old file is still the one that the copies are held against."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            swap(place / "models" / "tiny.gguf", bytes(len(TINY)))
            device = flip(loadmaster, "blk.3.ffn_up.weight")
            async with verifying(loadmaster) as verification:
                changed, wrong = (await verification.result()).problems
            assert (changed.kind, wrong.kind) == (ProblemKind.FILE_CHANGED, ProblemKind.WRONG_COPY)
            assert device in wrong.message

    asyncio.run(main())
