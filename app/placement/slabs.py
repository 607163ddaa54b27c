"""What a placement is: the slabs that hold it. Everything that no slab holds is the file's pages on the host.

A *slab* is the one allocation of a layer on a device: the layer's tensors one after the other, each at a multiple of
256 bytes (what CUDA's copy and texture units want, and more than ggml's 128), the whole rounded up to 256. All sizes
and offsets are in bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from app.model import Layer, LayerKey, Tensor

ALIGNMENT = 256
HOST = "cpu"


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to the next multiple of ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of one tensor's bytes (`start` … `start + nbytes`) at `slab_offset` of a slab."""

    tensor: Tensor
    start: int
    nbytes: int
    slab_offset: int


@dataclass(frozen=True, slots=True)
class Slab:
    """What one allocation holds, or is to hold. Two slabs that are equal hold the same bytes in the same place."""

    layer: LayerKey
    device: str
    nbytes: int
    slices: tuple[Slice, ...]

    @property
    def weights_bytes(self) -> int:
        """The tensors' own bytes; `nbytes` less this is padding."""
        return sum(part.nbytes for part in self.slices)

    @property
    def own_slices(self) -> tuple[Slice, ...]:
        """The slices of the layer's own tensors; the output's may hold a copy of a tied embedding beside them."""
        return tuple(part for part in self.slices if part.tensor.layer == self.layer)

    @property
    def own_bytes(self) -> int:
        """The bytes of the layer's own tensors, each of which counts once in a model."""
        return sum(part.nbytes for part in self.own_slices)


def slab_bytes(layer: Layer) -> int:
    """The size of the slab that holds the whole layer."""
    return sum(aligned(tensor.nbytes) for tensor in layer.tensors)


@dataclass(frozen=True, slots=True)
class Part:
    """A run of one tensor's bytes: `start` … `start + nbytes`."""

    tensor: Tensor
    start: int
    nbytes: int


def slab_with(layer: LayerKey, device: str, parts: Iterable[Part]) -> Slab:
    """The slab that holds these parts of a layer on `device`, one after the other."""
    slices = []
    offset = 0
    for part in parts:
        slices.append(Slice(part.tensor, part.start, part.nbytes, offset))
        offset += aligned(part.nbytes)
    return Slab(layer, device, offset, tuple(slices))


def slab_of(layer: Layer, device: str) -> Slab:
    """The slab that holds the whole layer on `device`."""
    return slab_with(layer.key, device, (Part(tensor, 0, tensor.nbytes) for tensor in layer.tensors))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model's layers are. The host holds, as the file's pages, whatever no slab holds."""

    strategy: str
    n_gpu_layers: int
    slabs: tuple[Slab, ...]
    n_cpu_moe: int = 0
    """The experts of so many blocks were kept on the host, as was asked for or as `auto` chose."""

    def tensor_devices(self, tensor: Tensor) -> dict[str, int]:
        """Bytes of the tensor by device id, the host included; they add up to the tensor's size."""
        held: dict[str, int] = {}
        for slab in self.slabs:
            if slab.layer == tensor.layer:
                for part in slab.own_slices:
                    if part.tensor.name == tensor.name:
                        held[slab.device] = held.get(slab.device, 0) + part.nbytes
        return _with_host(held, tensor.nbytes)

    def layer_devices(self, layer: Layer) -> dict[str, int]:
        """Tensor bytes of the layer by device id, the host included; they add up to the layer's size."""
        held: dict[str, int] = {}
        for slab in self.slabs:
            if slab.layer == layer.key:
                held[slab.device] = held.get(slab.device, 0) + slab.own_bytes
        return _with_host(held, layer.size_bytes)

    def device_bytes(self, total_bytes: int) -> dict[str, int]:
        """Tensor bytes of the model by device id, the host always among them.

        They add up to `total_bytes`, and the copy of a tied embedding where the output's device has one.
        """
        held = {HOST: total_bytes - sum(slab.own_bytes for slab in self.slabs)}
        for slab in self.slabs:
            held[slab.device] = held.get(slab.device, 0) + slab.weights_bytes
        return held


def _with_host(held: dict[str, int], total_bytes: int) -> dict[str, int]:
    rest = total_bytes - sum(held.values())
    if rest or not held:
        held[HOST] = held.get(HOST, 0) + rest
    return held


def slab_sums(slabs: Iterable[Slab]) -> dict[str, int]:
    """Slab bytes by device id."""
    sums: dict[str, int] = {}
    for slab in slabs:
        sums[slab.device] = sums.get(slab.device, 0) + slab.nbytes
    return sums
