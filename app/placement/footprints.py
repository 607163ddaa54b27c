"""Footprints: what a layer puts on which device, given the device that it is assigned to. Sizes are in bytes."""

from collections.abc import Sequence
from functools import cache

from app.model import Layer, LayerKey, Tensor
from app.placement.overrides import Overrides
from app.placement.rows import RowCut
from app.placement.slabs import HOST, Part, Slab, aligned, slab_with


class Footprints:
    """The layers' tensors by device: an override goes first, then a cut by rows, then the layer's own device."""

    def __init__(self, layers: Sequence[Layer], overrides: Overrides, cut: RowCut | None) -> None:
        self._layers = {layer.key: layer for layer in layers}
        self._overridden = {
            tensor.name: device
            for layer in (layers if overrides else ())
            for tensor in layer.tensors
            if (device := overrides.device_of(tensor.name))
        }
        self._cut = cut
        self.overrides = bool(self._overridden)
        self.parts = cache(self._parts)
        """By device, the parts of a layer that is assigned to `device`; every byte of the layer once."""

    def _parts(self, key: LayerKey, device: str) -> dict[str, tuple[Part, ...]]:
        found: dict[str, list[Part]] = {}
        for tensor in self._layers[key].tensors:
            home = self._overridden.get(tensor.name, device)
            if self._cut is not None and home != HOST and tensor.name not in self._overridden:
                for holder, part in self._cut.parts(tensor):
                    found.setdefault(holder, []).append(part)
            else:
                found.setdefault(home, []).append(Part(tensor, 0, tensor.nbytes))
        return {holder: tuple(parts) for holder, parts in found.items()}

    def override_of(self, tensor: Tensor) -> str | None:
        """The device that an override gives the tensor."""
        return self._overridden.get(tensor.name)

    def network_of(self, key: LayerKey, device: str) -> str:
        """Where the feed-forward network of a block on `device` is: where its largest tensor goes."""
        layer = self._layers.get(key)
        network = [tensor for tensor in layer.tensors if ".ffn_" in tensor.name] if layer else []
        if not network:
            return device
        return self._overridden.get(max(network, key=lambda tensor: tensor.nbytes).name, device)

    def slab_bytes(self, key: LayerKey, device: str) -> dict[str, int]:
        """By device, the sizes of the slabs; the host's is what it would be if it had one."""
        return {
            holder: sum(aligned(part.nbytes) for part in parts) for holder, parts in self.parts(key, device).items()
        }

    def weights_bytes(self, key: LayerKey, device: str) -> dict[str, int]:
        """By device, the tensors' own bytes."""
        return {holder: sum(part.nbytes for part in parts) for holder, parts in self.parts(key, device).items()}

    def slabs(self, key: LayerKey, device: str, *, buffered: bool) -> list[Slab]:
        """The slabs of a layer that is assigned to `device`; the host has some only where it keeps a copy."""
        return [
            slab
            for holder, parts in self.parts(key, device).items()
            if (holder != HOST or buffered) and (slab := slab_with(key, holder, parts)).nbytes
        ]
