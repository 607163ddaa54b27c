"""The skeleton: which tensors a model may have, with which dimensions, before a byte of data is looked at.

Which tensors: the gguf package's MODEL_TENSORS. Which dimensions: `tensor_table.py`, worked out with `widths.py`.
Which of them a block must have follows from what else it has, and is for `families.py` and `agreement.py` to say.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import gguf

from app.model.families import Name, take_apart
from app.model.hyperparameters import Hyperparameters
from app.model.layers import LayerKey, layer_of
from app.model.tensor_table import IN_BLOCKS, IN_MODEL, NOT_IN_TABLE, OF_ARCHITECTURE
from app.model.widths import Widths, widths

_TERM: Final = re.compile(r"(?:([0-9]+)\*)?([a-z_][a-z_0-9]*)|([0-9]+)|\?")

_ARCHITECTURES: Final = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}

_STEMS: Final = frozenset(take_apart(pattern.format(bid=0)).stem for pattern in gguf.TENSOR_NAMES.values())

_UNTIED: Final = frozenset({
    "apertus", "arwkv7", "baichuan", "bailingmoe", "bailingmoe2", "dbrx", "dots1", "exaone-moe", "gpt-oss", "gptneox",
    "internlm2", "jais", "kimi-linear", "llada-moe", "mimo2", "minimax-m2", "nemotron", "olmo2", "olmoe", "orion",
    "phi2", "phimoe", "plamo", "plm", "qwen", "qwen2moe", "rwkv6", "rwkv6qwen2", "rwkv7", "stablelm", "xverse",
})  # fmt: skip
"""Architectures that llama.cpp does not let do without an `output.weight` of their own."""

_NORMED_EMBEDDING: Final = frozenset({
    "bert", "bloom", "jina-bert-v2", "jina-bert-v3", "lfm2", "lfm2moe", "modern-bert", "nomic-bert", "nomic-bert-moe",
    "rwkv6", "rwkv7",
})  # fmt: skip
_BIASED_OUTPUT_NORM: Final = frozenset({
    "bloom", "codeshell", "falcon", "gpt2", "gptneox", "jais", "jais2", "nemotron", "orion", "phi2", "phimoe",
    "rwkv6", "rwkv7", "stablelm", "starcoder", "starcoder2",
})  # fmt: skip
_ALSO_REQUIRED: Final = (
    ("output.weight", _UNTIED),
    ("output.bias", frozenset({"phi2", "phimoe"})),
    ("output_norm.bias", _BIASED_OUTPUT_NORM),
    ("token_embd_norm.weight", _NORMED_EMBEDDING),
    ("position_embd.weight", frozenset({"bert", "gpt2", "starcoder"})),
)

_NO_OUTPUT_NORM: Final = frozenset({"bert", "jina-bert-v3", "nomic-bert", "nomic-bert-moe"})
"""Listed with a norm at the end, which none of their files has."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One way in which a tensor may be shaped: sizes, None where unknown, and the widths that they come from."""

    sizes: tuple[int | None, ...]
    widths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExpectedTensor:
    """A tensor worked out for one model."""

    name: str
    layer: LayerKey
    shapes: tuple[Shape, ...]
    """Any of them will do; fastest dimension first."""
    required: bool
    """Whether it is there in every model of the architecture, whatever else is."""

    @property
    def dimensions(self) -> tuple[int | None, ...]:
        """The shape that most models have; None where the file does not say how wide."""
        return self.shapes[0].sizes


def listed_stems(architecture: str) -> frozenset[str]:
    """Name the tensors that the architecture may have, within their block and without `.weight`."""
    return frozenset(take_apart(pattern.format(bid=0)).stem for pattern in _patterns(architecture))


def has_name(name: Name) -> bool:
    """Tell whether a tensor of any architecture has this name; of a block, `ffn.act.scales` is part of `ffn`."""
    if name.block is None:
        return name.stem in _STEMS
    steps = name.stem.split(".")
    return any(".".join(steps[:count]) in _STEMS for count in range(1, len(steps) + 1))


