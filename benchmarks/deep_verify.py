"""How fast a deep verification goes through the service, beside only reading the same file with one thread.

usage: python -m benchmarks.deep_verify [--record] [--rounds N] [--megabytes N] [--directory DIR]

A model of one quantisation is written, and thrown away again; it stays in the page cache. It is verified where it is
not loaded (its data is read and checked), and where all of it is on a device (which is read back and compared, too).
A simulated device's memory is read back at the speed of a memory file, slower than the page cache. The best round
counts, so that other work on the machine is not measured.
"""

import argparse
import asyncio
import mmap
import os
import tempfile
import time
from pathlib import Path

from app.api.schemas import encode
from app.devices import Device
from app.devices.host import HostDevice
from app.devices.limits import limits_of
from app.devices.simulated import SimulatedDevice
from app.gguf import GGMLType
from app.gguf.blocks import block_bytes
from app.placement import HostMode, PlacementRequest
from app.residency import Loadmaster
from app.residency.records import VerifyResult
from app.residency.verify import VERIFY_THREADS
from app.residency.wishes import Wishes
from benchmarks._record import record
from benchmarks.verify import good_data
from tests.gguf_builder import STRING, UINT32, Tensor, build

KIND = GGMLType.Q4_K
BLOCKS = 32
COLUMNS = 4096
WHERE = {
    "not loaded": None,
    "host, a copy": PlacementRequest(0, host=HostMode.BUFFERED),
    "simulated device": PlacementRequest("all"),
}


def write_model(path: Path, nbytes: int) -> int:
    """Write a model of that size, all of its blocks alike; returns the bytes of its tensors."""
    row = COLUMNS // 256 * block_bytes(KIND)
    data = good_data(KIND, nbytes // BLOCKS // row * row)
    names = [f"blk.{number}.ffn_up.weight" for number in range(BLOCKS)]
    dims = (COLUMNS, len(data) // row)
    index = [Tensor(name, KIND, dims, offset=number * len(data)) for number, name in enumerate(names)]
    numbers = {"block_count": BLOCKS, "embedding_length": COLUMNS, "context_length": 1}
    keys = [(f"synthetic.{name}", UINT32, value) for name, value in numbers.items()]
    metadata = [("general.architecture", STRING, "synthetic"), *keys]
    with path.open("wb") as file:
        file.write(build(metadata, index))
        for _ in names:
            file.write(data.data)
    return len(data) * BLOCKS


def read_all(path: Path) -> None:
    """Read the file into one buffer, over and over."""
    buffer = memoryview(mmap.mmap(-1, 1 << 20))  # from the start of a page
    fd = os.open(path, os.O_RDONLY)
    try:
        position = 0
        while count := os.preadv(fd, [buffer], position):
            position += count
    finally:
        os.close(fd)


async def verify(loadmaster: Loadmaster) -> None:
    """Verify the model to its last byte."""
    job = await loadmaster.verify("model", deep=True)
    await job.wait()
    assert isinstance(job.result, VerifyResult)
    assert job.result.ok, job.result.problems


async def rows(directory: Path, nbytes: int, rounds: int) -> list[tuple[str, float, float]]:
    """For each place, the bytes per second of reading and of verifying, whose rounds take turns."""
    (directory / "models").mkdir()
    path = directory / "models" / "model.gguf"
    size = write_model(path, nbytes)
    wishes = await Wishes.open(directory / "state")
    devices: list[Device] = [SimulatedDevice("sim:0", 2 * size), HostDevice()]
    loadmaster = Loadmaster([path.parent], devices, limits_of("all", devices), wishes, encode)
    await loadmaster.start()
    found = []
    try:
        for where, request in WHERE.items():
            if request is not None:
                await (await loadmaster.load("model", request, allow_unknown=True)).wait()
            reading, verifying = [], []
            for _ in range(rounds):
                began = time.perf_counter()
                read_all(path)
                between = time.perf_counter()
                await verify(loadmaster)
                reading.append(between - began)
                verifying.append(time.perf_counter() - between)
            found.append((where, size / min(reading), size / min(verifying)))
    finally:
        await loadmaster.stop()
    return found


def main() -> None:
    """Measure, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Time deep verifications beside reading.")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--megabytes", type=int, default=1024, metavar="N", help="size of the model")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where to write it")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        found = asyncio.run(rows(Path(directory), options.megabytes << 20, options.rounds))
    lines = ["| where the model is | reading, GB/s | verifying, GB/s | of reading |", "|---|---:|---:|---:|"]
    lines += [
        f"| {where} | {read / 1e9:.1f} | {check / 1e9:.1f} | {check / read:.0%} |" for where, read, check in found
    ]
    report = "\n".join(lines)
    print(report)
    if options.record:
        how = (
            f"{options.megabytes} MiB of {KIND.name} in the page cache, best of {options.rounds} rounds, "
            f"verified through the service by {VERIFY_THREADS} thread{'s'[: VERIFY_THREADS > 1]}, read by one"
        )
        record("Deep verification through the service", how, report)


if __name__ == "__main__":
    main()
