"""How many looks a second there can be: /v1/memory and /v1/models beside the least that could answer at all.

usage: python -m benchmarks.rates [--record] [--seconds N] [--rounds N] [--llama-server PATH --model FILE]

16 connections that ask as fast as they are answered, by `wrk`, one path after the other and all of them again: the
table has the best round of each, for a machine does other things, too, and a share of what the bare ASGI application
answered in the same round. That is the ceiling of any service in this interpreter and this server; FastAPI routes are
what a service has by default. `--llama-server` is measured beside them, by its /props and /models.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from benchmarks._bare import ASGI, BYTES, DICT, bare
from benchmarks._record import record
from tests.api.process import environment, free_port, running
from tests.api.server import DEMO, answer, demo_file, load, until

CONNECTIONS: Final = 16
DEVICES: Final = "sim:64MiB,sim:64MiB"
OURS: Final = ("/v1/memory", "/v1/models", "/healthz")
THEIRS: Final = ("/props", "/models")


@dataclass(slots=True)
class Row:
    """One path of one server, and what it answered in each round, in requests a second."""

    name: str
    url: str
    headers: tuple[str, ...] = ()
    rates: list[float] = field(default_factory=list)

    def measure(self, seconds: int) -> None:
        """One round. Ends the program where an answer is not a success."""
        headers = [part for header in self.headers for part in ("-H", header)]
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *headers, self.url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
        if rate is None or "Non-2xx" in output or "Socket errors" in output:
            raise SystemExit(f"{self.name}: {output}")
        self.rates.append(float(rate[1]))


@contextmanager
def llama_server(program: Path, model: Path) -> Iterator[str]:
    """Somebody else's service, with a model loaded, for as long as the block."""
    port = free_port()
    command = [str(program), "--model", str(model), "--port", str(port), "--log-disable"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or _answers(f"http://127.0.0.1:{port}/health"))
        if process.poll() is not None:
            raise SystemExit(f"{program} ended with {process.returncode}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def rows(client: httpx.Client, bare_port: int, theirs: str | None) -> list[Row]:
    """All that is measured, the ceiling first."""
    ours = str(client.base_url).rstrip("/")
    tags = {path: client.get(path).headers.get("etag") for path in OURS}
    return [
        Row("bare ASGI application", f"http://127.0.0.1:{bare_port}{ASGI}"),
        *(Row(f"GET {path}", f"{ours}{path}") for path in OURS),
        Row("GET /v1/models, a 304", f"{ours}/v1/models", (f"If-None-Match: {tags['/v1/models']}",)),
        Row("bare FastAPI route, prepared bytes", f"http://127.0.0.1:{bare_port}{BYTES}"),
        Row("bare FastAPI route, a dict", f"http://127.0.0.1:{bare_port}{DICT}"),
        *(Row(f"llama-server {path}", f"{theirs}{path}") for path in (THEIRS if theirs else ())),
    ]


def table(found: list[Row]) -> str:
    """Lay the rows out as Markdown."""
    ceiling = found[0].rates
    lines = ["| what | requests/s, best | median | of bare ASGI in its round, median |", "|---|---:|---:|---:|"]
    for row in found:
        share = _median([rate / most for rate, most in zip(row.rates, ceiling, strict=True)])
        lines.append(f"| {row.name} | {max(row.rates):,.0f} | {_median(row.rates):,.0f} | {share:.0%} |")
    return "\n".join(lines)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    """Measure, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Count looks a second.")
    parser.add_argument("--seconds", type=int, default=3, metavar="N", help="for each path in each round")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--llama-server", type=Path, metavar="PATH", help="its program, to be measured beside ours")
    parser.add_argument("--model", type=Path, default=demo_file(), metavar="FILE", help="what llama-server loads")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        print("skipped: wrk is not there (apt-get install wrk)")
        return
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadmaster-")))
        _, client = stack.enter_context(running(state / "log", environment(state, DEVICES=DEVICES)))
        load(client, n_gpu_layers=12)
        assert answer(client.get(DEMO))["state"] == "loaded"
        theirs = options.llama_server and stack.enter_context(llama_server(options.llama_server, options.model))
        found = rows(client, stack.enter_context(bare()), theirs)
        for _ in range(options.rounds):
            for row in found:
                row.measure(options.seconds)
    report = table(found)
    print(report)
    if options.record:
        how = f"wrk, {CONNECTIONS} connections, {options.rounds} rounds of {options.seconds} s for each path"
        record("Looks a second", how, report)


if __name__ == "__main__":
    main()
