"""How fast a model is loaded, beside what the machine can do with the same file: to the host, to devices, warm, cold.

usage: python -m benchmarks.transfer [--record] [--gib N] [--seconds N] [--readers N] [--directory DIR] [--sweep]

The model has the shapes of Llama 2 7B in Q4_K_M, with fewer blocks, for more rounds: --gib 3.8 is all of it.
Ceilings and ours take turns, every other round in reverse; the median round counts, and a share is the median of what
each round's two times give. A first round is thrown away: memory that a virtual machine has never touched is its host's
to find, three times slower. Ours is from the request to the job's end; a ceiling into a fresh memory file makes, maps
and fills it; nobody's freeing is counted. Warm is in the page cache; cold is nothing of it there, checked, although the
disk may be a virtual one that remembers. In passing is how a model is loaded that is larger than the host's memory may
become: the page cache forgets what was copied. A load to the host may end before all of it is read: the last column
says how much is in the page cache by then.

--sweep shows the ways of filling fresh memory instead, by threads and by the size of a piece.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from app.api.schemas import encode
from app.devices import Device
from app.devices.host import HostDevice
from app.devices.limits import limits_of
from app.devices.settings import open_devices
from app.devices.simulated import SimulatedDevice
from app.placement import PlacementRequest
from app.residency import Loadmaster
from app.residency.wishes import Wishes
from benchmarks._ceilings import INTO_MEMORY, WARM_SHARE, Copy, Source, into_mapping, populate, read, seconds, to_gpu
from benchmarks._record import record
from benchmarks._synthetic import MODEL, synthetic_model

READERS = max(1, (os.cpu_count() or 1) - 1)
LOAD_GIB = 1.0
SWEEP_GIB = 0.25
SWEEP_PIECES = {"256 KiB": 1 << 18, "1 MiB": 1 << 20, "8 MiB": 8 << 20}
SWEEP_ROUNDS = 5

HOST_ONLY = PlacementRequest(0)
MAPPED, READ, FILLED = "mmap, MAP_POPULATE", "preadv to a buffer", "preadv to a fresh memory file"
PINNED = "pinned memory to cuda:0"


Key = tuple[str, bool]
"""A side's name, and whether it is a cold one."""


class Reading(NamedTuple):
    """One run: how long it took, and the share of the file that is in the page cache at its end."""

    seconds: float
    cached: float


@dataclass(frozen=True, slots=True)
class Side:
    """One way to get the model somewhere; `run` returns its seconds, and leaves nothing behind."""

    name: str
    run: Callable[[], Awaitable[float]]
    cold: bool = False
    ceiling: str | None = None
    """The side, as cold as this one, that it is measured by, where it is one of ours."""

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return self.name, self.cold

    def shares(self, rounds: Sequence[Mapping[Key, Reading]]) -> list[float]:
        """How fast it is beside its ceiling, by round."""
        if not self.ceiling:
            return []
        return [found[self.ceiling, self.cold].seconds / found[self.key].seconds for found in rounds]


class Ours:
    """The service, without HTTP."""

    def __init__(self, loadmaster: Loadmaster) -> None:
        self._loadmaster = loadmaster

    async def change(
        self, request: PlacementRequest, *, before: tuple[PlacementRequest, ...] = (), cached_too: Source | None = None
    ) -> float:
        """How long it takes to bring the model from where `before` has it to where the request says; unloads it.

        With `cached_too` it takes until that file is in the page cache, too.
        """
        for earlier in before:
            await self._placed(earlier)
        began = time.perf_counter()
        await self._placed(request)
        while cached_too is not None and cached_too.cached < WARM_SHARE:  # noqa: ASYNC110 - of what has no event
            await asyncio.sleep(0.001)
        took = time.perf_counter() - began
        await (await self._loadmaster.unload(MODEL)).wait()
        return took

    async def _placed(self, request: PlacementRequest) -> None:
        await (await self._loadmaster.load(MODEL, request)).wait()

    @classmethod
    @asynccontextmanager
    async def on(cls, path: Path, state: Path, devices: list[Device], memory_limit: str) -> AsyncIterator["Ours"]:
        """A service that runs, for the length of a block."""
        limits = limits_of(memory_limit, devices)
        loadmaster = Loadmaster([path.parent], devices, limits, await Wishes.open(state), encode)
        try:
            await loadmaster.start()
            yield cls(loadmaster)
        finally:
            await loadmaster.stop()


