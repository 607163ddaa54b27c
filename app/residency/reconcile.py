"""From a wish and what is loaded to what has to move. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

from app.model import Model, Tensor
from app.placement import (
    HOST,
    Budget,
    HostMode,
    Moves,
    Needs,
    Placement,
    PlacementRequest,
    Plan,
    fits,
    model_needs,
    moves,
    output_matrix,
    plan,
    slab_sums,
)
from app.residency.records import EvictionRecord
from app.residency.wishes import Wish


@dataclass(frozen=True, slots=True)
class Decision:
    """What should be where, and the moves that make it so; none where it is so already."""

    placement: Placement
    moves: Moves
    evictions: "tuple[Eviction, ...]" = ()
    """What other models give back before the moves begin."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """What an idle model gives back: some of its layers, or, where `decision` is None, all that it has."""

    model: str
    decision: Decision | None
    freed: Mapping[str, int]
    """Bytes by device id, the host included."""

    def record(self) -> EvictionRecord:
        """The same for whoever asks; devices that nothing is given back of are left out."""
        n_gpu_layers = self.decision.placement.n_gpu_layers if self.decision else None
        return EvictionRecord(
            self.model, n_gpu_layers, {device: nbytes for device, nbytes in self.freed.items() if nbytes}
        )


def propose(
    model: Model,
    request: PlacementRequest,
    current: Placement | None,
    room: Mapping[str, int],
    *,
    table: bool = False,
) -> Plan:
    """Plan where a model's layers go, beside where they are (`current`), copying as little as possible.

    `room` is what the model may hold of each device and of the host ("cpu"), in bytes, in the order of the devices.
    Raises InvalidValue for what cannot be asked of this model; a plan that does not fit is returned.
    """
    subject = _subject(model, request, room)
    return plan(model.layers, _budgets(request, room), request, current=current, table=table, **subject)


def would_fit(model: Model, request: PlacementRequest, current: Placement | None, room: Mapping[str, int]) -> bool:
    """Whether what `propose` would plan fits: the same answer, much sooner. Raises InvalidValue where that does."""
    subject = _subject(model, request, room)
    return fits(model.layers, _budgets(request, room), request, current=current, **subject)


class _Subject(TypedDict):
    """What the planner asks of a model beside its layers, by the names that it has there."""

    host_bytes: int
    needs: Needs | None
    output: Tensor | None
    expert_share: float


def _subject(model: Model, request: PlacementRequest, room: Mapping[str, int]) -> _Subject:
    return _Subject(
        host_bytes=room[HOST],
        needs=model_needs(model, model.caches, request.context) if request.context else None,
        output=output_matrix(model),
        expert_share=_expert_share(model),
    )


def _budgets(request: PlacementRequest, room: Mapping[str, int]) -> list[Budget]:
    """Those of the devices that the request allows, in its order."""
    allowed = request.devices if request.devices is not None else [device for device in room if device != HOST]
    return [Budget(device, room[device]) for device in allowed]


def reconcile(current: Placement | None, wanted: Placement, room: Mapping[str, int]) -> Decision:
    """How to get from one placement to the other; both fit in `room`."""
    return Decision(wanted, moves(current.slabs if current else (), wanted.slabs, room))


def _expert_share(model: Model) -> float:
    """The part of the experts that one token uses."""
    hyperparameters = model.hyperparameters
    if not hyperparameters.n_expert or not hyperparameters.n_expert_used:
        return 1.0
    return max(hyperparameters.n_expert_used) / hyperparameters.n_expert


def restored(model: Model, wish: Wish, room: Mapping[str, int]) -> Placement | None:
    """The very placement that a wish remembers, or None where this model or these devices cannot have it any more."""
    placement = wish.placement.in_model(model) if wish.placement else None
    if placement is None or any(nbytes > room.get(device, 0) for device, nbytes in slab_sums(placement.slabs).items()):
        return None
    return placement


def host_ranges(model: Model, placement: Placement) -> list[tuple[int, int, int]]:
    """The parts of the files that no slab holds, as (file, offset, nbytes): what the host tier is made of."""
    held: Counter[str] = Counter()
    for slab in placement.slabs:
        for part in slab.own_slices:
            held[part.tensor.name] += part.nbytes
    # A tensor is held whole, by one slab or by several, or not at all: nothing leaves some of its rows behind.
    return [
        (tensor.file, tensor.offset, tensor.nbytes) for tensor in model.tensors if held[tensor.name] < tensor.nbytes
    ]


def is_so(decision: Decision, here: Placement, host: HostMode, request: PlacementRequest) -> bool:
    """Whether nothing has to change: no slab, not what the placement is called, not how the host's part is kept."""
    wanted = decision.placement
    return (
        not (decision.moves.steps or decision.evictions)
        and replace(here, slabs=wanted.slabs) == wanted
        and host is request.host
    )
