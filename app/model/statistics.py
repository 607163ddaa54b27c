"""Statistics: parameters and bytes of a model, per tensor type and per layer. Sizes are in bytes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import gguf

from app.gguf import Value
from app.model.layers import LayerKey, Role, Tensor
from app.model.model import Model

N_LARGEST: Final = 10
"""How many tensors `Statistics.largest` names."""

# llama.cpp sets this bit beside a file type that it guessed from the tensors.
_GUESSED: Final = int(gguf.LlamaFileType.GUESSED)


@dataclass(frozen=True, slots=True)
class TypeStatistics:
    """What the tensors of one type add up to."""

    type: str
    tensors: int
    parameters: int
    size_bytes: int
    bits_per_weight: float | None


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """What the tensors of one layer add up to."""

    layer: LayerKey
    role: Role
    tensors: int
    parameters: int
    size_bytes: int
    bits_per_weight: float | None
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the whole model adds up to; the parts add up to the whole."""

    parameters: int
    tensors: int
    size_bytes: int
    bits_per_weight: float | None
    by_type: tuple[TypeStatistics, ...]
    """Most bytes first."""
    by_layer: tuple[LayerStatistics, ...]
    """Input, blocks, output."""
    largest: tuple[Tensor, ...]
    """Largest first; tensors of one size in file order."""


def statistics(model: Model) -> Statistics:
    """Add up a described model."""
    return Statistics(
        parameters=model.parameters,
        tensors=len(model.tensors),
        size_bytes=model.size_bytes,
        bits_per_weight=_bits_per_weight(model.size_bytes, model.parameters),
        by_type=_by_type(model.tensors),
        by_layer=tuple(
            LayerStatistics(
                layer=layer.key,
                role=layer.role,
                tensors=len(layer.tensors),
                parameters=layer.parameters,
                size_bytes=layer.size_bytes,
                bits_per_weight=_bits_per_weight(layer.size_bytes, layer.parameters),
                types=layer.types,
            )
            for layer in model.layers
        ),
        largest=tuple(sorted(model.tensors, key=lambda tensor: -tensor.nbytes)[:N_LARGEST]),
    )


def quantization_name(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> str | None:
    """Name the quantisation as people say it: `Q4_K_M`, `F16`.

    By `general.file_type`; where that says nothing known, the type with the most bytes among the matrices.
    """
    declared = metadata.get("general.file_type")
    if isinstance(declared, int) and not isinstance(declared, bool):
        file_type = declared & ~_GUESSED
        if file_type in {int(known) for known in gguf.LlamaFileType}:
            return str(gguf.LlamaFileType(file_type).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    types = _by_type([tensor for tensor in tensors if len(tensor.dimensions) > 1])
    return types[0].type if types else None


def _by_type(tensors: Sequence[Tensor]) -> tuple[TypeStatistics, ...]:
    members: defaultdict[str, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        members[tensor.type].append(tensor)
    rows = [_type_statistics(name, of_type) for name, of_type in members.items()]
    return tuple(sorted(rows, key=lambda row: (-row.size_bytes, row.type)))


def _type_statistics(name: str, tensors: Sequence[Tensor]) -> TypeStatistics:
    parameters = sum(tensor.parameters for tensor in tensors)
    size_bytes = sum(tensor.nbytes for tensor in tensors)
    bits_per_weight = _bits_per_weight(size_bytes, parameters)
    return TypeStatistics(name, len(tensors), parameters, size_bytes, bits_per_weight)


def _bits_per_weight(size_bytes: int, parameters: int) -> float | None:
    return 8 * size_bytes / parameters if parameters else None
