"""Which device each offloaded layer goes to, given those that stay where they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.model import Layer, LayerKey, Role
from app.placement.request import PlacementRequest, SplitMode
from app.placement.slabs import slab_bytes
from app.placement.split import equally, fill_evenly, in_proportion

Assignment = dict[LayerKey, str]
"""The device of each layer that is on one."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a model may take of a device, in bytes: all that others do not hold, its own present bytes included."""

    device: str
    available_bytes: int


def usable(budgets: Sequence[Budget], request: PlacementRequest) -> list[Budget]:
    """The budgets that the split may use: one in mode `none`, else all with a weight above 0."""
    if request.split_mode is SplitMode.NONE and budgets:
        return [budgets[0] if request.devices else max(budgets, key=lambda budget: budget.available_bytes)]
    if isinstance(request.split_weights, tuple):
        return [b for b, weight in zip(budgets, request.split_weights, strict=True) if weight > 0]
    return list(budgets)


def deal(
    layers: Sequence[Layer], budgets: Sequence[Budget], request: PlacementRequest, kept: Mapping[LayerKey, str]
) -> Assignment:
    """A device for each of `layers` (input, blocks, output, in order): `kept` stay, the others are dealt out.

    `budgets` must not be empty unless `layers` is.
    """
    if not layers:
        return {}
    ids = [budget.device for budget in budgets]
    new = [layer for layer in layers if layer.key not in kept]
    if request.split_mode is SplitMode.NONE:
        dealt = {layer.key: ids[0] for layer in new}
    elif request.split_weights == "free":
        used = [sum(slab_bytes(layer) for layer in layers if kept.get(layer.key) == id_) for id_ in ids]
        rooms = [budget.available_bytes for budget in budgets]
        chosen = fill_evenly([slab_bytes(layer) for layer in new], rooms, used)
        dealt = {layer.key: ids[index] for layer, index in zip(new, chosen, strict=True)}
    else:
        dealt = _deal_by_count(layers, ids, request, kept)
    return {layer.key: kept.get(layer.key) or dealt[layer.key] for layer in layers}


def _deal_by_count(
    layers: Sequence[Layer], ids: Sequence[str], request: PlacementRequest, kept: Mapping[LayerKey, str]
) -> Assignment:
    blocks = [layer.key for layer in layers if layer.role is Role.BLOCK]
    weights = request.split_weights
    if isinstance(weights, tuple):
        each = in_proportion(len(blocks), [weight for weight in weights if weight > 0])
    else:
        each = equally(len(blocks), len(ids))
    wanted = dict(zip(ids, each, strict=True))
    for key in blocks:
        if key in kept:
            wanted[kept[key]] -= 1
    free_places = [id_ for id_ in ids for _ in range(max(0, wanted[id_]))]
    new = [key for key in blocks if key not in kept]
    dealt: Assignment = dict(zip(new, free_places, strict=False))
    used = {kept.get(key) or dealt[key] for key in blocks}
    in_use = [id_ for id_ in ids if id_ in used]
    for layer in layers:  # the input goes to the first device used, the output to the last
        if layer.role is not Role.BLOCK and layer.key not in kept:
            dealt[layer.key] = in_use[0] if layer.role is Role.INPUT else in_use[-1]
    return dealt
