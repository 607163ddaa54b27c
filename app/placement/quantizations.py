"""How large a model would be in another quantisation: an estimate from its own tensor shapes. Sizes are in bytes.

Which tensors get more bits in a mix, and which type stands in where blocks do not divide a row, follows llama.cpp's
llama-quant.cpp; its finer rules for single architectures are left out: a real file may differ by a few per cent.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final

from app.gguf import GGMLType, tensor_bytes
from app.gguf.types import block_size
from app.model import Layer, Role, Tensor
from app.placement.plan import Advice
from app.sizes import size


class _Kind(StrEnum):
    """What a quantisation does with a tensor."""

    KEPT = "kept"
    BASE = "base"
    MORE = "more"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Quantization:
    """One of the common ones: most matrices in `base`, the sensitive ones in `more`, the output in `output`."""

    name: str
    base: GGMLType
    more: GGMLType
    output: GGMLType

    def type_of(self, kind: _Kind, dimensions: tuple[int, ...]) -> GGMLType:
        """The type of a matrix of this kind; it must not be one that is kept."""
        wanted = {_Kind.BASE: self.base, _Kind.MORE: self.more, _Kind.OUTPUT: self.output}[kind]
        return _divided(wanted, dimensions[0])


QUANTIZATIONS: Final = (
    Quantization("F16", GGMLType.F16, GGMLType.F16, GGMLType.F16),
    Quantization("Q8_0", GGMLType.Q8_0, GGMLType.Q8_0, GGMLType.Q8_0),
    Quantization("Q6_K", GGMLType.Q6_K, GGMLType.Q6_K, GGMLType.Q6_K),
    Quantization("Q5_K_M", GGMLType.Q5_K, GGMLType.Q6_K, GGMLType.Q6_K),
    Quantization("Q4_K_M", GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.Q6_K),
    Quantization("Q4_0", GGMLType.Q4_0, GGMLType.Q4_0, GGMLType.Q6_K),
    Quantization("Q3_K_M", GGMLType.Q3_K, GGMLType.Q5_K, GGMLType.Q6_K),
    Quantization("Q2_K", GGMLType.Q2_K, GGMLType.Q4_K, GGMLType.Q6_K),
)
"""From the most bits to the fewest."""

_STAND_IN: Final = {
    GGMLType.Q2_K: GGMLType.IQ4_NL,
    GGMLType.Q3_K: GGMLType.IQ4_NL,
    GGMLType.Q4_K: GGMLType.Q5_0,
    GGMLType.Q5_K: GGMLType.Q5_1,
    GGMLType.Q6_K: GGMLType.Q8_0,
}
"""For rows that blocks of 256 do not divide; rows that blocks of 32 do not divide either stay F16."""

_SENSITIVE: Final = ("attn_v.weight", "ffn_down.weight", "ffn_down_exps.weight")


def in_quantization(layers: Sequence[Layer], output: Tensor | None, quantization: Quantization) -> tuple[Layer, ...]:
    """The layers as this quantisation would size them: what is no matrix, and a router, stays as it is."""
    kind_of = _kinds(layers, output)

    def resized(tensor: Tensor) -> Tensor:
        if (kind := kind_of(tensor)) is _Kind.KEPT:
            return tensor
        type_ = quantization.type_of(kind, tensor.dimensions)
        return replace(tensor, type=type_.name, nbytes=_matrix_bytes(type_, tensor.dimensions))

    return tuple(replace(layer, tensors=tuple(map(resized, layer.tensors))) for layer in layers)


def _kinds(layers: Sequence[Layer], output: Tensor | None) -> Callable[[Tensor], _Kind]:
    """What a quantisation does with each tensor of these layers."""
    n_layer = sum(layer.role is Role.BLOCK for layer in layers)
    sensitive = {layer.key for layer in layers if isinstance(layer.key, int) and _more_bits(layer.key, n_layer)}
    logits = output.name if output else None

    def kind_of(tensor: Tensor) -> _Kind:
        if len(tensor.dimensions) < 2 or not tensor.dimensions[0] or "ffn_gate_inp" in tensor.name:
            return _Kind.KEPT
        if tensor.name == logits:
            return _Kind.OUTPUT
        return _Kind.MORE if tensor.layer in sensitive and tensor.name.endswith(_SENSITIVE) else _Kind.BASE

    return kind_of


def estimated_bytes(layers: Sequence[Layer], output: Tensor | None, quantization: Quantization) -> int:
    """What all those layers come to, without making them."""
    return _bytes_in(_counted(layers, output), quantization)


def _counted(layers: Sequence[Layer], output: Tensor | None) -> Counter[tuple[_Kind, tuple[int, ...]]]:
    """How many matrices there are of each shape; of what is kept, how many bytes."""
    kind_of = _kinds(layers, output)
    counted: Counter[tuple[_Kind, tuple[int, ...]]] = Counter()
    for tensor in (tensor for layer in layers for tensor in layer.tensors):
        if (kind := kind_of(tensor)) is _Kind.KEPT:
            counted[kind, ()] += tensor.nbytes
        else:
            counted[kind, tensor.dimensions] += 1
    return counted


def _bytes_in(counted: Counter[tuple[_Kind, tuple[int, ...]]], quantization: Quantization) -> int:
    return sum(
        count * (1 if kind is _Kind.KEPT else _matrix_bytes(quantization.type_of(kind, dimensions), dimensions))
        for (kind, dimensions), count in counted.items()
    )


def size_advice(
    layers: Sequence[Layer],
    output: Tensor | None,
    *,
    room_bytes: int,
    n_gpu_layers: int,
    top: int,
    fit_whole: Callable[[Sequence[Layer]], bool],
) -> tuple[Advice, ...]:
    """What the memory at hand is good for: the largest smaller quantisation that would fit whole, and a rule of thumb.

    `room_bytes` is what all devices together leave for weights, `n_gpu_layers` of `top` what fits of this file;
    `fit_whole` says whether these layers, in other sizes, would all fit, dealt out as was asked.
    """
    counted = _counted(layers, output)
    sizes = {each.name: _bytes_in(counted, each) for each in QUANTIZATIONS}
    advice = []
    if n_gpu_layers < top:
        present = sum(layer.size_bytes for layer in layers)
        smaller = (each for each in QUANTIZATIONS if sizes[each.name] < present)
        largest = next((each.name for each in smaller if fit_whole(in_quantization(layers, output, each))), None)
        fits, room = f"this file fits with {n_gpu_layers} of {top} layers", f"the devices leave {size(room_bytes)}"
        if largest is None:
            least = QUANTIZATIONS[-1].name
            message = (
                f"{fits}, and no smaller common quantisation would fit whole: "
                f"{least} is about {size(sizes[least])}, {room} for weights"
            )
            advice.append(Advice("no_quantization_fits", message, None, sizes[least], room_bytes))
        else:
            message = f"{fits}; {largest} would fit whole: it is about {size(sizes[largest])}, {room} for weights"
            advice.append(Advice("smaller_quantization", message, largest, sizes[largest], room_bytes))
    if 2 * room_bytes < sizes["F16"]:
        name, rule = "Q4_0", "less than half of"
    elif room_bytes < sizes["F16"]:
        name, rule = "Q4_K_M", "less than"
    else:
        name, rule = "Q6_K", "no less than"
    message = (
        f"{size(room_bytes)} for weights is {rule} the {size(sizes['F16'])} of F16: "
        f"{name} by llama.cpp's rule of thumb, about {size(sizes[name])} here"
    )
    return (*advice, Advice("rule_of_thumb", message, name, sizes[name], room_bytes, sizes["F16"]))


def _more_bits(block: int, n_layer: int) -> bool:
    """The first and the last eighth of the blocks, and every third between (use_more_bits, llama-quant.cpp)."""
    eighth = n_layer // 8
    return block < eighth or block >= 7 * n_layer // 8 or (block - eighth) % 3 == 2


@lru_cache(maxsize=4096)
def _matrix_bytes(type_: GGMLType, dimensions: tuple[int, ...]) -> int:
    return tensor_bytes(type_, dimensions)


def _divided(wanted: GGMLType, row: int) -> GGMLType:
    if row % block_size(wanted) == 0:
        return wanted
    stand_in = _STAND_IN.get(wanted, GGMLType.F16)
    return stand_in if row % block_size(stand_in) == 0 else GGMLType.F16
