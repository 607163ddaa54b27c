"""Verification: whether a model is sound, and its data, and the devices' copies of it.

Structure was judged when the file was described. What is left is the bytes: every block of every tensor by llama.cpp's
rules for valid data, and every slab read back and compared with the file, byte for byte.

The files are kept open for as long as that takes, what is loaded is not: it is held for one run of tensors at a time,
and each run is compared with where it is at that moment. So the model may move meanwhile, and what it leaves is free
again within moments. Once it is unloaded, the rest of the file is looked at alone. Sizes and offsets are in bytes.
"""

import asyncio
import mmap
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.devices import Meter
from app.errors import Cancelled, DeviceError, DeviceLost, FileChanged, NotLoaded
from app.gguf import GGMLType
from app.gguf.blocks import block_bytes, first_invalid_block, is_checkable
from app.model import LayerKey, Model, Problem, ProblemKind, Tensor
from app.placement import Slice
from app.residency.files import OpenFiles
from app.residency.jobs import Job
from app.residency.records import LayerVerdict, VerifyResult
from app.residency.registry import Entry
from app.residency.residents import Generation, LiveSlab, Resident

VERIFY_THREADS: Final = max(1, len(os.sched_getaffinity(0)) - 1)
"""For all verifications together: one core is left to those who do not only look."""

CHUNK: Final = 1 << 20  # small enough to stay in a core's cache between reading, checking and comparing
RUN: Final = 32 << 20  # what a thread looks at under one hold, and before it is another verification's turn

Whereabouts = Callable[[], Resident | None]
"""Asks, on the event loop, where the model is loaded at this moment; None where it is not."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A run of one tensor's bytes, and the slab that holds it."""

    part: Slice
    live: LiveSlab


