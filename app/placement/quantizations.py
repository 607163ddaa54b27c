"""How large a model would be in another quantisation: an estimate from its own tensor shapes. Sizes are in bytes.

Which tensors get more bits in a mix, and which type stands in where blocks do not divide a row, follows llama.cpp's
llama-quant.cpp; its finer rules for single architectures are left out: a real file may differ by a few per cent.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from app.gguf import GGMLType, tensor_bytes
from app.gguf.types import block_size
from app.model import Layer, Role, Tensor
from app.placement.plan import Advice


@dataclass(frozen=True, slots=True)
class Quantization:
    """One of the common ones: most matrices in `base`, the sensitive ones in `more`, the output in `output`."""

    name: str
    base: GGMLType
    more: GGMLType
    output: GGMLType


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


class _Kind(StrEnum):
    """What a quantisation does with a tensor."""

    KEPT = "kept"
    BASE = "base"
    MORE = "more"
    OUTPUT = "output"


def estimated_bytes(layers: Iterable[Layer], output: Tensor | None, quantization: Quantization) -> int:
    """The tensors' bytes in this quantisation; what is no matrix, and a router, stays as it is."""
    return _bytes_in(_counted(tuple(layers), output), quantization)


def _counted(layers: Sequence[Layer], output: Tensor | None) -> Counter[tuple[_Kind, tuple[int, ...]]]:
    """How many matrices there are of each shape; of what is kept, how many bytes."""
    n_layer = sum(layer.role is Role.BLOCK for layer in layers)
    logits = output.name if output else None
    counted: Counter[tuple[_Kind, tuple[int, ...]]] = Counter()
    for layer in layers:
        more = isinstance(layer.key, int) and _more_bits(layer.key, n_layer)
        for tensor in layer.tensors:
            if len(tensor.dimensions) < 2 or not tensor.dimensions[0] or "ffn_gate_inp" in tensor.name:
                counted[_Kind.KEPT, ()] += tensor.nbytes
            elif tensor.name == logits:
                counted[_Kind.OUTPUT, tensor.dimensions] += 1
            else:
                kind = _Kind.MORE if more and tensor.name.endswith(_SENSITIVE) else _Kind.BASE
                counted[kind, tensor.dimensions] += 1
    return counted


def _bytes_in(counted: Counter[tuple[_Kind, tuple[int, ...]]], quantization: Quantization) -> int:
    types = {_Kind.BASE: quantization.base, _Kind.MORE: quantization.more, _Kind.OUTPUT: quantization.output}
    return sum(
        count * (1 if kind is _Kind.KEPT else _matrix_bytes(types[kind], dimensions))
        for (kind, dimensions), count in counted.items()
    )


def size_advice(
    layers: Sequence[Layer], output: Tensor | None, *, room_bytes: int, n_gpu_layers: int, top: int
) -> tuple[Advice, ...]:
    """What the memory at hand is good for: the largest common quantisation that would fit whole, and a rule of thumb.

    `room_bytes` is what all devices together leave for weights, `n_gpu_layers` of `top` what fits of this file.
    """
    counted = _counted(layers, output)
    sizes = {each.name: _bytes_in(counted, each) for each in QUANTIZATIONS}
    advice = []
    if n_gpu_layers < top:
        present = sum(layer.size_bytes for layer in layers)
        smaller = next((name for name, nbytes in sizes.items() if nbytes <= room_bytes and nbytes < present), None)
        fits = f"this file fits with {n_gpu_layers} of {top} layers"
        if smaller is None:
            least = f"{QUANTIZATIONS[-1].name} would need about {sizes[QUANTIZATIONS[-1].name]} bytes of {room_bytes}"
            advice.append(
                Advice("no_quantization_fits", f"{fits}, and no common quantisation would fit whole: {least}")
            )
        else:
            message = f"{fits}; {smaller} would fit whole, with about {sizes[smaller]} bytes of {room_bytes}"
            advice.append(Advice("smaller_quantization", message, smaller, sizes[smaller], room_bytes))
    if 2 * room_bytes < sizes["F16"]:
        name, rule = "Q4_0", "less than half of"
    elif room_bytes < sizes["F16"]:
        name, rule = "Q4_K_M", "less than"
    else:
        name, rule = "Q6_K", "no less than"
    message = (
        f"{room_bytes} bytes are {rule} the {sizes['F16']} of F16: {name} by llama.cpp's rule of thumb, "
        f"about {sizes[name]} bytes here"
    )
    return (*advice, Advice("rule_of_thumb", message, name, sizes[name], room_bytes))


def _more_bits(block: int, n_layer: int) -> bool:
    """The first and the last eighth of the blocks, and every third between (use_more_bits, llama-quant.cpp)."""
    eighth = n_layer // 8
    return block < eighth or block >= 7 * n_layer // 8 or (block - eighth) % 3 == 2


@lru_cache(maxsize=4096)
def _matrix_bytes(wanted: GGMLType, dimensions: tuple[int, ...]) -> int:
    return tensor_bytes(_divided(wanted, dimensions[0]), dimensions)


def _divided(wanted: GGMLType, row: int) -> GGMLType:
    if row % block_size(wanted) == 0:
        return wanted
    stand_in = _STAND_IN.get(wanted, GGMLType.F16)
    return stand_in if row % block_size(stand_in) == 0 else GGMLType.F16
