"""A placement as it is remembered over a restart: which bytes of which tensors are where, by name. Sizes in bytes."""

from dataclasses import dataclass
from typing import Any, Self

from app.model import LayerKey, Model
from app.placement import Part, Placement, slab_with


@dataclass(frozen=True, slots=True)
class RememberedPart:
    """A run of a tensor's bytes, and how large the whole tensor was: another file has others."""

    tensor: str
    start: int
    nbytes: int
    tensor_bytes: int


@dataclass(frozen=True, slots=True)
class RememberedSlab:
    """What one slab held, in its order."""

    layer: LayerKey
    device: str
    parts: tuple[RememberedPart, ...]


@dataclass(frozen=True, slots=True)
class RememberedPlacement:
    """A placement, whoever chose it and however: to put it back, nothing has to be planned."""

    strategy: str
    n_gpu_layers: int
    n_cpu_moe: int
    slabs: tuple[RememberedSlab, ...]

    @classmethod
    def of(cls, placement: Placement) -> Self:
        """Remember a placement."""
        slabs = (
            RememberedSlab(
                slab.layer,
                slab.device,
                tuple(
                    RememberedPart(part.tensor.name, part.start, part.nbytes, part.tensor.nbytes)
                    for part in slab.slices
                ),
            )
            for slab in placement.slabs
        )
        return cls(placement.strategy, placement.n_gpu_layers, placement.n_cpu_moe, tuple(slabs))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The placement of what `dataclasses.asdict` made of one; ValueError, TypeError or KeyError else."""
        slabs = (
            RememberedSlab(slab["layer"], slab["device"], tuple(RememberedPart(**part) for part in slab["parts"]))
            for slab in data["slabs"]
        )
        found = cls(data["strategy"], data["n_gpu_layers"], data["n_cpu_moe"], tuple(slabs))
        if not found._is_sound():
            raise ValueError("a placement that nothing can have had")
        return found

    def in_model(self, model: Model) -> Placement | None:
        """The placement of this model, or None where these are no tensors of its own."""
        known = model.tensors_by_name
        layers = {layer.key for layer in model.layers}
        for slab in self.slabs:
            if slab.layer not in layers and slab.layer != "output":  # which may hold nothing but a tied copy
                return None
            for part in slab.parts:
                tensor = known.get(part.tensor)
                if tensor is None or tensor.nbytes != part.tensor_bytes:
                    return None
        slabs = (
            slab_with(slab.layer, slab.device, (Part(known[p.tensor], p.start, p.nbytes) for p in slab.parts))
            for slab in self.slabs
        )
        return Placement(self.strategy, self.n_gpu_layers, tuple(slabs), self.n_cpu_moe)

    def _is_sound(self) -> bool:
        numbers = [self.n_gpu_layers, self.n_cpu_moe]
        for slab in self.slabs:
            if not isinstance(slab.layer, int | str) or not isinstance(slab.device, str):
                return False
            for part in slab.parts:
                numbers += [part.start, part.nbytes, part.tensor_bytes - part.start - part.nbytes]
        texts = [self.strategy, *(part.tensor for slab in self.slabs for part in slab.parts)]
        return all(type(n) is int and n >= 0 for n in numbers) and all(isinstance(text, str) for text in texts)
