"""Who makes room, checked against a model of it: least recently used first, never more than it takes."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from app.devices.simulated import SimulatedDevice
from app.errors import DoesNotFit
from app.model import LayerKey
from app.placement import PlacementRequest, Strategy
from app.residency import Loadmaster
from app.residency.eviction import Evict
from app.residency.reading import Reading
from app.residency.records import JobResult
from app.residency.wishes import Retention
from tests.gguf_builder import tiny_llama
from tests.residency.deck import KIB, rows, service, until

FILES = {
    "a": tiny_llama(2, tied=False),
    "b": tiny_llama(3, uneven=True),
    "c": tiny_llama(4, tied=False),
    "d": tiny_llama(5, uneven=True),
    "e": tiny_llama(3, tied=False),
}
DEVICES = {"sim:0": 340 * KIB, "sim:1": 220 * KIB}  # each takes every model, none takes all four
STEPS = 100
STRATEGIES = (Strategy.FIRST, Strategy.LAST, Strategy.ENDS)


@dataclass(frozen=True)
class Load:
    """A load, or an offload where it is loaded already."""

    model: str
    n: int
    device: str
    strategy: Strategy
    evict: Evict
    pinned: bool


@dataclass(frozen=True)
class Use:
    """Anything else that a model is used for."""

    model: str
    how: Literal["touch", "hold", "let go", "unload"]


def step(dice: Random) -> Load | Use:
    """What happens next: mostly loads that ask for much."""
    model = dice.choice(sorted(FILES))
    if dice.random() < 0.4:
        return Use(model, dice.choice(["touch", "touch", "hold", "let go", "let go", "unload"]))
    n = dice.choice([0, 1, 2, 3, 5, 5, 5, 5])
    evict = dice.choices([Evict.NONE, Evict.MODELS, Evict.LAYERS], [1, 3, 6])[0]
    device = dice.choices(sorted(DEVICES), [5, 1])[0]
    return Load(model, n, device, dice.choice(STRATEGIES), evict, dice.random() < 0.1)


@dataclass
class Loaded:
    """A loaded model: its slabs, numbered because no two are the same, by layer."""

    device: str
    strategy: Strategy
    n: int
    pinned: bool
    slabs: dict[LayerKey, int] = field(default_factory=dict)
    held: list[dict[LayerKey, int]] = field(default_factory=list)
    """What each of its readers holds."""


class Shelves:
    """What the service should hold, by arithmetic alone."""

    def __init__(self, sizes: dict[str, dict[LayerKey, int]]) -> None:
        self.sizes = sizes
        self.loaded: dict[str, Loaded] = {}
        """The least recently used first."""
        self.slabs: dict[int, tuple[str, int]] = {}
        """Device and bytes of each slab that ever was."""
        self._numbers: Iterator[int] = count()
        self.readers: dict[str, list[tuple[Loaded, dict[LayerKey, int]]]] = {model: [] for model in sizes}

    def kept(self, model: str, n: int, strategy: Strategy) -> set[LayerKey]:
        """The layers that are on a device for n."""
        blocks = [key for key in self.sizes[model] if isinstance(key, int)]
        first = {Strategy.FIRST: n, Strategy.LAST: 0, Strategy.ENDS: n - n // 2}[strategy]
        chosen = {*blocks[:first], *blocks[len(blocks) - (n - first) :]}
        return chosen | (self.sizes[model].keys() - set(blocks)) if n else set()

    def bytes(self, model: str, n: int, strategy: Strategy) -> int:
        """What these layers take."""
        return sum(self.sizes[model][layer] for layer in self.kept(model, n, strategy))

    def used(self, device: str, *, but: str | None = None) -> int:
        """What current placements take of a device."""
        return sum(self.bytes(m, one.n, one.strategy) for m, one in self._on(device) if m != but)

    def retired(self, device: str) -> int:
        """What of a device was replaced, but is read yet."""
        current = {number for one in self.loaded.values() for number in one.slabs.values()}
        held = {number for readers in self.readers.values() for _, slabs in readers for number in slabs.values()}
        return sum(self.slabs[number][1] for number in held - current if self.slabs[number][0] == device)

    def give_way(self, load: Load) -> dict[str, int] | None:
        """How many layers each model gives up for a load, by brute force; None where it cannot be."""
        missing = self.bytes(load.model, load.n, load.strategy)
        missing -= DEVICES[load.device] - self.retired(load.device) - self.used(load.device, but=load.model)
        order = [] if load.evict is Evict.NONE else self._idle(load)

        def freed(levels: dict[str, int]) -> int:
            there = [(model, one) for model, one in self._on(load.device) if model in levels]
            return sum(
                self.bytes(model, one.n, one.strategy) - self.bytes(model, one.n - levels[model], one.strategy)
                for model, one in there
            )

        for length in range(len(order) + 1):
            levels = {model: self.loaded[model].n for model in order[:length]}
            if missing <= freed(levels):
                break
        else:
            return None
        for model in reversed(order[:length]):
            possible = range(self.loaded[model].n + 1) if load.evict is Evict.LAYERS else (0, self.loaded[model].n)
            levels[model] = next(level for level in possible if missing <= freed({**levels, model: level}))
        return {model: level for model, level in levels.items() if level}

    def load(self, load: Load, give_way: dict[str, int]) -> None:
        """Do it."""
        for model, level in give_way.items():
            victim = self.loaded[model]
            self.place(model, victim.n - level, victim) if load.evict is Evict.LAYERS else self.loaded.pop(model)
        one = self.loaded.pop(load.model, None) or Loaded(load.device, load.strategy, 0, load.pinned)
        if one.device != load.device:
            one.slabs = {}
        one.device, one.strategy, one.pinned = load.device, load.strategy, load.pinned
        self.loaded[load.model] = one
        self.place(load.model, load.n, one)

    def place(self, model: str, n: int, one: Loaded) -> None:
        """Bring a model to n layers; slabs that stay are the same."""
        one.n = n
        one.slabs = {layer: one.slabs.get(layer, -1) for layer in self.kept(model, n, one.strategy)}
        for layer, number in one.slabs.items():
            if number < 0:
                one.slabs[layer] = next(self._numbers)
                self.slabs[one.slabs[layer]] = (one.device, self.sizes[model][layer])

    def touch(self, model: str) -> None:
        """It is the most recently used one."""
        self.loaded[model] = self.loaded.pop(model)

    def _on(self, device: str) -> list[tuple[str, Loaded]]:
        return [(model, one) for model, one in self.loaded.items() if one.device == device]

    def _idle(self, load: Load) -> list[str]:
        return [m for m, one in self.loaded.items() if m != load.model and not one.pinned and not one.held]


class Deck:
    """The service beside the model of it: the same is done to both, and both must come to the same."""

    def __init__(self, loadmaster: Loadmaster) -> None:
        self.loadmaster = loadmaster
        entries = {model: loadmaster.library.entry(model).require_model() for model in FILES}
        self.shelves = Shelves({
            model: {
                layer.key: sum(-(-tensor.nbytes // 256) * 256 for tensor in layer.tensors) for layer in found.layers
            }
            for model, found in entries.items()
        })  # fmt: skip
        self.gave_way = 0
        self.readings: dict[str, list[Reading]] = {model: [] for model in FILES}

    async def do(self, step: Load | Use) -> None:
        """One step, and what must hold after it."""
        await (self.load(step) if isinstance(step, Load) else self.use(step))
        await until(lambda: self.held() == self.expected())
        for model, one in self.shelves.loaded.items():
            placement = self.loadmaster._residents[model].current.placement
            assert {slab.layer for slab in placement.slabs} == one.slabs.keys()
        assert self.loadmaster._residents.keys() == self.shelves.loaded.keys()

    async def load(self, load: Load) -> None:
        """Load; the models that make room must be those that were foretold, and give what was foretold."""
        one = self.shelves.loaded.get(load.model)
        if one is not None and one.held and (one.device, one.strategy) != (load.device, load.strategy):
            return  # it would wait for its own reader
        load = replace(load, n=min(load.n, len(self.shelves.sizes[load.model]) - 2))
        give_way = self.shelves.give_way(load)
        request = PlacementRequest(load.n, load.strategy, (load.device,))
        try:
            job = await self.loadmaster.load(load.model, request, Retention(load.pinned), evict=load.evict)
        except DoesNotFit:
            assert give_way is None, f"{give_way} would have been enough"
            return
        assert give_way is not None, "it cannot fit"
        await job.wait()
        assert isinstance(job.result, JobResult)
        left = {
            m: self.shelves.loaded[m].n - level if load.evict is Evict.LAYERS else None for m, level in give_way.items()
        }
        assert {record.model: record.n_gpu_layers for record in job.result.evicted} == left
        self.shelves.load(load, give_way)
        self.gave_way += len(give_way)

    async def use(self, use: Use) -> None:
        """Touch, hold, let go of or unload a model, if it is loaded."""
        model, readers = use.model, self.shelves.readers[use.model]
        if use.how == "let go":
            if readers:
                held, slabs = readers.pop()
                held.held.remove(slabs)
                self.readings[model].pop().close()
                if self.shelves.loaded.get(model) is held:
                    self.shelves.touch(model)
            return
        one = self.shelves.loaded.get(model)
        if one is None:
            return
        if use.how == "touch":
            self.loadmaster.touch(model)
            self.shelves.touch(model)
        elif use.how == "hold":
            self.readings[model].append(await self.loadmaster.read(model, "token_embd.weight"))
            one.held.append(dict(one.slabs))
            readers.append((one, one.held[-1]))
        else:
            await (await self.loadmaster.unload(model)).wait()
            del self.shelves.loaded[model]

    def leave(self) -> None:
        """All readers let go."""
        for readings in self.readings.values():
            for reading in readings:
                reading.close()

    def held(self) -> dict[str, tuple[int, int]]:
        """What is used and retired, by the service's books."""
        found = rows(self.loadmaster)
        return {device: (found[device].used_bytes, found[device].retired_bytes) for device in DEVICES}

    def expected(self) -> dict[str, tuple[int, int]]:
        """The same by the model's."""
        return {device: (self.shelves.used(device), self.shelves.retired(device)) for device in DEVICES}


@pytest.mark.parametrize("seed", range(2))
def test_who_makes_room_is_who_the_model_says(place: Path, seed: int) -> None:
    """Loads of every kind among readers, touches and unloads: the same evictions, refusals and books as foretold."""

    async def main() -> None:
        for model, file in FILES.items():
            (place / "models" / f"{model}.gguf").write_bytes(file)
        dice = Random(seed)  # noqa: S311 - no secret
        devices = [SimulatedDevice(id_, capacity) for id_, capacity in DEVICES.items()]
        async with service(place, *devices) as loadmaster:
            deck = Deck(loadmaster)
            try:
                for _ in range(STEPS):
                    await deck.do(step(dice))
            finally:
                deck.leave()
        assert deck.gave_way >= STEPS // 10

    asyncio.run(main())