class Examination:
    """Tensors looked at one after the other, in one piece of memory: for one thread at a time. Blocks."""

    def __init__(self, files: OpenFiles, meter: Meter) -> None:
        self._files = files
        self._meter = meter
        self._memory = bytearray(CHUNK + mmap.PAGESIZE)
        # From the start of a page: read to anywhere else, the same bytes take some processors five times as long.
        self._first = -np.frombuffer(self._memory, np.uint8).ctypes.data % mmap.PAGESIZE
        self._generation: Generation | None = None
        self._copies: Mapping[str, Sequence[Copy]] = {}

    def problems(self, tensors: Sequence[Tensor], resident: Resident | None) -> list[Problem]:
        """What is wrong with these tensors, and with their copies in `resident`, which is held until all are compared.

        Counts their bytes in the meter. Raises Cancelled, HostError, or NotLoaded, with nothing looked at, where the
        resident was unloaded before its turn came.
        """
        with resident.hold() if resident is not None else nullcontext() as generation:
            if generation is not self._generation:
                self._generation, self._copies = generation, copies_of(generation) if generation else {}
            return [problem for tensor in tensors for problem in self._problems(tensor)]

    def _problems(self, tensor: Tensor) -> Iterator[Problem]:
        """The first block that is invalid, and of each copy the first byte that is wrong: one is enough to know it."""
        kind = GGMLType[tensor.type]
        size = block_bytes(kind)
        step = CHUNK // size * size
        valid, copies = True, list(self._copies.get(tensor.name, ()))
        for start in range(0, tensor.nbytes, step):
            nbytes = min(step, tensor.nbytes - start)
            with memoryview(self._memory)[self._first : self._first + nbytes] as data:
                try:
                    self._files.read_into(tensor.file, tensor.offset + start, data)
                except FileChanged as error:
                    yield _problem(ProblemKind.FILE_CHANGED, tensor, str(error), f"{tensor.nbytes} bytes", None)
                    return
                bad = first_invalid_block(kind, data) if valid else None
            if bad is not None:
                valid = False
                yield _invalid(tensor, kind, start // size + bad)
            for copy in tuple(copies):
                wrong = self._difference(tensor, copy, start, nbytes)
                if wrong is not None:
                    copies.remove(copy)
                    yield wrong
            self._meter.add(nbytes)

    def _difference(self, tensor: Tensor, copy: Copy, start: int, nbytes: int) -> Problem | None:
        """What is wrong with the copy of the `nbytes` from `start`, which are the first in the memory."""
        part, device = copy.part, copy.live.slab.device
        first, last = max(start, part.start), min(start + nbytes, part.start + part.nbytes)
        if first >= last:
            return None
        try:
            held = copy.live.buffer.read(part.slab_offset + first - part.start, last - first)
        except DeviceError as error:
            kind = ProblemKind.LOST_COPY if isinstance(error, DeviceLost) else ProblemKind.WRONG_COPY
            return _problem(kind, tensor, f"{tensor.name}: {error}", "the file's bytes", None)
        here = self._first + first - start
        if self._memory.startswith(held, here):  # a memcmp, of nothing copied
            return None
        original = self._memory[here : here + last - first]
        at = int(np.argmax(np.frombuffer(held, np.uint8) != np.frombuffer(original, np.uint8)))
        message = f"{tensor.name}: byte {first + at} of the copy on {device} is not the file's"
        expected, found = f"0x{original[at]:02x}", f"0x{held[at]:02x} on {device}"
        return _problem(ProblemKind.WRONG_COPY, tensor, message, expected, found)


async def verify(
    job: Job, entry: Entry, whereabouts: Whereabouts, threads: Executor, *, deep: bool, run: int = RUN
) -> VerifyResult:
    """Look at a model; with `deep` at every byte of it, and of its copies where they are when it is their turn.

    A file that changed since it was described is a problem among others as long as there is something to look at.
    Raises FileChanged, HostError, Cancelled.
    """
    resident = whereabouts()
    model = (resident.entry if resident else entry).require_model()
    job.work_bytes = model.size_bytes if deep else 0  # before the first stage, lest progress go back
    job.enter("structure")
    problems = list(model.problems)
    files = await _open(entry, resident)

    def copies() -> Resident | None:  # of another file that was loaded meanwhile there is nothing to compare
        loaded = whereabouts()
        return loaded if loaded is not None and loaded.files.files == files.files else None

    try:
        if deep:
            job.enter("data")
            problems += await _look_at_data(job, files, runs(model.tensors, run), copies, threads)
        problems += await asyncio.to_thread(_changes, files)  # last: it may have changed meanwhile
    finally:
        files.close()
    return verdict(model, problems, deep=deep)


async def _open(entry: Entry, resident: Resident | None) -> OpenFiles:
    """The files that the model was loaded from, whatever becomes of it; where it is not loaded, those of its entry."""
    if resident is None:
        return await asyncio.to_thread(OpenFiles, entry.id, entry.files)
    with resident.hold() as generation:
        return generation.files.duplicate()


async def _look_at_data(
    job: Job, files: OpenFiles, work: Iterator[Sequence[Tensor]], whereabouts: Whereabouts, threads: Executor
) -> list[Problem]:
    problems: list[Problem] = []

    async def take_turns(meter: Meter) -> None:
        examination = Examination(files, meter)
        for tensors in work:  # from which the other lanes take, too
            problems.extend(await _in_turn(examination, tensors, whereabouts, threads))

    meters = [job.meter() for _ in range(VERIFY_THREADS)]
    progress = asyncio.create_task(job.sample())
    lanes = [asyncio.create_task(take_turns(meter)) for meter in meters]
    try:
        await asyncio.wait(lanes, return_when=asyncio.FIRST_EXCEPTION)
        failed = any(lane.done() and lane.exception() for lane in lanes)
        for meter in meters if failed else ():
            meter.cancel()
        await asyncio.wait(lanes)  # all of them, before the files may be closed
    finally:
        progress.cancel()
        job.forget(meters)
    failures = [failure for lane in lanes if (failure := lane.exception())]
    if failures:  # those that were stopped on account of another are not the cause
        raise next((failure for failure in failures if not isinstance(failure, Cancelled)), failures[0])
    return problems


async def _in_turn(
    examination: Examination, tensors: Sequence[Tensor], whereabouts: Whereabouts, threads: Executor
) -> list[Problem]:
    """Wait for a thread, and have it look at these tensors and at the copies that are there by then."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await loop.run_in_executor(threads, examination.problems, tensors, whereabouts())
        except NotLoaded:
            continue  # it was unloaded while this waited, and may be loaded again by now


def copies_of(generation: Generation) -> Mapping[str, Sequence[Copy]]:
    """All that slabs hold, by the tensor's name; the same bytes may be on several devices."""
    copies: defaultdict[str, list[Copy]] = defaultdict(list)
    for live in generation.slabs:
        for part in live.slab.slices:
            copies[part.tensor.name].append(Copy(part, live))
    return copies


def runs(tensors: Sequence[Tensor], least: int) -> Iterator[list[Tensor]]:
    """The tensors in file order, in runs of `least` bytes or little more."""
    run: list[Tensor] = []
    nbytes = 0
    for tensor in tensors:
        run.append(tensor)
        nbytes += tensor.nbytes
        if nbytes >= least:
            yield run
            run, nbytes = [], 0
    if run:
        yield run


def _changes(files: OpenFiles) -> list[Problem]:
    try:
        files.check()
    except FileChanged as error:
        return [Problem(ProblemKind.FILE_CHANGED, str(error))]
    return []


def verdict(model: Model, problems: Sequence[Problem], *, deep: bool) -> VerifyResult:
    """The result: the problems in the order of the file, and a word for each layer, those that are missing included."""
    order = {tensor.name: index for index, tensor in enumerate(model.tensors)}
    found = sorted(problems, key=lambda problem: order.get(problem.tensor or "", -1))
    bad = {problem.layer for problem in found if problem.layer is not None}
    keys = sorted({layer.key for layer in model.layers} | bad, key=_position)
    layers = tuple(_layer_verdict(key, ok=key not in bad) for key in keys)
    looked_at = "structure, data and copies" if deep else "structure"
    sound = sum(layer.ok for layer in layers)
    count = f"{len(found)} problem{'s'[: len(found) != 1]}" if found else "no problems"
    summary = f"{looked_at}: {sound} of {len(layers)} layers ok, {count}"
    return VerifyResult(ok=not found, deep=deep, summary=summary, problems=tuple(found), layers=layers)


def _position(key: LayerKey) -> float:
    return {"input": -1.0, "output": float("inf")}[key] if isinstance(key, str) else key


def _layer_verdict(key: LayerKey, *, ok: bool) -> LayerVerdict:
    name = f"Layer {key}" if isinstance(key, int) else f"The {key} layer"
    return LayerVerdict(key, ok, f"{name}: {'ok' if ok else 'not ok'}")


def _invalid(tensor: Tensor, kind: GGMLType, block: int) -> Problem:
    if not is_checkable(kind):
        message = f"{tensor.name} is of type {tensor.type}, which no weight can have"
        return _problem(ProblemKind.INVALID_DATA, tensor, message, "a type for weights", tensor.type)
    message = f"{tensor.name}: block {block} of type {tensor.type} holds a NaN or an infinity"
    return _problem(ProblemKind.INVALID_DATA, tensor, message, "finite numbers", f"block {block}")


def _problem(kind: ProblemKind, tensor: Tensor, message: str, expected: str, found: str | None) -> Problem:
    return Problem(kind, message, tensor.layer, tensor.name, None, expected, found)
