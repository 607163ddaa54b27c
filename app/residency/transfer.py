"""Carries out one step of moves: copy, check, switch, release. A failure at any point leaves things as they were.

Blocking work runs in threads of its own pool, so that slow copies never keep a look at the memory waiting; the ledger
is touched on the event loop only. Buffers are released there too, by threads that copy nothing meanwhile: to free one
of a GPU waits for all that this process has asked of it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from app.devices import Device, Meter
from app.devices.host import host_memory
from app.errors import Cancelled, DeviceError, TransferFailed
from app.placement import HOST, Slab
from app.residency.copying import READERS, copy_portions, portions
from app.residency.files import OpenFiles
from app.residency.jobs import Job
from app.residency.ledger import Ledger
from app.residency.residents import LiveSlab

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", Slab, LiveSlab)


class Transfer:
    """Stages, discards and reaps slabs: the one place where buffers are allocated, filled and released."""

    def __init__(
        self,
        devices: Mapping[str, Device],
        ledger: Ledger,
        threads: ThreadPoolExecutor,
        prefetch_threads: ThreadPoolExecutor,
    ) -> None:
        self._devices = devices
        self._ledger = ledger
        self._threads = threads
        self._prefetch_threads = prefetch_threads

    async def stage(self, job: Job, files: OpenFiles, slabs: Sequence[Slab]) -> tuple[LiveSlab, ...]:
        """Allocate slabs, fill them and check them; devices work side by side. On any error nothing of it is left.

        Raises OutOfDeviceMemory, TransferFailed, another DeviceError, FileChanged or Cancelled.
        """
        job.enter("allocate")
        self._ledger.stage(job.model, slabs)
        staged: list[LiveSlab] = []
        try:
            staged += await self._allocate(slabs)
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

    async def lock(self, files: OpenFiles, ranges: Sequence[tuple[int, int, int]]) -> None:
        """Lock exactly these parts of the files in memory, which may be as slow as the disk; HostError."""
        await self._run(files.lock, ranges)

    def prefetch(self, files: OpenFiles, ranges: Sequence[tuple[int, int, int]]) -> None:
        """Have parts of the files read into the page cache, in the background and as far as there is room for them.

        In threads that do nothing else: many models on a slow disk would take all of those that copy.
        """
        self._prefetch_threads.submit(files.prefetch, ranges)

    async def discard(self, model: str, staged: Sequence[LiveSlab]) -> None:
        """Free slabs that were staged and will not be used."""
        await self._run(_release, staged)
        self._ledger.unstage(model, [live.slab for live in staged])

    async def reap(self, model: str, drained: Sequence[LiveSlab]) -> None:
        """Free retired slabs that nobody holds any more."""
        await self._run(_release, drained)
        self._ledger.free(model, [live.slab for live in drained])

    async def _allocate(self, slabs: Sequence[Slab]) -> list[LiveSlab]:
        """A buffer for each slab, devices side by side; on any error nothing of it is left."""
        groups = _by_device(slabs).items()
        allocating = (self._run(_allocate, self._devices[device], group) for device, group in groups)
        done = await asyncio.gather(*allocating, return_exceptions=True)
        live = [one for group in done if not isinstance(group, BaseException) for one in group]
        for failure in done:
            if isinstance(failure, BaseException):
                await self._run(_release, live)
                raise failure
        return live

    async def _fill(self, job: Job, files: OpenFiles, staged: Sequence[LiveSlab]) -> None:
        """Copy the slabs' bytes, devices side by side, with several readers for each; the first failure stops all."""
        groups = _by_device(staged)
        in_passing = files.size_bytes > min(self._ledger.room(HOST, job.model), await self._run(_available_bytes))
        meters: list[Meter] = []
        readers: list[asyncio.Future[None]] = []
        for device, group in groups.items():
            waiting = deque(portions(group))
            for _ in range(min(len(waiting), max(1, READERS // len(groups)))):
                meters.append(job.meter())
                device_copy = partial(copy_portions, self._devices[device], files, waiting, meters[-1])
                readers.append(asyncio.ensure_future(self._run(device_copy, in_passing=in_passing)))
        if not readers:
            return
        done, _ = await asyncio.wait(readers, return_when=asyncio.FIRST_EXCEPTION)
        if any(reader.exception() for reader in done):
            for meter in meters:
                meter.cancel()
        await asyncio.wait(readers)
        job.forget(meters)
        failures = [failure for reader in readers if (failure := reader.exception())]
        job.require_possible()
        if failures:  # those that were stopped on account of another are not the cause
            raise next((failure for failure in failures if not isinstance(failure, Cancelled)), failures[0])

    async def _run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*arguments, **named))


def _by_device(slabs: Sequence[S]) -> dict[str, list[S]]:
    groups: dict[str, list[S]] = {}
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


def _available_bytes() -> int:
    """What the page cache may come to be, at the cost of what it has. Blocks."""
    return host_memory().available_bytes


def _release(slabs: Sequence[LiveSlab]) -> None:
    """Give every slab back; a device that refuses, for it is lost, must keep nobody else's. Blocks."""
    for live in slabs:
        try:
            live.buffer.release()
        except DeviceError:
            log.exception("layer %s could not be given back", live.slab.layer)
