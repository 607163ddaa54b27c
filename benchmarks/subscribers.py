"""How long a look takes while a load is told to many: nobody, a hundred and a thousand readers of the event stream.

usage: python -m benchmarks.subscribers [--record] [--rate SIZE]

The demo model is loaded to a simulated device, as slowly as `--rate` says, and told to all subscribers event by event;
meanwhile GET /v1/memory is polled as in `benchmarks.poll`, beside a bare route in a process of its own. All subscribers
are read by one process, this one, which shares the cores with the service: its own p99 is the last column.
"""

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._bare import BYTES, bare
from benchmarks._record import record
from benchmarks.poll import CONNECTIONS, PERIOD_SECONDS, Connection, Meanwhile, Poll, figures, p99
from tests.api.process import environment, running
from tests.api.server import DEMO
from tests.api.subscribers import all_told, own_bytes, subscribed

COUNTS = (0, 100, 1000)
SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Watched:
    """A load that was told to `count` subscribers, all of which have heard of its end."""

    count: int
    poll: Poll
    control: Poll
    events: int
    by: Counter[str]
    """How many heard of the end by the event, and how many by a snapshot."""
    grown_bytes: int


async def watch(count: int, port: int, bare_port: int, pid: int) -> Watched:
    """Load once, and unload."""
    poll, control = Poll("/v1/memory", Meanwhile.LOADING), Poll(BYTES, Meanwhile.LOADING)
    before = own_bytes(pid)
    async with subscribed(port, count) as subscribers, asyncio.TaskGroup() as group:
        group.create_task(poll.run(port, SECONDS))
        group.create_task(control.run(bare_port, SECONDS))
        job = await changed(port, "load")
        await all_told(subscribers, job["id"])
        by = Counter(subscriber.ends[job["id"]][1] for subscriber in subscribers)
        events, grown = sum(subscriber.events for subscriber in subscribers), own_bytes(pid) - before
    await changed(port, "unload")
    return Watched(count, poll, control, events, by, grown)


async def changed(port: int, action: str) -> dict[str, Any]:
    """Load or unload the demo model, and wait for it."""
    async with Connection.to(port) as connection:
        answer = await connection.ask("POST", f"{DEMO}/{action}", {"wait": True})
        job: dict[str, Any] = json.loads(answer)
        return job


def table(found: list[Watched]) -> str:
    """Lay the runs out as Markdown."""
    lines = [
        "| subscribers | events | told of the end | MiB | p50, ms | p99 | worst | bare p50 | p99 | worst | late |",
        "|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in found:
        told = ", ".join(f"{number} by {name}" for name, number in sorted(run.by.items()))
        cells = [str(run.count), str(run.events), told, f"{run.grown_bytes / 2**20:.0f}"]
        cells += [*figures(run.poll.latencies), *figures(run.control.latencies), f"{p99(run.poll.late) * 1e3:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


async def measure(port: int, bare_port: int, pid: int) -> list[Watched]:
    """Watch by each number of subscribers."""
    await Poll("/v1/memory", Meanwhile.NOTHING).run(port, 1.0)
    return [await watch(count, port, bare_port, pid) for count in COUNTS]


def main() -> None:
    """Measure, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Time looks while a load is told to many.")
    parser.add_argument("--rate", default="25MiB", metavar="SIZE", help="of the device, a second")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loadmaster-") as state:
        settings = environment(Path(state), DEVICES=f"sim:128MiB@{options.rate}/s")
        with running(Path(state) / "log", settings) as (process, client), bare() as bare_port:
            port = client.base_url.port
            assert port
            report = table(asyncio.run(measure(port, bare_port, process.pid)))
    print(report)
    if options.record:
        how = f"{CONNECTIONS} connections of {1 / PERIOD_SECONDS:.0f} requests a second, one load of the demo model"
        record("Looking while a load is told to many", f"{how} at {options.rate} a second", report)


if __name__ == "__main__":
    main()
