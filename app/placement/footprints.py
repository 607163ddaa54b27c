"""Footprints: what a layer puts on which device, given the device that it is assigned to. Sizes are in bytes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from functools import cache
from typing import NamedTuple

from app.model import Layer, LayerKey, Tensor
from app.placement.overrides import Overrides
from app.placement.rows import RowCut
from app.placement.slabs import HOST, Part, Slab, aligned, slab_with

_ALONG = ""
"""Stands for the device that a layer is assigned to."""


class Need(NamedTuple):
    """Of some tensors or rows: their own bytes, and those of the slab that holds them."""

    weights: int
    slab: int


class Footprint(NamedTuple):
    """What one layer needs: `along` of the device that it is assigned to, `fixed` of others whichever that is."""

    along: Need
    fixed: Mapping[str, Need]

    @property
    def fixed_slabs(self) -> int:
        """Slab bytes on those other devices, the host left out."""
        return sum(need.slab for holder, need in self.fixed.items() if holder != HOST)


class Footprints:
    """The layers' tensors by device: an override goes first, then a cut by rows, then the layer's own device."""

    def __init__(self, layers: Sequence[Layer], overrides: Overrides, cut: RowCut | None) -> None:
        self._tensors = {layer.key: layer.tensors for layer in layers}
        self._overridden = overrides.devices_of([tensor for layer in layers for tensor in layer.tensors])
        self._cut = cut
        self.networks = self._overridden_networks()
        """By block, the device that overrides give its feed-forward network, which is that of its largest tensor."""
        self.placed_apart = frozenset(
            key for key, tensors in self._tensors.items() if any(tensor.name in self._overridden for tensor in tensors)
        )
        """The layers of which single tensors are placed apart."""
        self.parts: Callable[[LayerKey, str], dict[str, tuple[Part, ...]]] = cache(self._parts)
        """By device, the parts of a layer that is assigned to `device`; every byte of the layer once."""
        self._measured: dict[object, Footprint] = {}
        self.away = {layer.key: self._footprint(layer.key, cut.devices[0] if cut else _ALONG) for layer in layers}
        """Of each layer that is assigned to a device, which for a cut is the first."""
        self.home = {layer.key: self._footprint(layer.key, HOST) for layer in layers} if cut else self.away
        """Of each layer that stays on the host; the host's slabs are what they would be if it had some."""

    def _parts(self, key: LayerKey, device: str) -> dict[str, tuple[Part, ...]]:
        found: dict[str, list[Part]] = {}
        for tensor in self._tensors.get(key, ()):
            home = self._overridden.get(tensor.name, device)
            if self._cut is not None and home != HOST and tensor.name not in self._overridden:
                for holder, part in self._cut.parts(tensor):
                    found.setdefault(holder, []).append(part)
            else:
                found.setdefault(home, []).append(Part(tensor, 0, tensor.nbytes))
        return {holder: tuple(parts) for holder, parts in found.items()}

    def _footprint(self, key: LayerKey, device: str) -> Footprint:
        """What the layer needs there; layers that are alike, as most blocks are, are measured once."""
        tensors = self._tensors[key]
        alike = (device, *((each.dimensions, each.nbytes, self._overridden.get(each.name)) for each in tensors))
        found = self._measured.get(alike)
        if found is None:
            found = self._measured[alike] = self._measure(key, device)
        return found

    def _measure(self, key: LayerKey, device: str) -> Footprint:
        needs = {
            holder: Need(sum(part.nbytes for part in parts), sum(aligned(part.nbytes) for part in parts))
            for holder, parts in self.parts(key, device).items()
        }
        return Footprint(needs.pop(device, Need(0, 0)), needs)

    def _overridden_networks(self) -> dict[LayerKey, str]:
        """Where overrides put the feed-forward networks of blocks: where they put the largest tensor."""
        networks = {}
        for key, tensors in self._tensors.items() if self._overridden else ():
            network = [tensor for tensor in tensors if ".ffn_" in tensor.name]
            largest = max(network, key=lambda tensor: tensor.nbytes, default=None)
            if largest and largest.name in self._overridden:
                networks[key] = self._overridden[largest.name]
        return networks

    def override_of(self, tensor: Tensor) -> str | None:
        """The device that an override gives the tensor."""
        return self._overridden.get(tensor.name)

    def with_experts_of(self, apart: "Footprints", n_blocks: int) -> "Footprints":
        """The first `n_blocks` blocks as in `apart`, all else as here: nothing has to be looked at again."""

        def of(key: LayerKey) -> Footprints:
            return apart if isinstance(key, int) and key < n_blocks else self

        mixed = copy(self)
        mixed.placed_apart = frozenset(key for key in self._tensors if key in of(key).placed_apart)
        mixed.networks = {key: of(key).networks[key] for key in self._tensors if key in of(key).networks}
        mixed.parts = lambda key, device: of(key).parts(key, device)
        mixed.away = {key: of(key).away[key] for key in self._tensors}
        mixed.home = {key: of(key).home[key] for key in self._tensors}
        return mixed

    def left_on_host(self, leaving: Collection[LayerKey], *, buffered: bool) -> int:
        """What is on the host when these layers leave it: its plain bytes, or the slabs of its copy."""
        nothing = Need(0, 0)
        left = 0
        for key in self.home:
            along, fixed = self.away[key] if key in leaving else self.home[key]
            for need in (fixed.get(HOST, nothing), nothing if key in leaving else along):
                left += need.slab if buffered else need.weights
        return left

    def slabs(self, key: LayerKey, device: str, *, buffered: bool) -> list[Slab]:
        """The slabs of a layer that is assigned to `device`; the host has some only where it keeps a copy."""
        return [
            slab
            for holder, parts in self.parts(key, device).items()
            if (holder != HOST or buffered) and (slab := slab_with(key, holder, parts)).nbytes
        ]
