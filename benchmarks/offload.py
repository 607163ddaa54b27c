"""How long it takes to put more layers on a device: by an offload, beside unloading and loading again.

usage: python -m benchmarks.offload [--record] [--rounds N] [--directory DIR]

The demo model, 30 blocks, on one simulated device: with a bandwidth, so that copying is what takes the time, and as
fast as memory; and on the first GPU, where there is one. The two ways take turns; the median round counts. An offload
copies only the layers that were not there, so its share of the time should be its share of the bytes. Where the link is
as fast as memory the rest shows: a wish that is written and synchronised to the disk for every change (the state is
kept in DIR), and memory that the system has to find for every layer.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
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
from app.residency.jobs import Job
from app.residency.wishes import Wishes
from benchmarks._record import record
from tests.api.server import DEMO_ID as MODEL
from tests.api.server import demo_file

FEW, MANY = 16, 24
CAPACITY = 256 << 20
LINKS: dict[str, int | None] = {"200 MiB/s": 200 << 20, "as memory": None}


class Row(NamedTuple):
    """One change on one link: bytes and seconds of the offload, and of unloading and loading instead."""

    link: str
    change: str
    offload: tuple[int, float]
    reload: tuple[int, float]


class Stopwatch:
    """Runs jobs to their end, and keeps what each took by what it was."""

    def __init__(self) -> None:
        self.copied: dict[str, int] = {}
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    async def time(self, name: str, *starts: Callable[[], Awaitable[Job]]) -> None:
        """Start these jobs, each when the one before has ended."""
        began = time.perf_counter()
        copied = 0
        for start in starts:
            job = await start()
            await job.wait()
            copied += job.bytes_total
        self.seconds[name].append(time.perf_counter() - began)
        self.copied[name] = copied

    def median(self, name: str) -> tuple[int, float]:
        """Bytes and seconds."""
        return self.copied[name], statistics.median(self.seconds[name])


def devices_to_try() -> dict[str, Device]:
    """One for each kind of link, by its name."""
    found: dict[str, Device] = {
        link: SimulatedDevice("sim:0", CAPACITY, bytes_per_second=speed) for link, speed in LINKS.items()
    }
    return found | {gpu.name: gpu for gpu in open_devices("auto")[:1]}


async def measure(state: Path, link: str, device: Device, rounds: int) -> list[Row]:
    """Go up and down both ways, by turns."""
    devices = [device, HostDevice()]
    wishes = await Wishes.open(state)
    loadmaster = Loadmaster([demo_file().parent], devices, limits_of("all", devices), wishes, encode)
    await loadmaster.start()
    watch = Stopwatch()

    async def load(n: int) -> Job:
        return await loadmaster.load(MODEL, PlacementRequest(n))

    async def offload(n: int) -> Job:
        return await loadmaster.offload(MODEL, lambda request: replace(request, n_gpu_layers=n))

    async def unload() -> Job:
        return await loadmaster.unload(MODEL)

    try:
        for _ in range(rounds):
            await watch.time("first load", lambda: load(FEW))
            await watch.time("offload up", lambda: offload(MANY))
            await watch.time("offload down", lambda: offload(FEW))
            await watch.time("reload up", unload, lambda: load(MANY))
            await watch.time("reload down", unload, lambda: load(FEW))
            await watch.time("unload", unload)
    finally:
        await loadmaster.stop()
    return [
        Row(link, f"{FEW} → {MANY}", watch.median("offload up"), watch.median("reload up")),
        Row(link, f"{MANY} → {FEW}", watch.median("offload down"), watch.median("reload down")),
    ]


def table(rows: list[Row]) -> str:
    """Lay the rows out as Markdown."""
    columns = "offload, MiB | unload + load, MiB | of the bytes | offload, ms | unload + load, ms | of the time"
    lines = [f"| link | blocks | {columns} |", "|---|---|---:|---:|---:|---:|---:|---:|"]
    for link, change, (moved, seconds), (all_bytes, all_seconds) in rows:
        lines.append(
            f"| {link} | {change} | {moved / 2**20:.1f} | {all_bytes / 2**20:.1f} | {moved / all_bytes:.1%} "
            f"| {seconds * 1e3:.1f} | {all_seconds * 1e3:.1f} | {seconds / all_seconds:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Time offloads beside unloading and loading.")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where to keep the state meanwhile")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options = parser.parse_args()
    rows = []
    for link, device in devices_to_try().items():
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            rows += asyncio.run(measure(Path(directory), link, device, options.rounds))
    report = table(rows)
    print(report)
    if options.record:
        how = f"the demo model in the page cache, one device, median of {options.rounds} rounds"
        record("Offload beside unload and load", how, report)


if __name__ == "__main__":
    main()
