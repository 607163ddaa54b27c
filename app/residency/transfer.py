"""Carries out one step of moves: copy, check, switch, release. A failure at any point leaves things as they were.

Blocking work runs in threads of its own pool, so that slow copies never keep a look at the memory waiting; the ledger
is touched on the event loop only.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from app.devices import Device, Meter, Segment
from app.errors import Cancelled, DeviceError, TransferFailed
from app.placement import Slab
from app.residency.files import OpenFiles
from app.residency.jobs import Job
from app.residency.ledger import Ledger
from app.residency.residents import LiveSlab

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Transfer:
    """Stages, discards and reaps slabs: the one place where buffers are allocated, filled and released."""

    def __init__(self, devices: Mapping[str, Device], ledger: Ledger, threads: ThreadPoolExecutor) -> None:
        self._devices = devices
        self._ledger = ledger
        self._threads = threads

    async def stage(self, job: Job, files: OpenFiles, slabs: Sequence[Slab]) -> tuple[LiveSlab, ...]:
        """Allocate slabs, fill them and check them; devices work side by side. On any error nothing of it is left.

        Raises OutOfDeviceMemory, TransferFailed, another DeviceError, FileChanged or Cancelled.
        """
        job.enter("allocate")
        self._ledger.stage(job.model, slabs)
        staged: list[LiveSlab] = []
        try:
            for device, group in _by_device(slabs).items():
                job.check()
                staged += await self._run(_allocate, self._devices[device], group)
            job.enter("transfer")
            try:
                await self._fill(job, files, staged)
            except TransferFailed:
                await self._run(files.check)  # a file that was cut off is the cause, and not the device
                raise
            await self._run(files.check)
        except BaseException:
            await self._run(_release, staged)
            self._ledger.unstage(job.model, slabs)
            raise
        return tuple(staged)

    async def discard(self, model: str, staged: Sequence[LiveSlab]) -> None:
        """Free slabs that were staged and will not be used."""
        await self._run(_release, staged)
        self._ledger.unstage(model, [live.slab for live in staged])

    async def reap(self, model: str, drained: Sequence[LiveSlab]) -> None:
        """Free retired slabs that nobody holds any more."""
        await self._run(_release, drained)
        self._ledger.free(model, [live.slab for live in drained])

    async def _fill(self, job: Job, files: OpenFiles, staged: Sequence[LiveSlab]) -> None:
        """Copy the slabs' bytes, one thread per device; the first failure stops the others."""
        meters: list[Meter] = []
        copies: list[asyncio.Future[None]] = []
        for device in _by_device([live.slab for live in staged]):
            meters.append(job.meter())
            group = [live for live in staged if live.slab.device == device]
            copies.append(asyncio.ensure_future(self._run(_copy, self._devices[device], files, group, meters[-1])))
        if not copies:
            return
        done, _ = await asyncio.wait(copies, return_when=asyncio.FIRST_EXCEPTION)
        if any(copy.exception() for copy in done):
            for meter in meters:
                meter.cancel()
        await asyncio.wait(copies)
        job.forget(meters)
        failures = [failure for copy in copies if (failure := copy.exception())]
        if failures:  # those that were stopped on account of another are not the cause
            raise next((failure for failure in failures if not isinstance(failure, Cancelled)), failures[0])

    async def _run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*arguments, **named))


def _by_device(slabs: Sequence[Slab]) -> dict[str, list[Slab]]:
    groups: dict[str, list[Slab]] = {}
    for slab in slabs:
        groups.setdefault(slab.device, []).append(slab)
    return groups


def _allocate(device: Device, slabs: Sequence[Slab]) -> list[LiveSlab]:
    """A buffer for each slab, or none of them and the device's error. Blocks."""
    live: list[LiveSlab] = []
    try:
        for slab in slabs:
            buffer = device.allocate(slab.nbytes)
            live.append(LiveSlab(slab, buffer))
    except BaseException:
        _release(live)
        raise
    return live


def _copy(device: Device, files: OpenFiles, slabs: Sequence[LiveSlab], meter: Meter) -> None:
    """Fill each slab from the files, and check that the device has acknowledged every byte. Blocks."""
    for live in slabs:
        meter.check()
        before = meter.bytes_done
        for file, fd in enumerate(files.fds):
            segments = [
                Segment(part.tensor.offset + part.start, part.slab_offset, part.nbytes)
                for part in live.slab.slices
                if part.tensor.file == file and part.nbytes
            ]
            if segments:
                device.copy(fd, segments, live.buffer, meter)
        done, wanted = meter.bytes_done - before, live.slab.weights_bytes
        if done != wanted:
            raise TransferFailed(
                f"{device.id}: {done} of {wanted} bytes of layer {live.slab.layer} arrived",
                device=device.id,
                done_bytes=done,
                requested_bytes=wanted,
            )


def _release(slabs: Sequence[LiveSlab]) -> None:
    """Give every slab back; a device that refuses, for it is lost, must keep nobody else's. Blocks."""
    for live in slabs:
        try:
            live.buffer.release()
        except DeviceError:
            log.exception("layer %s could not be given back", live.slab.layer)
