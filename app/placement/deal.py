"""Which device each offloaded layer goes to, given those that stay where they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.model import Layer, LayerKey, Role
from app.placement.request import PlacementRequest, SplitMode
from app.placement.split import equally, in_proportion

Assignment = dict[LayerKey, str]
"""The device of each layer that is on one."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a model may take of a device, in bytes: all that others do not hold, its own present bytes included."""

    device: str
    available_bytes: int


def usable(budgets: Sequence[Budget], request: PlacementRequest, held: Mapping[str, int]) -> list[Budget]:
    """The budgets that the split may use: one in mode `none`, else all with a weight above 0.

    The one is the device that already holds most of what is to be offloaded (`held`, in bytes by device id); else the
    first where devices were named, or the one with the most room.
    """
    if request.split_mode is SplitMode.NONE and budgets:
        named = request.devices is not None
        return [max(budgets, key=lambda b: (held.get(b.device, 0), 0 if named else b.available_bytes))]
    if isinstance(request.split_weights, tuple):
        return [b for b, weight in zip(budgets, request.split_weights, strict=True) if weight > 0]
    return list(budgets)


def deal(
    layers: Sequence[Layer],
    budgets: Sequence[Budget],
    request: PlacementRequest,
    kept: Assignment,
    by_room: Callable[[], Assignment],
) -> Assignment:
    """A device for each of `layers` (input, blocks, output, in order): `kept` stay, the others are dealt out.

    `by_room` does that where the split goes by free bytes. `budgets` must not be empty unless `layers` is, and hold
    the devices of `kept`.
    """
    if not layers:
        return {}
    ids = [budget.device for budget in budgets]
    if request.split_mode is not SplitMode.LAYER:  # one device; of a cut by rows, which names all, the first
        return dict.fromkeys((layer.key for layer in layers), ids[0])
    if request.split_weights == "free":
        return {**kept, **by_room()}
    return _deal_by_count(layers, ids, request, kept)


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
    return {**dealt, **kept}
