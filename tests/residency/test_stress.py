"""Everything at once: readers hold and compare, models move at random beside each other, the books are looked at."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from app.api.bodies import PlacementBody
from app.devices.simulated import SimulatedDevice
from app.errors import Cancelled, DoesNotFit, NotLoaded
from app.placement import HOST, PlacementRequest, Strategy, slab_sums
from app.residency import Loadmaster
from app.residency.eviction import Evict
from app.residency.jobs import Job
from app.residency.records import JobResult, VerifyResult
from app.residency.residents import Generation, Resident
from app.residency.wishes import Wish
from tests.random_placements import MIB, BuiltModel, chances, random_body, random_range, two_models
from tests.residency.deck import ended, rows, service, until

READERS = 4
READS = 60
"""How often a reader that waits for switches reads at most."""
PAUSE_SECONDS = 0.002
"""What a reader does at most with what it has read, so that there is a processor left for those who move."""
BANDWIDTH = 1 << 30


def two_tight_devices() -> list[SimulatedDevice]:
    """Room for almost all of both models: some moves fit side by side, some do not, and some placements fit nowhere."""
    return [
        SimulatedDevice("sim:0", 7 * MIB, bytes_per_second=BANDWIDTH),
        SimulatedDevice("sim:1", 5 * MIB, bytes_per_second=BANDWIDTH),
    ]


@dataclass(slots=True)
class Reader:
    """Reads tensors of whatever generation is current, and compares them, until all models are unloaded."""

    rng: Random
    models: dict[BuiltModel, Resident]
    overtaken: int = 0
    """How many generations were replaced while this reader held them."""
    last: Counter[str] = field(default_factory=Counter)

    def read_until_unloaded(self) -> None:
        """Hold one generation after the other. Blocks."""
        while self.models:
            model, resident = self.rng.choice(list(self.models.items()))
            try:
                with resident.hold() as generation:
                    self._check(model, resident, generation)
            except NotLoaded:
                del self.models[model]

    def _check(self, model: BuiltModel, resident: Resident, generation: Generation) -> None:
        """Read a few times, or on until some switches later: other generations come and go, and this one stays."""
        number = generation.number
        assert number >= self.last[model.id], f"{model.id}: generation {number} after {self.last[model.id]}"
        self.last[model.id] = number
        tensors = resident.entry.require_model().tensors_by_name
        patience = self.rng.randint(1, 4)
        for _ in range(self.rng.choice((1, 3, READS))):
            time.sleep(self.rng.random() * PAUSE_SECONDS)
            current = resident._current
            name = self.rng.choice(list(model.tensors))
            start, stop = random_range(self.rng, len(model.tensors[name]))
            data = generation.read(tensors[name], start, stop - start)
            assert data == model.tensors[name][start:stop], f"{model.id} {name} {start}:{stop} of generation {number}"
            if current is None or current.number >= number + patience:
                break
        assert generation.number == number
        self.overtaken += resident._current is not generation


@dataclass(slots=True)
class Mover:
    """Takes one model to one random placement after the other; what is refused or called off changes nothing."""

    rng: Random
    loadmaster: Loadmaster
    model: BuiltModel
    seen: Counter[str] = field(default_factory=Counter)

    async def move(self, times: int) -> None:
        """Ask so often for another placement."""
        for number in range(times):
            body = random_body(self.rng, self.model.n_layer)
            try:
                await self._offload(PlacementBody.model_validate(body))
            except Exception as error:
                error.add_note(f"{self.model.id}, placement {number}: {body}")
                raise

    async def _offload(self, body: PlacementBody) -> None:
        id_ = self.model.id
        resident = self.loadmaster._residents[id_]
        before, wish = resident.current, self.loadmaster._wishes.current[id_]
        try:
            job = await self.loadmaster.offload(id_, body.changed, rebalance=body.rebalance, evict=Evict.NONE)
        except DoesNotFit:
            self.seen["refused"] += 1
            self._assert_nothing_is_reserved()
            assert (resident.current, self.loadmaster._wishes.current[id_]) == (before, wish)
            return
        if self.rng.random() < 0.15:
            await self._call_off(job)
        error = await ended(job)
        assert error is None or isinstance(error, Cancelled), error
        self.seen[f"{job.state}"] += 1
        self._assert_nothing_is_reserved()
        now = resident.current
        if error is None:
            assert isinstance(job.result, JobResult)
            self.seen[job.result.mode] += job.result.steps > 0
            self._assert_as_asked(body.changed(PlacementRequest()), job)
        elif job.generation is None:
            assert (now, self.loadmaster._wishes.current[id_]) == (before, wish)
        wish = self.loadmaster._wishes.current[id_]
        assert wish is not None
        assert wish == Wish(wish.request).placed(now.placement)

    async def _call_off(self, job: Job) -> None:
        """After some turns of the loop, which may be too late."""
        for _ in range(self.rng.randint(0, 60)):
            await asyncio.sleep(0)
        self.loadmaster.cancel(job.id)

    def _assert_as_asked(self, request: PlacementRequest, job: Job) -> None:
        generation = self.loadmaster._residents[self.model.id].current
        assert generation.number == job.generation
        placement = generation.placement
        if isinstance(request.n_gpu_layers, int):
            assert placement.n_gpu_layers == request.n_gpu_layers
        assert request.strategy in (Strategy.BEST, placement.strategy)
        allowed = {HOST, *(request.devices or ()), *(override.device for override in request.overrides)}
        assert {slab.device for slab in placement.slabs} <= allowed

    def _assert_nothing_is_reserved(self) -> None:
        for device, accounts in self.loadmaster._ledger._accounts.items():
            account = accounts[self.model.id]
            assert (account.claimed, account.promised, account.staged) == (0, 0, 0), device


@dataclass(slots=True)
class Sampler:
    """Looks at the books in every turn of the event loop, which owns them."""

    loadmaster: Loadmaster
    devices: Sequence[SimulatedDevice]
    looks: int = 0

    async def sample(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            self.looks += 1
            await asyncio.sleep(0)

    def look(self) -> None:
        """No device is over its limit; the ledger, the current generations and what is allocated agree."""
        current = [slab for one in self.loadmaster._residents.values() for slab in one.current.placement.slabs]
        used = slab_sums(current)
        weights = Counter[str]()
        for slab in current:
            weights[slab.device] += slab.weights_bytes
        books = rows(self.loadmaster)
        for id_, row in books.items():
            assert row.used_bytes + row.reserved_bytes + row.retired_bytes <= row.limit_bytes, row
            assert (row.used_bytes, row.weights_bytes) == (used.get(id_, 0), weights[id_]), row
            assert row.used_bytes == row.weights_bytes + row.padding_bytes
            assert min(row.padding_bytes, row.reserved_bytes, row.retired_bytes) >= 0
        for device in self.devices:
            row = books[device.id]
            assert row.used_bytes <= allocated(device) <= row.used_bytes + row.reserved_bytes + row.retired_bytes, row


def allocated(device: SimulatedDevice) -> int:
    """Bytes of the device that are in buffers."""
    return device.capacity_bytes - (device.memory().free_bytes or 0)


@contextmanager
def switching_often() -> Iterator[None]:
    """Threads take turns fifty times as often as they do: more orders of events, and nobody waits long for a turn."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 50)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@dataclass(frozen=True, slots=True)
