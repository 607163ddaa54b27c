"""Layers: a model's tensors grouped into the units that are placed and moved. Sizes are in bytes.

Which tensor is where in the model follows the table LLM_TENSOR_INFOS of llama.cpp's llama-arch.cpp.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

LayerKey = int | Literal["input", "output"]
"""A block's number, or the name of what stands before or after the blocks."""


class Role(StrEnum):
    """Where in the model a layer stands."""

    INPUT = "input"
    BLOCK = "block"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor and where its bytes are."""

    name: str
    type: str
    """As ggml names it, in upper case: `Q4_K`."""
    dimensions: tuple[int, ...]
    """In GGUF order, fastest first."""
    parameters: int
    nbytes: int
    file: int
    """Which shard holds it, counted from 0."""
    offset: int
    """In bytes from the start of that shard."""
    layer: LayerKey


@dataclass(frozen=True, slots=True)
class Layer:
    """The tensors of one block, or of what stands before or after the blocks; in file order."""

    key: LayerKey
    role: Role
    tensors: tuple[Tensor, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of tensor data, without the padding between tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """How many weights the layer holds."""
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def types(self) -> tuple[str, ...]:
        """The tensor types in it, the one with the most bytes first."""
        nbytes: defaultdict[str, int] = defaultdict(int)
        for tensor in self.tensors:
            nbytes[tensor.type] += tensor.nbytes
        return tuple(sorted(nbytes, key=lambda name: (-nbytes[name], name)))


# An encoder-decoder model has two stacks, and block N of both is layer N. A name can be any text.
_BLOCK: Final = re.compile(r"(?:enc\.|dec\.)?blk\.([0-9]{1,9})\.")

_PARTS: Final = (".weight", ".bias", ".scale", ".input_scale")

_OUTPUT: Final = frozenset({
    "output", "output_norm", "enc.output_norm", "dec.output_norm",
    "output_hc_fn", "output_hc_base", "output_hc_scale",
    "cls", "cls.output", "cls.norm", "dense_2", "dense_3", "fc", "d2t",
    "altup_proj", "altup_unembd_proj", "nextn.post_projection",
})  # fmt: skip

_OUTPUT_OF_ARCHITECTURE: Final = frozenset({("lfm2", "token_embd_norm"), ("lfm2moe", "token_embd_norm")})
"""LFM2 gave its final norm the name that others use for the norm of the embedding."""


def layer_of(name: str, architecture: str = "") -> LayerKey:
    """Find the layer of a tensor: what is neither a block's nor the output's stands before the blocks."""
    if block := _BLOCK.match(name):
        return int(block[1])
    base = next((name.removesuffix(part) for part in _PARTS if name.endswith(part)), name)
    return "output" if base in _OUTPUT or (architecture, base) in _OUTPUT_OF_ARCHITECTURE else "input"


def group(tensors: Iterable[Tensor]) -> tuple[Layer, ...]:
    """Group by layer, in the order of the model. A layer without tensors does not exist."""
    members: defaultdict[LayerKey, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        members[tensor.layer].append(tensor)
    return tuple(Layer(key, _role(key), tuple(members[key])) for key in sorted(members, key=_position))


def _role(key: LayerKey) -> Role:
    return Role.BLOCK if isinstance(key, int) else Role(key)


def _position(key: LayerKey) -> tuple[int, int]:
    return (1, key) if isinstance(key, int) else (0 if key == "input" else 2, 0)
