"""Caches: what an engine's context keeps for each layer of a model, as numbers per cell and per sequence.

A *cell* is the place of one token. Attention keeps rows of keys and values, one row for each cell; a recurrent layer
keeps a state of fixed size for each sequence. How many cells there are is the context's business
(`app.placement.context`); here stands what one of them holds. The rules are llama.cpp's (commit 0c1e570):
llama-hparams.cpp (n_embd_k_gqa, n_embd_r, n_embd_s) and the caches that llama-model.cpp (create_memory) chooses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.gguf import Value
from app.model.hyperparameters import Hyperparameters
from app.model.layer_kinds import LayerKinds, Metadata, kv_heads, read_layer_kinds

_NO_CACHE: Final = frozenset({
    "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe", "modern-bert",
    "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "wavtokenizer-dec",
    "gemma4-assistant",  # reads its target's
})  # fmt: skip
"""Encoders and diffusion models see all tokens at once and keep nothing."""

_NO_FLASH_ATTENTION: Final = frozenset({"grok"})

_GROUPED: Final = frozenset({"deepseek4"})
"""Beside a window of keys, one key for each group of tokens: of 4 in some layers, of 128 in others."""
_SMALL_GROUP: Final = 4
_LARGE_GROUP: Final = 128

_INDEXED: Final = frozenset({
    "deepseek32", "dots3note", "glm-dsa", "glm5-next", "hy_v4", "minimax-m3", "qwen4exp",
})  # fmt: skip
"""Sparse attention: an indexer with keys of its own chooses the tokens."""
_KEYS_ONLY_INDEXER: Final = frozenset({"glm5-next", "qwen4exp"})
_INDEXED_BY_DEFAULT: Final = frozenset({"deepseek32", "glm5-next", "minimax-m3", "qwen4exp"})
_GLM_SPARSE_INDEXERS_FROM: Final = 1 << 20
"""From this trained context on (GLM 5.2), only every fourth layer has an indexer, unless the file lists them."""


class Holds(StrEnum):
    """What a cache's rows are: keys and values have types of their own."""

    KEYS = "keys"
    VALUES = "values"


@dataclass(frozen=True, slots=True)
class Rows:
    """One tensor of a layer's cache: a row of `width` numbers for each cell."""

    holds: Holds
    width: int
    transposed_width: int
    """The width without flash attention: values lie transposed then, all layers' as wide as the widest."""
    sliding: bool = False
    """Whether there are cells for a sliding window only, and not for the whole context."""
    tokens_per_cell: int = 1


@dataclass(frozen=True, slots=True)
class LayerCache:
    """What is kept for one layer: rows for each cell, and `state` numbers of 32 bits for each sequence."""

    rows: tuple[Rows, ...] = ()
    state: int = 0


@dataclass(frozen=True, slots=True)
class Caches:
    """What a context of this model keeps. Layers are counted as llama.cpp does: see `layer_kinds`."""

    layers: tuple[LayerCache, ...]
    window: int = 0
    """How many tokens a sliding-window layer looks back on; 0 where there is none."""
    key_lengths: frozenset[int] = frozenset()
    """Sizes of the heads whose keys are kept: the blocks of a quantised type must divide them."""
    value_lengths: frozenset[int] = frozenset()
    one_type: bool = False
    """Whether keys and values must have one type, being one tensor (MLA)."""
    flash_attention: bool = True
    """False where llama.cpp turns it off."""
    unifiable: bool = True
    """False where each sequence has cells of its own even in a unified cache."""


def read_caches(metadata: Mapping[str, Value], architecture: str, hyperparameters: Hyperparameters) -> Caches:
    """Read what a context of this model keeps. Never raises: what the metadata does not say is not kept."""
    read = Metadata(metadata, architecture)
    kinds = read_layer_kinds(read, hyperparameters)
    flash_attention = architecture not in _NO_FLASH_ATTENTION
    if architecture in _NO_CACHE:
        return Caches((LayerCache(),) * kinds.n_layer, flash_attention=flash_attention)
    heads = _Heads(read, hyperparameters, kinds)
    indexed = _indexed(read, hyperparameters, kinds)
    attending = [number for number, attends in enumerate(kinds.attention) if attends]
    return Caches(
        layers=tuple(
            LayerCache(
                rows=heads.rows(number, indexed=indexed[number]) if kinds.attention[number] else (),
                state=heads.group_state(number) + (_state(read, hyperparameters) if kinds.recurrent[number] else 0),
            )
            for number in range(kinds.n_layer)
        ),
        window=kinds.window,
        key_lengths=frozenset(heads.key_length[number] for number in attending),
        value_lengths=frozenset(heads.value_length[number] for number in attending),
        one_type=heads.keys_only,
        flash_attention=flash_attention,
        unifiable=architecture not in _GROUPED,
    )


