"""Activations: what the graph of one micro-batch holds at once. All sizes are in bytes.

llama.cpp has no formula for this: it builds the worst graph and lets ggml-alloc.c pack it. These are the tensors that
live at the same time in its graphs (src/llama-graph.cpp: build_ffn, build_moe_ffn, build_attn), every number in F32,
without the packing's luck. Compared with llama.cpp's own figures by `benchmarks.oracle`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from app.model import Model, Tensor
from app.model.caches import Caches, Holds, LayerCache, Rows
from app.placement.context import ContextSize

_F32: Final = 4
_MASK_BYTES: Final = {True: 2, False: 4}
"""Of one token and one cell, with flash attention and without."""
_INDEX_BYTES: Final = 8
_GATED: Final = 3
"""Gate, up and their product are there at once."""

_INDEXER_SCORES: Final = 5
"""Scores of an indexer that live at once: as weighed, summed, sorted, cut and masked (4 to 5 were measured)."""

CacheKind = tuple[bool, int, int]
"""What has a mask of its own: whether it slides, tokens per cell, and which of a layer's keys it is for."""

_DOWN: Final = re.compile(r"blk\.[0-9]+\.ffn_down(_exps|_chexps|_shexp)?\.weight")
_MIXES: Final = re.compile(r"\.(ssm_|shortconv\.)")
_NO_LOGITS: Final = frozenset({
    "bert", "eurobert", "jina-bert-v2", "jina-bert-v3", "llama-embed", "modern-bert", "neo-bert", "nomic-bert",
    "nomic-bert-moe", "wavtokenizer-dec",
})  # fmt: skip
"""Encoders: without an output matrix, they use no other in its place."""


@dataclass(frozen=True, slots=True)
class Activations:
    """The parts of one micro-batch's graph, from which the need of every device adds up."""

    hidden: int
    """One row of n_embd for each token."""
    logits: int
    """Of all tokens, as llama.cpp reserves them; its server reserves fewer."""
    row_of_logits: int
    inputs: Mapping[CacheKind, int]
    """A mask for each kind of cache, and without flash attention the places where values go."""
    sees: tuple[frozenset[CacheKind], ...]
    """The kinds of cache that each block attends to: a device gets the inputs of its blocks."""
    attention: tuple[int, ...]
    """The widest moment of each block's attention, or of what a recurrent block has in its place."""
    feed_forward: tuple[int, ...]
    """The widest moment of each block's feed-forward network, apart from the rows of n_embd around it."""
    experts_out: tuple[int, ...]
    """Of each block with experts, what they hand to be summed; else 0."""

    def inputs_of(self, kinds: Iterable[CacheKind]) -> int:
        """Add up the inputs for these kinds of cache."""
        return sum(self.inputs[kind] for kind in kinds)


def activations(model: Model, caches: Caches, size: ContextSize) -> Activations:
    """Take the measure of a model's graph, once for all placements."""
    numbers = range(model.n_layer or 0)
    tensors = {layer.key: layer.tensors for layer in model.blocks}
    one = _OneBlock(model, size)
    output = output_matrix(model)
    n_vocab = output.dimensions[-1] if output and output.dimensions else 0
    moments = [one.attention(number, caches.layers[number]) for number in numbers]
    return Activations(
        hidden=one.hidden,
        logits=_F32 * n_vocab * size.n_ubatch,
        row_of_logits=_F32 * n_vocab,
        inputs=_inputs(caches, size),
        sees=tuple(frozenset(_kinds(caches, caches.layers[number])) for number in numbers),
        attention=tuple(
            max(moment, one.mixing(tensors.get(number, ()))) for number, moment in zip(numbers, moments, strict=True)
        ),
        feed_forward=tuple(one.feed_forward(number, tensors.get(number, ())) for number in numbers),
        experts_out=tuple(one.experts_out(number, tensors.get(number, ())) for number in numbers),
    )


