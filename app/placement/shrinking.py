"""How a placement gives memory back without moving anything: fewer of its layers on devices, the others as they are."""

from collections.abc import Iterable
from dataclasses import replace

from app.placement.request import Strategy
from app.placement.slabs import HOST, Placement, Slab
from app.placement.strategies import offloaded_blocks


def is_shrinkable(placement: Placement) -> bool:
    """Whether layers can leave their devices by a release alone: not where the host keeps copies of its own."""
    return all(slab.device != HOST for slab in placement.slabs)


def shrunk(placement: Placement, n_gpu_layers: int) -> Placement:
    """The placement with `n_gpu_layers` layers on devices, no more than it has: those that its strategy would keep.

    Every slab of the result is one of the placement's.
    """
    blocks = sorted({slab.layer for slab in placement.slabs if isinstance(slab.layer, int)})
    if placement.strategy == Strategy.LLAMA_CPP:  # whose output counts first
        kept = blocks[len(blocks) - max(0, n_gpu_layers - 1) :]
    else:
        kept = [blocks[index] for index in offloaded_blocks(Strategy(placement.strategy), n_gpu_layers, len(blocks))]
    stay = {*kept, "input", "output"} if n_gpu_layers else set()
    slabs = tuple(slab for slab in placement.slabs if slab.layer in stay)
    return replace(placement, n_gpu_layers=n_gpu_layers, slabs=slabs)


def without(placement: Placement, device: str) -> Placement:
    """The placement after the loss of a device: what was there is the file's pages.

    So are the other rows of a matrix of which some were there: no tensor is left behind in part.
    """
    lost = [slab for slab in placement.slabs if slab.device == device]
    cut = {part.tensor.name for slab in lost for part in slab.own_slices if part.nbytes < part.tensor.nbytes}
    stay = tuple(
        slab
        for slab in placement.slabs
        if slab.device != device and cut.isdisjoint(part.tensor.name for part in slab.own_slices)
    )
    return replace(placement, n_gpu_layers=counted(placement.strategy, stay), slabs=stay) if lost else placement


def counted(strategy: str, slabs: Iterable[Slab]) -> int:
    """The n_gpu_layers that these slabs come to: llama.cpp counts the output among its layers, too."""
    uncounted = {"input"} if strategy == Strategy.LLAMA_CPP else {"input", "output"}
    return len({slab.layer for slab in slabs if slab.device != HOST} - uncounted)
