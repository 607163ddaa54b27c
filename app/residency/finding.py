"""Finding a place: the slow part of a decision, from values to values, so that it may be done on a thread."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.model import Model
from app.placement import HOST, HostMode, Placement, PlacementRequest, Plan
from app.residency.eviction import Freed, Offer, fewest, sums
from app.residency.reconcile import propose, would_fit


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a model would go: the plan, and the levels at which idle models would have to make room for it, by id.

    `room` is what there is then, in bytes by device id. Where not even all of them are enough the plan does not fit.
    """

    plan: Plan
    levels: Mapping[str, int]
    room: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Case:
    """All that a place is found by, as it was at one moment."""

    model: Model
    request: PlacementRequest
    here: Placement | None
    """Where the model is, and may stay."""
    room: Mapping[str, int]
    offers: tuple[Offer, ...]
    """What idle models could give back, the least recently used first."""

    def is_like(self, other: "Case") -> bool:
        """Whether the same place would be found: what the host has free matters only where it keeps something."""
        left_out = HOST if self.request.host is HostMode.MMAP else None
        rooms = [{id_: n for id_, n in case.room.items() if id_ != left_out} for case in (self, other)]
        offers = [[(offer.model, offer.generation, offer.levels) for offer in case.offers] for case in (self, other)]
        return (
            self.model is other.model
            and self.here is other.here
            and self.request == other.request
            and rooms[0] == rooms[1]
            and offers[0] == offers[1]
        )

    def find(self) -> Finding:
        """Plan, and where that does not fit see who has to make room. Pure; InvalidValue as `propose`."""
        plan = self._planned(self.room)
        if plan.fits or not self.offers:
            return Finding(plan, {}, self.room)
        levels = fewest(self.offers, self._is_enough)
        if levels is None:
            return Finding(plan, {}, self.room)
        room = self._with(sums(offer.freed(levels.get(offer.model, 0)) for offer in self.offers))
        return Finding(self._planned(room), levels, room)

    def _is_enough(self, freed: Freed) -> bool:
        return would_fit(self.model, self.request, self.here, self._with(freed))

    def _planned(self, room: Mapping[str, int]) -> Plan:
        return propose(self.model, self.request, self.here, room)

    def _with(self, freed: Freed) -> dict[str, int]:
        return {device: nbytes + freed.get(device, 0) for device, nbytes in self.room.items()}
