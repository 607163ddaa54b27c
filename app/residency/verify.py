"""Verification: whether a model is sound, and its data, and the devices' copies of it.

Structure was judged when the file was described. What is left is the bytes: every block of every tensor by llama.cpp's
rules for valid data, and every slab read back and compared with the file, byte for byte. Blocks, and belongs on worker
threads; several may share one `Tensors`. Sizes and offsets are in bytes.
"""

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import Final

import numpy as np

from app.devices import Meter
from app.errors import DeviceError, FileChanged
from app.gguf import GGMLType
from app.gguf.blocks import block_bytes, first_invalid_block, is_checkable
from app.model import LayerKey, Model, Problem, ProblemKind, Tensor
from app.residency.jobs import Job
from app.residency.reading import open_generation
from app.residency.records import LayerVerdict, VerifyResult
from app.residency.registry import Entry
from app.residency.residents import Generation, Resident

CHUNK: Final = 2 << 20  # small enough to stay in a core's cache between reading, checking and comparing


class Tensors:
    """The tensors that are still to be looked at, for several threads to take from."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = iter(tensors)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            with self._lock:
                tensor = next(self._tensors, None)
            if tensor is None:
                return
            yield tensor


async def verify(job: Job, entry: Entry, resident: Resident | None, threads: Executor, *, deep: bool) -> VerifyResult:
    """Look at a model, held as it is now; with `deep` at every byte of it. Raises FileChanged, Cancelled.

    A file that changed since it was described is a problem among others as long as there is something to look at.
    """
    model = entry.require_model()
    job.enter("structure")
    problems = list(model.problems)
    generation, held = await open_generation(entry, resident)
    with held:
        try:
            await asyncio.to_thread(generation.files.check)
        except FileChanged as error:
            problems.append(Problem(ProblemKind.FILE_CHANGED, str(error)))
        if deep:
            problems += await _check_data(job, model, generation, threads)
    return verdict(model, problems, deep=deep)


async def _check_data(job: Job, model: Model, generation: Generation, threads: Executor) -> list[Problem]:
    job.enter("data")
    job.work_bytes = model.size_bytes
    loop = asyncio.get_running_loop()
    tensors = Tensors(model.tensors)
    meters = [job.meter() for _ in range(max(1, (os.cpu_count() or 1) - 1))]
    progress = asyncio.create_task(job.sample())
    try:
        checks = [loop.run_in_executor(threads, check_tensors, generation, tensors, meter) for meter in meters]
        await asyncio.wait(checks)  # all of them, before the hold may end
        return [problem for check in checks for problem in check.result()]
    finally:
        progress.cancel()
        job.forget(meters)


def check_tensors(generation: Generation, tensors: Tensors, meter: Meter) -> list[Problem]:
    """Look at tensors until there are none left; counts their bytes in `meter`. Raises Cancelled.

    Only while the generation is held.
    """
    problems = []
    for tensor in tensors:
        problem = _first_problem(generation, tensor, meter)
        if problem is not None:
            problems.append(problem)
    return problems


def verdict(model: Model, problems: Sequence[Problem], *, deep: bool) -> VerifyResult:
    """The result: the problems in the order of the file, and a word for each layer."""
    order = {tensor.name: index for index, tensor in enumerate(model.tensors)}
    found = sorted(problems, key=lambda problem: order.get(problem.tensor or "", -1))
    bad = {problem.layer for problem in found}
    layers = tuple(_layer_verdict(layer.key, ok=layer.key not in bad) for layer in model.layers)
    sound = sum(layer.ok for layer in layers)
    looked_at = "structure, data and device copies" if deep else "structure"
    summary = f"{looked_at}: {sound} of {len(layers)} layers ok, {len(found)} problems"
    return VerifyResult(ok=not found, deep=deep, summary=summary, problems=tuple(found), layers=layers)


def _layer_verdict(key: LayerKey, *, ok: bool) -> LayerVerdict:
    name = f"Layer {key}" if isinstance(key, int) else f"The {key} layer"
    return LayerVerdict(key, ok, f"{name}: {'ok' if ok else 'not ok'}")


def _first_problem(generation: Generation, tensor: Tensor, meter: Meter) -> Problem | None:
    """The first thing that is wrong with a tensor; one is enough to know it for bad."""
    kind = GGMLType[tensor.type]
    step = max(1, CHUNK // block_bytes(kind)) * block_bytes(kind)
    for start in range(0, tensor.nbytes, step):
        nbytes = min(step, tensor.nbytes - start)
        try:
            data = generation.files.read(tensor.file, tensor.offset + start, nbytes)
        except FileChanged as error:
            return _problem(ProblemKind.FILE_CHANGED, tensor, str(error), f"{tensor.nbytes} bytes", None)
        bad = first_invalid_block(kind, data)
        if bad is not None:
            number = start // block_bytes(kind) + bad
            what = "holds a NaN or an infinity" if is_checkable(kind) else "is of a type that no weight can have"
            message = f"{tensor.name}: block {number} of type {tensor.type} {what}"
            return _problem(ProblemKind.INVALID_DATA, tensor, message, "finite numbers", f"block {number}")
        for problem in _copies(generation, tensor, start, data):
            return problem
        meter.add(nbytes)
    return None


def _copies(generation: Generation, tensor: Tensor, start: int, data: bytes) -> Iterator[Problem]:
    """What is wrong with the devices' copies of the bytes `data` from `start` of the tensor."""
    for offset, nbytes, live, slab_offset in generation.pieces(tensor):
        first, last = max(start, offset), min(start + len(data), offset + nbytes)
        if live is None or first >= last:
            continue
        device = live.slab.device
        try:
            copy = live.buffer.read(slab_offset + first - offset, last - first)
        except DeviceError as error:
            yield _problem(ProblemKind.WRONG_COPY, tensor, f"{tensor.name}: {error}", "the file's bytes", None)
            continue
        original = data[first - start : last - start]
        if copy != original:
            at = first + int(np.argmax(np.frombuffer(copy, np.uint8) != np.frombuffer(original, np.uint8)))
            message = f"{tensor.name}: byte {at} of the copy on {device} is not the file's"
            expected, found = f"0x{data[at - start]:02x}", f"0x{copy[at - first]:02x}"
            yield _problem(ProblemKind.WRONG_COPY, tensor, message, expected, f"{found} on {device}")


def _problem(kind: ProblemKind, tensor: Tensor, message: str, expected: str, found: str | None) -> Problem:
    return Problem(kind, message, tensor.layer, tensor.name, None, expected, found)
