"""How long a look takes while nothing happens, and while a model is loaded at full speed: `loadmaster serve`, polled.

usage: python -m benchmarks.poll [--record] [--gib N] [--seconds N] [--directory DIR]

16 connections of 10 requests a second each, on a schedule that does not wait for answers: a request counts from when it
was due, so that a stall is seen by all who were due in it, not only by the one that met it. The service is a process of
its own, this one its client, and both share the machine's cores with the copying. What is loaded, and unloaded, over
and over, has the shapes of Llama 2 7B in Q4_K_M, to two simulated devices as fast as memory. Beside each poll, at the
same time and rate, a bare FastAPI route in a process of its own is polled: what it takes is the machine's doing. The
last column is the client's own fault: how late it sent what it could have sent in time.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from benchmarks._bare import BYTES, bare
from benchmarks._record import record
from benchmarks._synthetic import GIB, MODEL, synthetic_model
from tests.api.process import environment, running

GOALS_MS = {"/v1/memory": 25.0, "/healthz": 10.0}
CONNECTIONS = 16
PERIOD_SECONDS = 0.1
WARM_UP_SECONDS = 1.0


class Connection:
    """HTTP/1.1 by hand, kept alive: as little as a client can do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator["Connection"]:
        """A connection to the service, for the length of a block."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    async def ask(self, method: str, path: str, body: Any = None) -> bytes:
        """The body of an answer, which must be a 200."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        answer = await self._reader.readexactly(int(headers["content-length"]))
        assert status.split()[1] == "200", (status, answer)
        return answer


class Meanwhile(StrEnum):
    """What the service does beside being asked."""

    NOTHING = "nothing"
    LOADED = "nothing, the model is loaded"
    LOADING = "loads and unloads"


@dataclass(slots=True)
class Poll:
    """What polling one path has shown, in seconds."""

    path: str
    meanwhile: Meanwhile
    control: "Poll | None" = None
    """The bare route, polled at the same time."""
    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """How late the client itself was, each time it was free when a request was due."""
    copied_bytes: int = 0
    copying_seconds: float = 0.0

    async def run(self, port: int, seconds: float) -> None:
        """Ask on schedule, by all connections."""
        start = time.perf_counter() + PERIOD_SECONDS
        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(self._connection(port, start + PERIOD_SECONDS * number / CONNECTIONS, seconds))

    async def _connection(self, port: int, first: float, seconds: float) -> None:
        async with Connection.to(port) as connection:
            for number in range(round(seconds / PERIOD_SECONDS)):
                due = first + number * PERIOD_SECONDS
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                    self.late.append(time.perf_counter() - due)
                await connection.ask("GET", self.path)
                self.latencies.append(time.perf_counter() - due)

    async def load_meanwhile(self, port: int, over: asyncio.Event) -> None:
        """Load and unload without a pause until it is over; the model is unloaded at the end."""
        while not over.is_set():
            began = time.perf_counter()
            self.copied_bytes += await load(port)
            self.copying_seconds += time.perf_counter() - began
            await unload(port)


async def load(port: int) -> int:
    """Load the model to both devices; the bytes that were copied."""
    async with Connection.to(port) as connection:
        body = {"n_gpu_layers": "all", "wait": True}
        copied: int = json.loads(await connection.ask("POST", f"/v1/models/{MODEL}/load", body))["bytes_total"]
        return copied


async def unload(port: int) -> None:
    """Unload the model."""
    async with Connection.to(port) as connection:
        await connection.ask("POST", f"/v1/models/{MODEL}/unload", {"wait": True})


async def polls(port: int, bare_port: int, seconds: float) -> list[Poll]:
    """Poll each path while nothing happens, while the model is loaded, and while it is being loaded."""
    found = [Poll(path, meanwhile, Poll(BYTES, meanwhile)) for meanwhile in Meanwhile for path in GOALS_MS]
    await Poll("/v1/memory", Meanwhile.NOTHING).run(port, WARM_UP_SECONDS)
    for poll in found:
        if poll.meanwhile is Meanwhile.LOADED:
            await load(port)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            if poll.meanwhile is Meanwhile.LOADING:
                group.create_task(poll.load_meanwhile(port, over))
            if poll.control:
                group.create_task(poll.control.run(bare_port, seconds))
            await poll.run(port, seconds)
            over.set()
        if poll.meanwhile is Meanwhile.LOADED:
            await unload(port)
    return found


def table(found: Sequence[Poll]) -> str:
    """Lay the polls out as Markdown."""
    lines = [
        "| path | meanwhile | requests | p50, ms | p99 | worst | goal for p99 | bare: p50 | p99 | worst | late: p99 |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for poll in found:
        bare_route = figures(poll.control.latencies) if poll.control else ["", "", ""]
        speed = f" at {poll.copied_bytes / poll.copying_seconds / 1e9:.1f} GB/s" if poll.copied_bytes else ""
        kept = p99(poll.latencies) * 1e3 < GOALS_MS[poll.path]
        goal = f"{GOALS_MS[poll.path]:.0f}, {'kept' if kept else 'missed'}"
        cells = [f"GET {poll.path}", f"{poll.meanwhile}{speed}", str(len(poll.latencies)), *figures(poll.latencies)]
        lines.append(f"| {' | '.join([*cells, goal, *bare_route, f'{p99(poll.late) * 1e3:.1f}'])} |")
    return "\n".join(lines)


def figures(seconds: Sequence[float]) -> list[str]:
    """Median, p99 and worst, in milliseconds."""
    return [f"{value * 1e3:.1f}" for value in (statistics.median(seconds), p99(seconds), max(seconds))]


def p99(values: Sequence[float]) -> float:
    """What 99 of 100 values do not exceed."""
    return statistics.quantiles(values, n=100)[-1]


def main() -> None:
    """Measure, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Time looks at the service while it loads.")
    parser.add_argument("--gib", type=float, default=GIB, metavar="N", help="size of the model")
    parser.add_argument("--seconds", type=float, default=8, metavar="N", help="for each of six polls")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where the model is written, and kept")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options = parser.parse_args()
    with (
        synthetic_model(options.gib, options.directory) as path,
        tempfile.TemporaryDirectory(prefix="loadmaster-") as state,
    ):
        size = path.stat().st_size
        settings = {"MODELS_DIR": str(path.parent), "DEVICES": f"sim:{size}B,sim:{size}B"}
        with running(Path(state) / "log", environment(Path(state), **settings)) as (_, client), bare() as bare_port:
            port = client.base_url.port
            assert port
            found = asyncio.run(polls(port, bare_port, options.seconds))
    report = table(found)
    print(report)
    if options.record:
        how = (
            f"{CONNECTIONS} connections of {1 / PERIOD_SECONDS:.0f} requests a second, {options.seconds:.0f} s each, "
            f"a model of {size / 2**30:.1f} GiB"
        )
        record("Looking while loading", how, report)


if __name__ == "__main__":
    main()
