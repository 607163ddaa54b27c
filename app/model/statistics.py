"""Statistics: parameters and bytes of a model, per tensor type and per layer. Sizes are in bytes."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import gguf

from app.gguf import Value
from app.model.layers import LayerKey, Role, Tensor
from app.model.model import Model
from app.model.problems import Problem, ProblemKind

N_LARGEST: Final = 10
"""How many tensors `Statistics.largest` names."""

_FILE_TYPE: Final = "general.file_type"

_EXPERTS: Final = re.compile(r"_(?:ch)?exps(?:\.|$)")

# What a name and the tensors under it have in common: Q4_K_M is Q4_K, and the mixes of three bits are all IQ3.
_FAMILY: Final = re.compile(r"I?Q[0-9]+_K|IQ[0-9]+|[A-Z]+[0-9]+(?:_[0-9]+)?")

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
    expert_parameters: int
    """In tensors that hold experts of which a token uses some; shared experts, which all tokens use, are not in it."""
    expert_bytes: int


def statistics(model: Model) -> Statistics:
    """Add up a described model."""
    experts = [tensor for tensor in model.tensors if _EXPERTS.search(tensor.name)]
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
        expert_parameters=sum(tensor.parameters for tensor in experts),
        expert_bytes=sum(tensor.nbytes for tensor in experts),
    )


def quantization_name(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> str | None:
    """Name the quantisation as people say it: `Q4_K_M`, `F16`.

    By `general.file_type`; where that says nothing known, the type with the most bytes among the matrices.
    """
    declared = _declared_quantization(metadata)
    types = _by_type([tensor for tensor in tensors if len(tensor.dimensions) > 1])
    return declared or (types[0].type if types else None)


def quantization_notes(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> Iterator[Problem]:
    """Note a `general.file_type` that names a type of which the file holds no matrix; nothing depends on it."""
    declared = _declared_quantization(metadata)
    types = {tensor.type for tensor in tensors if len(tensor.dimensions) > 1}
    if declared is None or not types or _base(declared) in map(_base, types):
        return
    found = ", ".join(sorted(types))
    message = f"{_FILE_TYPE} says {declared}, but the matrices are of type {found}"
    yield Problem(ProblemKind.HYPERPARAMETER, message, key=_FILE_TYPE, expected=declared, found=found)


def _declared_quantization(metadata: Mapping[str, Value]) -> str | None:
    declared = metadata.get(_FILE_TYPE)
    if not isinstance(declared, int) or isinstance(declared, bool):
        return None
    file_type = declared & ~_GUESSED
    if file_type not in {int(known) for known in gguf.LlamaFileType}:
        return None
    return str(gguf.LlamaFileType(file_type).name).removeprefix("MOSTLY_").removeprefix("ALL_")


def _base(name: str) -> str:
    match = _FAMILY.match(name)
    return match[0] if match else name


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
