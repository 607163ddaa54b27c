"""How fast data is verified: `first_invalid_block` on a file in the page cache, beside only reading the same file.

usage: python -m benchmarks.verify [--record] [--rounds N] [--megabytes N] [--directory DIR]

For every tensor type a file of that size is written, and thrown away again; it stays in the page cache. It is gone
through in chunks of 1 MiB: read by preadv into one buffer, read and checked, and checked alone, where it lies in
memory. The rounds of the three take turns, so that none finds in the processor's caches what it left there. The best
round of each chunk counts, so that other work on the machine is not measured.
"""

import argparse
import math
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.gguf import GGMLType
from app.gguf.blocks import SCALES, block_bytes, first_invalid_block
from benchmarks._record import record

CHUNK = 1 << 20
TYPES = [kind for kind, scales in SCALES.items() if scales]


class Row(NamedTuple):
    """One type's measurements, in bytes per second."""

    kind: GGMLType
    read: float
    verify: float
    check: float


def good_data(kind: GGMLType, nbytes: int) -> np.ndarray:
    """Make whole blocks of random bytes, with the exponents of all scales cleared: no rule finds fault with them."""
    size = block_bytes(kind)
    blocks = np.random.default_rng(0).integers(0, 256, (nbytes // size, size), dtype=np.uint8)
    for offset, form in SCALES[kind]:
        width = np.dtype(form.bits).itemsize
        blocks[:, offset : offset + width] &= np.frombuffer(
            (~form.mask % 256**width).to_bytes(width, "little"), np.uint8
        )
    return blocks.reshape(-1)


def measure(kind: GGMLType, directory: Path | None, nbytes: int, rounds: int) -> Row:
    """Read, read and check, and check alone, by turns."""
    data = good_data(kind, nbytes)
    chunk = CHUNK // block_bytes(kind) * block_bytes(kind)
    buffer = memoryview(mmap.mmap(-1, chunk))  # from the start of a page
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        file.write(data.data)
        file.flush()

        def read(position: int) -> int:
            return os.preadv(file.fileno(), [buffer], position)

        def verify(position: int) -> None:
            assert first_invalid_block(kind, buffer[: read(position)]) is None

        def check(position: int) -> None:
            assert first_invalid_block(kind, data.data[position : position + chunk]) is None

        speeds = [len(data) / took for took in seconds((read, verify, check), range(0, len(data), chunk), rounds)]
    return Row(kind, *speeds)


def seconds(actions: Sequence[Callable[[int], object]], positions: Sequence[int], rounds: int) -> list[float]:
    """Time each action over all positions: the sum of the best times."""
    best = [[math.inf] * len(positions) for _ in actions]
    for _ in range(rounds):
        for action, times in zip(actions, best, strict=True):
            for index, position in enumerate(positions):
                began = time.perf_counter()
                action(position)
                times[index] = min(times[index], time.perf_counter() - began)
    return list(map(sum, best))


def table(rows: list[Row]) -> str:
    """Lay the rows out as Markdown."""
    lines = [
        "| type | reading, GB/s | reading and checking, GB/s | of reading | checking alone, GB/s |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {kind.name} | {read / 1e9:.1f} | {verify / 1e9:.1f} | {verify / read:.0%} | {check / 1e9:.1f} |"
        for kind, read, verify, check in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Time the verification of data beside reading it.")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--megabytes", type=int, default=128, metavar="N", help="size of the file for each type")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where to write it")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options = parser.parse_args()
    # The first file is several times slower on a virtual machine, whatever its type, and is thrown away.
    measure(TYPES[0], options.directory, options.megabytes << 20, 1)
    rows = [measure(kind, options.directory, options.megabytes << 20, options.rounds) for kind in TYPES]
    report = table(rows)
    print(report)
    if options.record:
        how = f"files of {options.megabytes} MiB in the page cache, best of {options.rounds} rounds for each MiB"
        record("Verifying data", how, report)


if __name__ == "__main__":
    main()
