"""Lost devices: taken out in one step once they are found to be lost; the service goes on with the others and the host.

Whoever calls a lost device is refused by it; what else has to happen happens here, on the event loop, before anybody
there hears of that refusal.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from app.devices import Device
from app.residency.changes import Changes
from app.residency.jobs import Jobs
from app.residency.ledger import Ledger
from app.residency.residents import Resident

log = logging.getLogger(__name__)


class Losses:
    """Watches the devices. `memory_changed` is called when one was taken out."""

    def __init__(
        self,
        devices: Mapping[str, Device],
        residents: Mapping[str, Resident],
        jobs: Jobs,
        ledger: Ledger,
        changes: Changes,
        memory_changed: Callable[[], None],
    ) -> None:
        self._devices = devices
        self._residents = residents
        self._jobs = jobs
        self._ledger = ledger
        self._changes = changes
        self._memory_changed = memory_changed

    def watch(self) -> None:
        """From now on, take out every device that is found to be lost, or is so already."""
        loop = asyncio.get_running_loop()
        for device in self._devices.values():
            # It is put before whatever the finder's thread tells the loop next.
            device.loss.watch(partial(loop.call_soon_threadsafe, self._take_out, device))

    def _take_out(self, device: Device) -> None:
        """Leave nothing on the device and nobody on the way to it. Wishes stay: the next process may have it again."""
        self._ledger.lose(device.id)
        gone = {model: self._changes.fall_back(resident, device.id) for model, resident in self._residents.items()}
        failed: list[str] = []
        for job in self._jobs.running():
            slabs = job.target.slabs if job.target else ()
            if any(slab.device == device.id or slab in gone.get(job.model, ()) for slab in slabs):
                job.fail(device.loss.error())
                failed.append(job.id)
        fell_back = sorted(model for model, slabs in gone.items() if slabs)
        facts = {"event": "device_lost", "device": device.id, "models": fell_back, "jobs": failed}
        log.error("%s; what was there falls back to the host", device.loss.error(), extra={"facts": facts})
        self._memory_changed()
