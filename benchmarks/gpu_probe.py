"""What a GPU and its driver do with our kinds of calls: one line for each question that a design rests on.

usage: python -m benchmarks.gpu_probe [--device N] [--mebibytes N] [--directory DIR] [--record]

Where there is no CuPy or no GPU it says so, and that is all. Speeds are the best of a few rounds, in 10^9 bytes per
second; each thread copies on a stream of its own. What the driver refuses is an answer, too. The file is in the page
cache, and is thrown away again. Needs 2 GiB of the device, and as much of the host.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.devices.mapping import Mapping
from benchmarks._gpu_lending import probe_lending
from benchmarks._gpu_sweep import probe_sweep
from benchmarks._record import record

if TYPE_CHECKING:
    from app.devices.cuda import CudaDevice

MIB = 1 << 20
PIECE = 8 * MIB
SLAB = 512 * MIB
ROUNDS = 3
HOST_REGISTER_PORTABLE, HOST_REGISTER_READ_ONLY = 1, 8  # <driver_types.h>
STREAMS = (1, 2, 4)


class Probe:
    """One device, and the answers so far: each is printed when it is known."""

    def __init__(self, device: "CudaDevice", nbytes: int) -> None:
        from cupy import cuda  # noqa: PLC0415 - the probe starts without CuPy, to say that there is none

        self.cuda: Any = cuda
        self.device = device
        self.index = int(device.id.partition(":")[2])
        self.nbytes = nbytes
        self.lines: list[str] = []
        self.peak = 0.0

    def say(self, question: str, answer: str) -> None:
        """Print one line, and keep it."""
        self.lines.append(f"| {question} | {answer} |")
        print(f"{question}: {answer}", flush=True)

    def use(self) -> None:
        """Make the device the calling thread's."""
        self.cuda.Device(self.index).use()

    def attempt(self, question: str, answer: Callable[[], str]) -> None:
        """Say what `answer` finds out, or why the driver or the kernel refused."""
        try:
            self.say(question, answer())
        except (self.cuda.runtime.CUDARuntimeError, OSError) as error:
            self.say(question, f"refused: {error}")

    @contextlib.contextmanager
    def pinned(self, memory: Mapping, flags: int = HOST_REGISTER_PORTABLE) -> Iterator[float]:
        """Pin this memory for the block, which is told how many seconds that took."""
        began = time.perf_counter()
        self.cuda.runtime.hostRegister(memory.address, memory.nbytes, flags)
        try:
            yield time.perf_counter() - began
        finally:
            self.cuda.runtime.hostUnregister(memory.address)

    def send(self, target: int, source: int, nbytes: int) -> None:
        """Copy to the device, piece by piece on a stream of one's own, and wait for the last. For any thread."""
        self.use()
        stream, runtime = self.cuda.Stream(non_blocking=True), self.cuda.runtime
        for start in range(0, nbytes, PIECE):
            size = min(PIECE, nbytes - start)
            runtime.memcpyAsync(target + start, source + start, size, runtime.memcpyHostToDevice, stream.ptr)
        stream.synchronize()

    def speed(self, memory: Mapping, threads: int) -> float:
        """Bytes per second of so many threads that copy this memory to the device, each its share."""
        share = memory.nbytes // threads
        allocation = self.cuda.Memory(memory.nbytes)

        def copy(number: int) -> None:
            self.send(allocation.ptr + number * share, memory.address + number * share, share)

        with ThreadPoolExecutor(threads) as pool:
            return share * threads / min(seconds(lambda: list(pool.map(copy, range(threads)))) for _ in range(ROUNDS))


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def probe_bus(probe: Probe) -> None:
    """The ceilings: out of pinned and out of pageable memory."""
    memory = Mapping.anonymous(probe.nbytes)
    memory.populate()
    try:
        pageable = [probe.speed(memory, threads) for threads in STREAMS]
        with probe.pinned(memory) as took:
            pinned = [probe.speed(memory, threads) for threads in STREAMS]
    finally:
        memory.close()
    probe.peak = max(pinned)
    for name, speeds in (("pinned", pinned), ("pageable", pageable)):
        each = ", ".join(f"{speed / 1e9:.1f}" for speed in speeds)
        probe.say(f"{name} memory to the device, {'/'.join(map(str, STREAMS))} streams, GB/s", each)
    probe.say("pinning, ms per GiB", f"{took * 1e3 * (1 << 30) / probe.nbytes:.0f}")