def skeleton(architecture: str, hyperparameters: Hyperparameters) -> tuple[ExpectedTensor, ...]:
    """Every tensor that the model must or may have; empty for an architecture that nobody knows."""
    return tuple(_worked_out(architecture, hyperparameters))


def shapes_of(name: Name, architecture: str, of_block: Widths) -> tuple[Shape, ...]:
    """Work out the shapes a tensor may have; empty where the table does not say."""
    cell = None if architecture in NOT_IN_TABLE else _cell(name, architecture)
    return tuple(_shape(alternative, of_block) for alternative in cell.split("|")) if cell else ()


def required_names(architecture: str) -> tuple[str, ...]:
    """Name the tensors outside of the blocks that llama.cpp does not load a model of the architecture without."""
    if architecture in NOT_IN_TABLE:
        return ()
    norms = {"output_norm", "enc.output_norm", "dec.output_norm"} & listed_stems(architecture)
    norm = () if architecture in _NO_OUTPUT_NORM else tuple(f"{stem}.weight" for stem in sorted(norms))
    return (
        "token_embd.weight",
        *norm,
        *(name for name, architectures in _ALSO_REQUIRED if architecture in architectures),
    )


def _patterns(architecture: str) -> list[str]:
    """List the names of the architecture's tensors as the gguf package has them: `blk.{bid}.attn_q`."""
    known = _ARCHITECTURES.get(architecture)
    return [] if known is None else [gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS.get(known, ())]


def _worked_out(architecture: str, hyperparameters: Hyperparameters) -> Iterator[ExpectedTensor]:
    required = set(required_names(architecture))
    of_block: dict[int | None, Widths] = {}
    for pattern in _patterns(architecture):
        blocks: list[int | None] = list(range(hyperparameters.n_layer or 0)) if "{bid}" in pattern else [None]
        for block in blocks:
            of_block.setdefault(block, widths(hyperparameters, block))
            stem = take_apart(pattern.format(bid=block))
            part = "bias" if stem.stem == "exp_probs_b" else "" if stem.stem in {"ssm_a", "ssm_d"} else "weight"
            name = Name(stem.stack, stem.block, stem.stem, part)
            shapes = shapes_of(name, architecture, of_block[block])
            if shapes:
                key = layer_of(str(name), architecture)
                yield ExpectedTensor(str(name), key, shapes, str(name) in required)


def _cell(name: Name, architecture: str) -> str | None:
    """Find the table's cell: the architecture's own, else everybody's; a bias without one is as long as its norm."""
    if name.part not in {"weight", "bias", ""}:
        return None
    common: Mapping[str, str] = IN_MODEL if name.block is None else IN_BLOCKS
    own: Mapping[str, str] = OF_ARCHITECTURE.get(architecture, {})
    weight = own.get(name.stem) or common.get(name.stem)
    if name.part != "bias":
        return weight
    bias = own.get(name.local) or common.get(name.local)
    return bias or (weight if weight and (name.stem.endswith("norm") or " " not in weight) else None)


def _shape(alternative: str, of_block: Widths) -> Shape:
    terms = _terms(alternative)
    sizes = tuple(_size(number, width, of_block) for number, width in terms)
    return Shape(sizes, tuple(width for _, width in terms))


def _size(number: int, width: str, of_block: Widths) -> int | None:
    if width in {"", "?"}:
        return number or None
    size = of_block[width]
    return None if size is None else number * size


@cache
def _terms(alternative: str) -> tuple[tuple[int, str], ...]:
    """Read one alternative of a cell: of each dimension a number and the width that it multiplies, if any."""
    matches = filter(None, (_TERM.fullmatch(term) for term in alternative.split()))
    return tuple((int(match[1] or match[3] or (0 if match[0] == "?" else 1)), match[2] or "") for match in matches)
