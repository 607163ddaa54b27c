"""The models that are loaded beside another: what they could give back to it, and why some do not."""

from collections.abc import Mapping
from functools import cache

from app.placement import HOST, is_shrinkable, shrunk, slab_sums
from app.residency.eviction import Evict, Freed, Offer
from app.residency.jobs import Jobs
from app.residency.ledger import Ledger
from app.residency.reconcile import Eviction, reconcile
from app.residency.residents import Resident
from app.residency.wishes import Wishes


class Neighbours:
    """Looks at residents, their jobs and their wishes; changes nothing."""

    def __init__(self, residents: Mapping[str, Resident], jobs: Jobs, ledger: Ledger, wishes: Wishes) -> None:
        self._residents = residents
        self._jobs = jobs
        self._ledger = ledger
        self._wishes = wishes

    def offers(self, model: str, evict: Evict) -> list[Offer]:
        """What every idle model beside this one could give back, the least recently used first."""
        if evict is Evict.NONE:
            return []
        idle = [
            resident
            for id_, resident in self._residents.items()
            if id_ != model and not self.in_use(id_) and not self._wishes.retention(id_).pinned
        ]
        offered = [self._offer(resident, evict) for resident in sorted(idle, key=lambda resident: resident.used_at)]
        return [offer for offer in offered if offer.levels]

    def eviction(self, model: str, evict: Evict, level: int) -> Eviction:
        """How a model gives back what it offered at a level."""
        resident = self._residents[model]
        freed = self._offer(resident, evict).freed(level)
        if evict is Evict.MODELS:
            return Eviction(model, None, freed)
        here = resident.current.placement
        return Eviction(model, reconcile(here, shrunk(here, here.n_gpu_layers - level), {}), freed)

    def on(self, device: str, beside: str) -> dict[str, list[str]]:
        """The ids of the other models that hold some of a device: pinned ones, those in use, and idle ones."""
        found: dict[str, list[str]] = {"pinned": [], "in_use": [], "idle": []}
        for id_, resident in self._residents.items():
            if id_ != beside and self._whole(resident)[device]:
                kept = "pinned" if self._wishes.retention(id_).pinned else "in_use" if self.in_use(id_) else "idle"
                found[kept].append(id_)
        return found

    def in_use(self, model: str) -> bool:
        """Whether a loaded model is held, or changes."""
        return self._residents[model].held or self._jobs.active(model) is not None

    def _offer(self, resident: Resident, evict: Evict) -> Offer:
        id_, number, whole = resident.entry.id, resident.current.number, self._whole(resident)
        if evict is Evict.MODELS:
            return Offer(id_, number, int(any(whole.values())), lambda level: whole if level else {})
        here = resident.current.placement

        @cache
        def freed(level: int) -> Freed:
            stays = set(shrunk(here, here.n_gpu_layers - level).slabs)
            return slab_sums(slab for slab in here.slabs if slab not in stays)

        return Offer(id_, number, here.n_gpu_layers if self._shrinks(resident) else 0, freed)

    def _shrinks(self, resident: Resident) -> bool:
        """Overrides say where tensors are whatever n is, so that taking layers off would not be what was asked for."""
        wish = self._wishes.current.get(resident.entry.id)
        if wish is None or any(override.device != HOST for override in wish.request.overrides):
            return False
        return is_shrinkable(resident.current.placement)

    def _whole(self, resident: Resident) -> dict[str, int]:
        """All that the model holds, by device; of the host what it keeps from others, and not the file's pages."""
        held = {device: self._ledger.held(device, resident.entry.id) for device in self._ledger.devices}
        held[HOST] += resident.files.locked_bytes
        return held