def probe_mappings(probe: Probe, fd: int) -> None:
    """Whether the driver pins what is mapped, so that staging would not be needed; and what that costs."""
    runtime = probe.cuda.runtime
    attribute = runtime.cudaDevAttrHostRegisterReadOnlySupported
    probe.attempt(f"deviceGetAttribute({attribute})", lambda: str(runtime.deviceGetAttribute(attribute, probe.index)))
    memory_file = os.memfd_create("probe", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(memory_file, 0, probe.nbytes)
        for name, descriptor in (("file", fd), ("memfd", memory_file)):
            probe.attempt(f"hostRegister(flag 8), read-only map of a {name}", lambda: sent_from_map(probe, descriptor))  # noqa: B023 - now
    finally:
        os.close(memory_file)


def sent_from_map(probe: Probe, descriptor: int) -> str:
    """Pin a read-only map and copy out of it."""
    memory = Mapping.read_only(descriptor, probe.nbytes)
    try:
        with probe.pinned(memory, HOST_REGISTER_READ_ONLY | HOST_REGISTER_PORTABLE) as took:
            per_gib = took * 1e3 * (1 << 30) / probe.nbytes
            return f"pinned in {per_gib:.0f} ms per GiB, then {probe.speed(memory, 1) / 1e9:.1f} GB/s"
    finally:
        memory.close()


def probe_allocation(probe: Probe) -> None:
    """What a slab costs; and what it costs others that one is freed."""
    made, freed = [], []
    for _ in range(10):
        began = time.perf_counter()
        memory = probe.cuda.Memory(SLAB)
        made.append(time.perf_counter() - began)
        began = time.perf_counter()
        del memory  # the only reference: cudaFree
        freed.append(time.perf_counter() - began)
    for name, times in (("cudaMalloc", made), ("cudaFree", freed)):
        middle, worst = statistics.median(times) * 1e3, max(times) * 1e3
        probe.say(f"{name} of 0.5 GiB on an idle device, ms", f"{middle:.2f}, at most {worst:.2f}")


def probe_stall(probe: Probe) -> None:
    """How long a copying stream waits while another thread frees, and how long the one that frees."""
    undisturbed, _ = stall(probe, frees=0)
    disturbed, freed = stall(probe, frees=20)
    probe.say(
        "longest wait for 8 MiB on a copying stream, ms",
        f"{undisturbed * 1e3:.2f} undisturbed, {disturbed * 1e3:.2f} while another thread frees",
    )
    middle, worst = statistics.median(freed) * 1e3, max(freed) * 1e3
    probe.say("cudaFree of 0.5 GiB while a stream copies, ms", f"{middle:.2f}, at most {worst:.2f}")


def stall(probe: Probe, *, frees: int) -> tuple[float, list[float]]:
    """Copy until so many slabs were freed, or for as long: the longest time between two pieces, and each free's."""
    done, freed = threading.Event(), list[float]()
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(longest_gap, probe, done)
        for _ in range(20):
            memory = probe.cuda.Memory(SLAB) if frees else None
            time.sleep(0.02)  # let the stream copy undisturbed between two frees
            began = time.perf_counter()
            del memory
            freed.append(time.perf_counter() - began)
        done.set()
        return copying.result(), freed


def longest_gap(probe: Probe, done: threading.Event) -> float:
    """Keep two pieces in flight until it is done; the longest time from one's arrival to the next one's."""
    probe.use()
    runtime, memory = probe.cuda.runtime, Mapping.anonymous(2 * PIECE)
    stream, target = probe.cuda.Stream(non_blocking=True), probe.cuda.Memory(2 * PIECE)
    events = [probe.cuda.Event(block=True, disable_timing=True) for _ in range(2)]
    longest, arrived = 0.0, None
    try:
        with probe.pinned(memory):
            for number in itertools.count():
                slot = number % 2
                if number > 1:
                    events[slot].synchronize()
                    now = time.perf_counter()
                    longest = max(longest, now - arrived) if arrived else 0.0
                    arrived = now
                if done.is_set():
                    break
                offset, kind = slot * PIECE, runtime.memcpyHostToDevice
                runtime.memcpyAsync(target.ptr + offset, memory.address + offset, PIECE, kind, stream.ptr)
                events[slot].record(stream)
            stream.synchronize()
    finally:
        memory.close()
    return longest


def first_device(index: int) -> "CudaDevice | str":
    """The device, or why there is none."""
    try:
        from app.devices.cuda import cuda_devices  # noqa: PLC0415 - see above
    except ImportError:
        return "CuPy is not installed: nothing to probe"
    devices = cuda_devices()
    return devices[index] if index < len(devices) else f"there is no GPU cuda:{index}: nothing to probe"


def main() -> None:
    """Ask everything, in an order in which nothing disturbs what comes after it."""
    parser = argparse.ArgumentParser(description="Ask a GPU what our design rests on.")
    parser.add_argument("--device", type=int, default=0, metavar="N")
    parser.add_argument("--mebibytes", type=int, default=1024, metavar="N", help="of the file, and of each copy")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where to write the file")
    parser.add_argument("--record", action="store_true", help="append the answers to RESULTS.md")
    options = parser.parse_args()
    device = first_device(options.device)
    if isinstance(device, str):
        print(device)
        return
    probe = Probe(device, options.mebibytes * MIB)
    probe.use()
    versions = [probe.cuda.runtime.driverGetVersion(), probe.cuda.runtime.runtimeGetVersion()]
    probe.say("device", f"{device.name}, {device.uuid}, CUDA {versions[0]} (driver), {versions[1]} (runtime)")
    with tempfile.NamedTemporaryFile(dir=options.directory) as file:
        block = os.urandom(MIB)
        for _ in range(options.mebibytes):
            file.write(block)
        file.flush()
        probe_bus(probe)
        probe_sweep(probe, file.fileno())
        probe_mappings(probe, file.fileno())
    probe_allocation(probe)
    probe_stall(probe)
    probe_lending(probe)
    device.close()
    if options.record:
        table = ["| question | answer |", "|---|---|", *probe.lines]
        record("A GPU, asked", f"{options.mebibytes} MiB at a time, best of {ROUNDS} rounds", "\n".join(table))


if __name__ == "__main__":
    main()
