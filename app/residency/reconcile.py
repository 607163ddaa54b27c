"""From a wish and what is loaded to what has to move. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.model import Layer, Model, Role
from app.placement import (
    HOST,
    Budget,
    HostMode,
    Moves,
    Placement,
    PlacementRequest,
    Plan,
    moves,
    plan,
    slab_of,
    slab_sums,
)
from app.residency.wishes import Wish


@dataclass(frozen=True, slots=True)
class Decision:
    """What should be where, and the moves that make it so; none where it is so already."""

    plan: Plan
    moves: Moves


def reconcile(
    layers: Sequence[Layer],
    request: PlacementRequest,
    current: Placement | None,
    room: Mapping[str, int],
    *,
    rebalance: bool = False,
) -> Decision:
    """Decide where `layers` go, copying as little as possible unless `rebalance`, and how they get there.

    `room` is what the model may hold of each device and of the host ("cpu"), in bytes, in the order of the devices.
    Raises InvalidValue for what cannot be asked of this model; a plan that does not fit is returned, with no moves.
    """
    allowed = request.devices if request.devices is not None else [device for device in room if device != HOST]
    budgets = [Budget(device, room[device]) for device in allowed]
    decided = plan(layers, budgets, request, host_bytes=room[HOST], current=None if rebalance else current)
    if not decided.fits:
        return Decision(decided, moves((), (), room))
    here = current.slabs if current else ()
    return Decision(decided, moves(here, decided.placement.slabs, room))


def restored(model: Model, wish: Wish, room: Mapping[str, int]) -> Placement | None:
    """The very placement that a wish remembers, or None where this model or these devices cannot have it any more."""
    layers = {layer.key: layer for layer in model.layers}
    remembered = wish.devices
    if remembered is None or any(key not in layers or device not in room for key, device in remembered):
        return None
    slabs = tuple(slab_of(layers[key], device) for key, device in remembered)
    if any(nbytes > room[device] for device, nbytes in slab_sums(slabs).items()):
        return None
    on_devices = {slab.layer for slab in slabs if slab.device != HOST}
    n_gpu_layers = sum(layers[key].role is Role.BLOCK for key in on_devices)
    return Placement(wish.request.strategy, n_gpu_layers, slabs)


def host_ranges(model: Model, placement: Placement) -> list[tuple[int, int, int]]:
    """The parts of the files that no slab holds, as (file, offset, nbytes): what the host tier is made of."""
    held = {
        (part.tensor.name, part.start, part.nbytes) for slab in placement.slabs for part in slab.slices
    }  # a tensor is held whole or not at all, as long as no strategy cuts one
    return [
        (tensor.file, tensor.offset, tensor.nbytes)
        for tensor in model.tensors
        if tensor.nbytes and (tensor.name, 0, tensor.nbytes) not in held
    ]


def is_so(decision: Decision, host: HostMode | None, request: PlacementRequest) -> bool:
    """Whether nothing has to change: no slab moves, and the host tier is kept as it should be."""
    return not decision.moves.steps and host is request.host
