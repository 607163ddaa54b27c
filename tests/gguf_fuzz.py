"""Fuzz the reader: whatever the bytes, it parses or raises GGUFError, soon and in little memory. `make fuzz` runs it.

usage: python -m tests.gguf_fuzz [--seconds N] [--corpus DIR] [INPUT ...]

Starts from the files of the tests and keeps, in the corpus, every input that led to new code; an input that breaks
a promise is kept beside it and ends the run with a failure. With INPUTs it tries just these once more.
"""

import argparse
import sys
import time
import tracemalloc
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["app.gguf"], enable_loader_override=False):
    from app.gguf import Array, parse_header
    from app.gguf.splits import check_splits

from app.errors import GGUFError
from tests import gguf_builder as b
from tests.gguf.cases import ACCEPTED_HERE, IMPOSTORS, LLAMA_CPP_ACCEPTS, LLAMA_CPP_REFUSES, REFUSED_HERE

MAX_INPUT = 64 * 1024  # bytes
MAX_MEMORY = 4 << 20  # bytes, for reading one input
MAX_SECONDS = 1.0  # of processor time, for reading one input under instrumentation


class TooExpensive(Exception):
    """An input that took more time or memory than any input of its size may."""


def seeds() -> list[bytes]:
    """List the files that the tests are made of."""
    refused = [case.data for cases in (LLAMA_CPP_REFUSES, REFUSED_HERE) for case in cases.values()]
    accepted = [*LLAMA_CPP_ACCEPTS.values(), *ACCEPTED_HERE.values()]
    models = [b.tiny_llama(n_layer=1), *b.split_llama(2, n_layer=1)]
    # Of a model the header is enough: no reader looks at the rest.
    heads = [model[: parse_header(model).data_offset] for model in models]
    return [*refused, *accepted, *heads, *(data for data, _ in IMPOSTORS.values())]


def read(data: bytes) -> None:
    """Read a header as the service does, then decode all that is in it."""
    tracemalloc.reset_peak()
    before, began = tracemalloc.get_traced_memory()[0], time.process_time()
    arrays: list[Array] = []
    try:
        header = parse_header(data)
        header.detached()
        header.check_data(len(data))
        check_splits([header], ["fuzzed"])
        arrays = [value for value in header.metadata.values() if isinstance(value, Array)]
    except GGUFError as error:
        if not error.field:
            raise AssertionError("an error that does not name its field") from error
    seconds, memory = time.process_time() - began, tracemalloc.get_traced_memory()[1] - before
    if seconds > MAX_SECONDS or memory > MAX_MEMORY:
        raise TooExpensive(f"{len(data)} bytes cost {seconds:.2f} s and {memory} bytes of memory")
    for array in arrays:
        array.tolist()


def main() -> None:
    """Fuzz for the given time; libFuzzer ends the process, with a status other than 0 for a failure."""
    parser = argparse.ArgumentParser(description="Fuzz the GGUF reader.")
    parser.add_argument("--seconds", type=int, default=30, metavar="N")
    parser.add_argument("--corpus", type=Path, default=Path(".cache/fuzz"), metavar="DIR")
    parser.add_argument("inputs", nargs="*", metavar="INPUT")
    options = parser.parse_args()
    found, given = options.corpus / "found", options.corpus / "given"
    for directory in (found, given):
        directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (given / f"{number:03}.gguf").write_bytes(seed)
    arguments = [
        f"-max_total_time={options.seconds}",
        f"-max_len={MAX_INPUT}",
        f"-artifact_prefix={options.corpus}/",
        "-timeout=10",
        "-use_value_profile=1",
        "-print_final_stats=1",
    ]
    tracemalloc.start()
    atheris.Setup([sys.argv[0], *arguments, *(options.inputs or [str(found), str(given)])], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