class _Heads:
    """The attention heads of each layer, and the rows that follow from them."""

    def __init__(self, read: Metadata, hyperparameters: Hyperparameters, kinds: LayerKinds) -> None:
        full_key, full_value = hyperparameters.n_embd_head_k or 0, hyperparameters.n_embd_head_v or 0
        sliding_key = read.number("attention.key_length_swa") or full_key
        sliding_value = read.number("attention.value_length_swa") or full_value
        self.sliding = kinds.sliding
        self.n_kv = kv_heads(read, hyperparameters)
        self.key_length = [sliding_key if slides else full_key for slides in kinds.sliding]
        self.value_length = [sliding_value if slides else full_value for slides in kinds.sliding]
        self.widest_values = max(map(int.__mul__, self.n_kv, self.value_length), default=0)
        self.grouped = read.architecture in _GROUPED
        mla = read.number("attention.key_length_mla") and read.number("attention.value_length_mla")
        self.keys_only = bool(mla) or self.grouped
        self.group = read.array("attention.compress_ratios", kinds.n_layer) if self.grouped else None
        pooled = 3 if read.number("attention.indexer.kpool") else 1  # key, gate and pooled value
        self.indexer_length = (read.number("attention.indexer.key_length") or 0) * pooled
        self.indexer_has_values = not self.keys_only and read.architecture not in _KEYS_ONLY_INDEXER

    def rows(self, number: int, *, indexed: bool) -> tuple[Rows, ...]:
        """What the layer keeps for each cell (llama-kv-cache.cpp; with an indexer -dsa, -msa and hybrid-idx)."""
        slides, n_kv = self.sliding[number], self.n_kv[number]
        rows = [_keys(n_kv * self.key_length[number], sliding=slides)]
        if not self.keys_only:
            values = n_kv * self.value_length[number]
            rows.append(Rows(Holds.VALUES, values, self.widest_values, sliding=slides))
        if indexed:
            rows.append(_keys(self.indexer_length))
            if self.indexer_has_values:  # never read; the cache class has them
                values = self.value_length[number]
                rows.append(Rows(Holds.VALUES, values, values))
        group = self.group[number] if self.group else 0
        if group in {_SMALL_GROUP, _LARGE_GROUP}:
            rows.append(_keys(n_kv * self.key_length[number], tokens_per_cell=group))
        if group == _SMALL_GROUP:
            rows.append(_keys(self.indexer_length, tokens_per_cell=group))
        return tuple(rows)

    def group_state(self, number: int) -> int:
        """What gathers a group before it becomes a key, with its scores (llama-kv-cache-dsv4.cpp)."""
        group = self.group[number] if self.group else 0
        if group == _SMALL_GROUP:  # two overlap
            return 2 * (2 * _SMALL_GROUP) * 2 * (self.key_length[0] + self.indexer_length)
        return 2 * _LARGE_GROUP * self.key_length[0] if group == _LARGE_GROUP else 0


def _keys(width: int, *, sliding: bool = False, tokens_per_cell: int = 1) -> Rows:
    return Rows(Holds.KEYS, width, width, sliding=sliding, tokens_per_cell=tokens_per_cell)


def _indexed(read: Metadata, hyperparameters: Hyperparameters, kinds: LayerKinds) -> tuple[bool, ...]:
    """Which layers have an indexer: the file's list, or the architecture's habit."""
    name, n_layer = read.architecture, kinds.n_layer
    if name not in _INDEXED or (name == "hy_v4" and not read.number("attention.indexer.top_k")):
        return (False,) * n_layer
    start = (read.number("leading_dense_block_count") or 0) if name == "minimax-m3" else 0
    trunk = n_layer if name == "minimax-m3" else n_layer - (hyperparameters.n_layer_nextn or 0)
    listed = None if name in {"deepseek32", "minimax-m3"} else read.per_layer("attention.indexer.types", n_layer)
    if listed is None and name == "glm-dsa":
        sparse = (hyperparameters.n_ctx_train or 0) >= _GLM_SPARSE_INDEXERS_FROM
        listed = tuple(int(not sparse or number < 2 or number % 4 == 2) for number in range(n_layer))
    if listed is None or (name == "qwen4exp"):
        listed = (int(name in _INDEXED_BY_DEFAULT),) * n_layer
    return tuple(start <= number < trunk and bool(listed[number]) for number in range(n_layer))


def _state(read: Metadata, hyperparameters: Hyperparameters) -> int:
    """Numbers of state per sequence: what the convolution needs, then the state itself (llama-hparams.cpp)."""
    n_embd, n_head = hyperparameters.n_embd or 0, next(filter(None, hyperparameters.n_head or ()), 0)
    d_conv, d_inner = hyperparameters.ssm_d_conv or 0, hyperparameters.ssm_d_inner or 0
    d_state, n_group = hyperparameters.ssm_d_state or 0, hyperparameters.ssm_n_group or 0
    if wkv := read.number("wkv.head_size"):
        shifts = read.number("token_shift_count")
        return n_embd * ((2 if shifts is None else shifts) + wkv)
    if taps := read.number("shortconv.l_cache"):
        return n_embd * (taps - 1) + d_state * d_inner
    if head := read.number("kda.head_dim"):
        return 3 * (d_conv - 1 if d_conv else 3) * n_head * head + head * head * n_head
    convolution = max(0, d_conv - 1) * (d_inner + 2 * n_group * d_state)
    if read.architecture == "minimax-01":
        head = hyperparameters.n_embd_head_k or 0
        return convolution + head * head * n_head
    return convolution + d_state * d_inner