def output_matrix(model: Model) -> Tensor | None:
    """The matrix that makes the logits: the output's own, or the token embedding where the two are tied."""
    tensors = model.tensors_by_name
    own = tensors.get("output.weight")
    tied = None if model.architecture in _NO_LOGITS else tensors.get("token_embd.weight")
    return own or tied


class _OneBlock:
    """The measures of one block, of a model in a context."""

    def __init__(self, model: Model, size: ContextSize) -> None:
        self.parameters = model.hyperparameters
        self.size = size
        self.row = _F32 * size.n_ubatch
        self.hidden = self.row * (self.parameters.n_embd or 0)

    def key_values(self, layer: LayerCache) -> int:
        return self.row * sum(rows.width for rows in layer.rows)

    def attention(self, number: int, layer: LayerCache) -> int:
        """Residual and norm, queries, result; and new keys and values, or else the scores."""
        if not layer.rows:
            return 0
        n_head = _at(self.parameters.n_head, number)
        heads = n_head * ((self.parameters.n_embd_head_k or 0) + (self.parameters.n_embd_head_v or 0))
        most = max(map(self.size.cells_of, layer.rows))
        beside = self.key_values(layer) if self.size.flash_attention else self.row * n_head * most
        indexers = [self.size.cells_of(rows) for rows in layer.rows if rows.holds is Holds.KEYS][1:]
        scores = _INDEXER_SCORES * self.row * max(indexers, default=0)
        return 2 * self.hidden + self.row * heads + beside + scores

    def feed_forward(self, number: int, tensors: Iterable[Tensor]) -> int:
        """The widest network of the block; each expert that a token goes to counts as one."""
        widest = 0
        for tensor in tensors:
            if tensor.dimensions and (down := _DOWN.fullmatch(tensor.name)):
                n_used = self._n_used(number) if down[1] in {"_exps", "_chexps"} else 1
                inner = self.row * tensor.dimensions[0] * n_used
                widest = max(widest, _GATED * inner, inner + self.hidden * n_used if down[1] else 0)
        return widest

    def experts_out(self, number: int, tensors: Iterable[Tensor]) -> int:
        routed = any(".ffn_down_exps." in tensor.name for tensor in tensors)
        return self.hidden * self._n_used(number) if routed else 0

    def mixing(self, tensors: Iterable[Tensor]) -> int:
        """What a recurrent block has for attention: its widest product, convolved, and gated."""
        widths = [
            tensor.dimensions[1] for tensor in tensors if _MIXES.search(tensor.name) and len(tensor.dimensions) == 2
        ]
        return _GATED * self.row * max(widths) + 2 * self.hidden if widths else 0

    def _n_used(self, number: int) -> int:
        return _at(self.parameters.n_expert_used, number) or 1


_NO_CACHE_KIND: Final = (False, 0, 0)


def _kinds(caches: Caches, layer: LayerCache) -> dict[CacheKind, Rows | None]:
    """The kinds of cache of one layer, by the keys of each; a model that keeps nothing attends to its own tokens."""
    if not any(other.rows or other.state for other in caches.layers):
        return {_NO_CACHE_KIND: None}
    keys = (rows for rows in layer.rows if rows.holds is Holds.KEYS)
    return {(rows.sliding, rows.tokens_per_cell, nth): rows for nth, rows in enumerate(keys)}


def _inputs(caches: Caches, size: ContextSize) -> dict[CacheKind, int]:
    """Masks, which streams share as they share the tokens; transposed values are stored one by one, by an index."""
    inputs = {}
    for layer in set(caches.layers):
        values = next((rows for rows in layer.rows if rows.holds is Holds.VALUES), None)
        indices = values.transposed_width if values and not size.flash_attention else 0
        for kind, rows in _kinds(caches, layer).items():
            cells = size.cells_of(rows) if rows else size.n_ubatch
            mask = _MASK_BYTES[size.flash_attention] * cells
            inputs[kind] = size.n_ubatch * (mask + _INDEX_BYTES * indices)
    return inputs


def _at(numbers: tuple[int, ...] | None, layer: int) -> int:
    return numbers[layer] if numbers and layer < len(numbers) else 0