def all_on(*devices: str) -> PlacementRequest:
    """The whole model on these devices, in equal parts."""
    return PlacementRequest("all", devices=devices, split_weights="equal")


def raw(name: str, copy: Copy, source: Source, threads: int, *, cold: bool = False) -> Side:
    """A ceiling."""
    return Side(name, partial(asyncio.to_thread, seconds, copy, source, threads), cold)


def threaded(name: str, threads: int) -> str:
    """The name of a ceiling of so many threads."""
    return f"{name}, {threads} thread{'s'[: threads > 1]}"


def host_sides(source: Source, ours: Ours, in_passing: Ours, readers: int) -> list[Side]:
    """What can be compared on any machine, each ceiling before those who are measured by it."""
    filled, plain = threaded(FILLED, readers), threaded(READ, readers)
    fewer = [1 << power for power in range(readers.bit_length()) if 1 << power < readers]
    sides = [raw(threaded(FILLED, threads), into_mapping, source, threads) for threads in fewer]
    for cold in (False, True):
        copied = plain if cold else filled
        sides += [
            raw(plain, read, source, readers, cold=cold),
            raw(filled, into_mapping, source, readers, cold=cold),
            raw(MAPPED, populate, source, 1, cold=cold),
            Side("ours to the host", partial(ours.change, HOST_ONLY), cold, MAPPED),
            Side("ours, and all of it cached", partial(ours.change, HOST_ONLY, cached_too=source), cold, MAPPED),
            Side("ours to a simulated device", partial(ours.change, all_on("sim:0")), cold, copied),
            Side("ours to two of them", partial(ours.change, all_on("sim:0", "sim:1")), cold, copied),
        ]
    to_one = all_on("sim:0")
    sides.append(Side("ours to a simulated device, in passing", partial(in_passing.change, to_one), True, plain))
    return sides


def gpu_sides(source: Source, ours: Ours, readers: int) -> list[Side]:
    """What can be compared where there is a GPU."""
    up = all_on("cuda:0")
    return [
        Side(PINNED, partial(asyncio.to_thread, to_gpu, source.nbytes, pinned=True)),
        Side("pageable memory to cuda:0", partial(asyncio.to_thread, to_gpu, source.nbytes, pinned=False)),
        Side("ours to cuda:0", partial(ours.change, up), ceiling=PINNED),
        Side("ours to cuda:0", partial(ours.change, up), cold=True, ceiling=threaded(READ, readers)),
        Side("ours off cuda:0 again", partial(ours.change, HOST_ONLY, before=(up,))),
        Side("ours up to cuda:0 again", partial(ours.change, up, before=(up, HOST_ONLY)), ceiling=PINNED),
    ]


async def measure(path: Path, readers: int, limit_seconds: float) -> tuple[list[Side], list[dict[Key, Reading]], str]:
    """Let all sides take turns until the time is up; returns them, their readings by round, and what is missing."""
    gpus = open_devices("auto")
    with Source.of(path) as source, tempfile.TemporaryDirectory(prefix="loadmaster-") as state:
        simulated = [SimulatedDevice(f"sim:{number}", 2 * source.nbytes) for number in range(2)]
        devices = [*gpus, *simulated, HostDevice()]
        async with (
            Ours.on(path, Path(state, "all"), devices, "all") as ours,
            Ours.on(path, Path(state, "in-passing"), devices, "cpu=1B") as in_passing,
        ):
            sides = host_sides(source, ours, in_passing, readers) + (gpu_sides(source, ours, readers) if gpus else [])
            missing = "" if gpus else "No GPU here: nothing of it was measured."
            if not source.cool():
                sides = [side for side in sides if not side.cold]
                missing = f"{missing}\nThis file system cannot forget what it has read: nothing cold was measured."
            rounds: list[dict[Key, Reading]] = []
            end = time.monotonic() + limit_seconds
            await one_round(sides, source)  # thrown away
            took = 0.0
            while not rounds or time.monotonic() + took < end:
                began = time.monotonic()
                rounds.append(await one_round(sides if len(rounds) % 2 == 0 else sides[::-1], source))
                took = time.monotonic() - began
    return sides, rounds, missing.strip()