class Stress:
    """One run: a service with its devices, threads for readers, and what its chances are drawn from."""

    loadmaster: Loadmaster
    devices: Sequence[SimulatedDevice]
    threads: ThreadPoolExecutor
    seed: int

    async def run(self, placements: int) -> Counter[str]:
        """Load two models, read, move and watch them, then unload them; returns what there was to be seen."""
        for model in two_models():
            await (await self.loadmaster.load(model.id, PlacementRequest(2))).wait()
        residents = {model: self.loadmaster._residents[model.id] for model in two_models()}
        readers = [Reader(chances(self.seed, number), dict(residents)) for number in range(READERS)]
        reading = [self.threads.submit(reader.read_until_unloaded) for reader in readers]
        movers = [Mover(chances(self.seed, model.id), self.loadmaster, model) for model in residents]
        sampler = Sampler(self.loadmaster, self.devices)
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(sampler.sample())
            await asyncio.gather(*(group.create_task(mover.move(placements // len(movers))) for mover in movers))
            for model in residents:
                await self._unload(model)
            await asyncio.gather(*map(asyncio.wrap_future, reading))
            await self._assert_all_is_freed()
            sampling.cancel()
        overtaken = sum(reader.overtaken for reader in readers)
        return sum((mover.seen for mover in movers), Counter(overtaken=overtaken, looks=sampler.looks))

    async def _unload(self, model: BuiltModel) -> None:
        """While it is still read; all copies on devices were good at the end."""
        job = await self.loadmaster.verify(model.id, deep=True)
        await job.wait()
        assert isinstance(job.result, VerifyResult)
        assert job.result.ok, job.result.problems
        await (await self.loadmaster.unload(model.id)).wait()

    async def _assert_all_is_freed(self) -> None:
        """Nothing is loaded and nobody reads: books and devices are at zero, once the last reader's part is freed."""
        await until(lambda: not any(row.retired_bytes for row in rows(self.loadmaster).values()))
        for row in rows(self.loadmaster).values():
            assert (row.used_bytes, row.weights_bytes, row.reserved_bytes) == (0, 0, 0)
        assert [allocated(device) for device in self.devices] == [0, 0]


@pytest.mark.parametrize(
    ("seed", "placements", "expected"),
    [
        (1, 12, {"overtaken", "atomic"}),
        pytest.param(2, 200, {"overtaken", "atomic", "incremental", "refused", "cancelled"}, marks=pytest.mark.slow),
    ],
)
def test_readers_never_see_a_wrong_byte_while_two_models_move_at_random(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int, placements: int, expected: set[str]
) -> None:
    """Four threads hold and compare, two models move at random: bytes, books and generations are right throughout."""
    for model in two_models():
        model.write(tmp_path / "models")

    async def main() -> Counter[str]:
        devices = two_tight_devices()
        with ThreadPoolExecutor(READERS) as threads:  # outermost: readers read on until the service has stopped
            async with service(tmp_path, *devices) as loadmaster:
                return await Stress(loadmaster, devices, threads, seed).run(placements)

    with switching_often():
        seen = asyncio.run(main())
    assert expected <= seen.keys()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