async def one_round(sides: Sequence[Side], source: Source) -> dict[Key, Reading]:
    """Run every side once."""
    readings = {}
    for side in sides:
        if side.cold:
            assert source.cool(), f"{source.cached:.0%} of the file are still in memory"
        else:
            source.warm()
        took = await side.run()
        readings[side.key] = Reading(took, source.cached)
    return readings


def table(sides: Sequence[Side], rounds: Sequence[Mapping[Key, Reading]], nbytes: int) -> str:
    """Lay the medians out as Markdown."""
    lines = ["| way | page cache | ms | GB/s | share | of what | cached then |", "|---|---|---:|---:|---:|---|---:|"]
    for side in sides:
        took = statistics.median(found[side.key].seconds for found in rounds)
        cached = statistics.median(found[side.key].cached for found in rounds)
        share = f"{statistics.median(shares):.0%}" if (shares := side.shares(rounds)) else ""
        lines.append(
            f"| {side.name} | {'cold' if side.cold else 'warm'} | {took * 1e3:.0f} | {nbytes / took / 1e9:.2f} "
            f"| {share} | {side.ceiling or ''} | {cached:.0%} |"
        )
    return "\n".join(lines)


def sweep(source: Source, threads: Sequence[int]) -> str:
    """Fill fresh memory in every way, by turns, and lay the medians out as Markdown."""
    source.warm()
    found: defaultdict[tuple[str, int, str], list[float]] = defaultdict(list)
    for _ in range(SWEEP_ROUNDS):
        for way, copy in INTO_MEMORY.items():
            for count in threads:
                for piece, nbytes in SWEEP_PIECES.items():
                    found[way, count, piece].append(seconds(copy, source, count, nbytes))
    lines = [f"| way, GB/s | threads | {' | '.join(SWEEP_PIECES)} |", f"|---|---:|{'---:|' * len(SWEEP_PIECES)}"]
    for way in INTO_MEMORY:
        for count in threads:
            speeds = [source.nbytes / statistics.median(found[way, count, piece]) / 1e9 for piece in SWEEP_PIECES]
            lines.append(f"| {way} | {count} | {' | '.join(f'{speed:.2f}' for speed in speeds)} |")
    return "\n".join(lines)


def options_given() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description="Time loads beside what the machine can do.")
    parser.add_argument(
        "--gib", type=float, metavar="N", help=f"size of the model: {LOAD_GIB}, or {SWEEP_GIB} for a sweep"
    )
    parser.add_argument("--seconds", type=float, default=90, metavar="N", help="for as many rounds as that allows")
    parser.add_argument("--readers", type=int, default=READERS, metavar="N", help="threads of the ceilings")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where the model is written, and kept")
    parser.add_argument("--sweep", action="store_true", help="compare the ways of filling fresh memory")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and record where asked to."""
    options = options_given()
    with synthetic_model(options.gib or (SWEEP_GIB if options.sweep else LOAD_GIB), options.directory) as path:
        model = f"a model of {path.stat().st_size / 2**30:.1f} GiB"
        if options.sweep:
            cores = os.cpu_count() or 1
            with Source.of(path) as source:
                report = sweep(source, sorted({1, options.readers, cores}))
            title, how = "Filling fresh memory", f"{model} in the page cache, median of {SWEEP_ROUNDS} rounds"
        else:
            sides, rounds, missing = asyncio.run(measure(path, options.readers, options.seconds))
            report = "\n\n".join(filter(None, [table(sides, rounds, path.stat().st_size), missing]))
            title, how = "Loading", f"{model}, median of {len(rounds)} rounds"
    print(report)
    if options.record:
        record(title, how, report)


if __name__ == "__main__":
    main()
