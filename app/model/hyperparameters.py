"""Hyperparameters: the numbers of `<architecture>.*`, under llama.cpp's names and with its defaults.

Unknown is None, never 0: llama.cpp's own writer stores a zero for every key that an architecture does not
use, so a zero for an optional key is an absent key. A value that cannot be is None too, beside a Problem.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, TypeGuard

from app.gguf import Array, Value, ValueType
from app.model.problems import Problem, ProblemKind

MAX_LAYERS: Final = 512
"""LLAMA_MAX_LAYERS: llama.cpp aborts above it."""
MAX_EXPERTS: Final = 1024
"""LLAMA_MAX_EXPERTS, likewise."""

# Far above every model there is, far below what would hurt to multiply or to plan with.
_MAX_WIDTH: Final = 2**24
_MAX_TOKENS: Final = 2**29

_INTEGERS: Final = frozenset(kind for kind in ValueType if kind.name.startswith(("INT", "UINT")))
_FLAGS: Final = _INTEGERS | {ValueType.BOOL}

_COUNTS: Final = {
    "n_layer_nextn": ("nextn_predict_layers", MAX_LAYERS),
    "n_layer_dec": ("decoder_block_count", MAX_LAYERS),
    "q_lora_rank": ("attention.q_lora_rank", _MAX_WIDTH),
    "kv_lora_rank": ("attention.kv_lora_rank", _MAX_WIDTH),
    "n_ctx_orig": ("rope.scaling.original_context_length", _MAX_TOKENS),
    "sliding_window": ("attention.sliding_window", 2**32 - 1),
    "n_expert": ("expert_count", MAX_EXPERTS),
    "n_expert_shared": ("expert_shared_count", MAX_EXPERTS),
    "n_ff_shexp": ("expert_shared_feed_forward_length", _MAX_WIDTH),
    "ssm_d_conv": ("ssm.conv_kernel", _MAX_WIDTH),
    "ssm_d_inner": ("ssm.inner_size", _MAX_WIDTH),
    "ssm_d_state": ("ssm.state_size", _MAX_WIDTH),
    "ssm_dt_rank": ("ssm.time_step_rank", _MAX_WIDTH),
    "ssm_n_group": ("ssm.group_count", _MAX_WIDTH),
}
"""Fields that are one optional number and have no default: key and the most it can be."""

_WIDTHS: Final = {
    "n_embd_head_k_swa": "attention.key_length_swa",
    "n_embd_head_v_swa": "attention.value_length_swa",
    "n_embd_head_k_mla": "attention.key_length_mla",
    "n_embd_head_v_mla": "attention.value_length_mla",
    "n_embd_per_layer": "embedding_length_per_layer_input",
    "n_embd_latent": "moe_latent_size",
    "n_layer_dense_lead": "leading_dense_block_count",
    "indexer_n_head": "attention.indexer.head_count",
    "indexer_head_size": "attention.indexer.key_length",
    "kda_head_dim": "kda.head_dim",
    "shortconv_l_cache": "shortconv.l_cache",
    "wkv_head_size": "wkv.head_size",
    "time_mix_extra_dim": "time_mix_extra_dim",
    "time_decay_extra_dim": "time_decay_extra_dim",
    "n_lora_decay": "attention.decay_lora_rank",
    "n_lora_iclr": "attention.iclr_lora_rank",
    "n_lora_value": "attention.value_residual_mix_lora_rank",
    "n_lora_gate": "attention.gate_lora_rank",
}
"""Widths that few architectures read. A value that cannot be is unknown and no problem: most would not look at it."""

PerLayer = tuple[int, ...]
"""One number for each block, whether the file stores an array or one number for all."""

Fact = int | float | str | list[int] | None


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What the metadata says about the model's shape; None where it does not say."""

    n_vocab: int | None = None
    n_ctx_train: int | None = None
    n_embd: int | None = None
    n_layer: int | None = None
    """`block_count`: blocks for multi-token prediction (NextN) are counted."""
    n_layer_nextn: int | None = None
    n_layer_dec: int | None = None
    """Blocks of the decoder, where it has a number of its own (T5)."""
    n_head: PerLayer | None = None
    n_head_kv: PerLayer | None = None
    n_ff: PerLayer | None = None
    n_rot: int | None = None
    n_embd_head_k: int | None = None
    n_embd_head_v: int | None = None
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    rope_freq_base: float | None = None
    rope_scaling_type: str | None = None
    rope_scaling_factor: float | None = None
    n_ctx_orig: int | None = None
    """The context before rope scaling stretched it."""
    norm_eps: float | None = None
    norm_rms_eps: float | None = None
    sliding_window: int | None = None
    sliding_window_pattern: PerLayer | None = None
    """1 for the blocks that attend within the window only; None where the file leaves it to the architecture."""
    n_expert: int | None = None
    n_expert_used: PerLayer | None = None
    n_expert_shared: int | None = None
    n_ff_exp: PerLayer | None = None
    n_ff_shexp: int | None = None
    ssm_d_conv: int | None = None
    ssm_d_inner: int | None = None
    ssm_d_state: int | None = None
    ssm_dt_rank: int | None = None
    ssm_n_group: int | None = None
    n_embd_head_k_swa: int | None = None
    """Of the blocks with a sliding window, where their heads differ from the others'."""
    n_embd_head_v_swa: int | None = None
    n_embd_head_k_mla: int | None = None
    """Of latent attention (MLA) once decompressed; `n_embd_head_k` is what its cache holds."""
    n_embd_head_v_mla: int | None = None
    n_embd_per_layer: int | None = None
    n_embd_latent: int | None = None
    n_layer_dense_lead: int | None = None
    """How many blocks before the first mixture of experts."""
    indexer_n_head: int | None = None
    indexer_head_size: int | None = None
    kda_head_dim: int | None = None
    shortconv_l_cache: int | None = None
    wkv_head_size: int | None = None
    time_mix_extra_dim: int | None = None
    time_decay_extra_dim: int | None = None
    n_lora_decay: int | None = None
    n_lora_iclr: int | None = None
    n_lora_value: int | None = None
    n_lora_gate: int | None = None
    problems: tuple[Problem, ...] = ()
    """What the metadata gets wrong: required keys that are missing, values that cannot be."""

    def as_facts(self) -> dict[str, Fact]:
        """Return the values for people and JSON: a number on which all layers agree is shown once."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "problems"}
        return {name: _fact(value) for name, value in named.items()}


def read_hyperparameters(
    metadata: Mapping[str, Value], architecture: str, *, n_vocab: int | None = None
) -> Hyperparameters:
    """Read them for `architecture`; `n_vocab`, the rows of token_embd, is the last resort for the field.

    Never raises: what cannot be read is None and listed in `problems`.
    """
    read, unasked = _Reader(metadata, architecture), _Reader(metadata, architecture)
    n_layer = read.count("block_count", MAX_LAYERS, required=True)
    n_embd = read.count("embedding_length", _MAX_WIDTH, required=True)
    n_head = read.per_layer("attention.head_count", n_layer)
    heads = next(filter(None, n_head or ()), None)
    head_default = n_embd // heads if n_embd and heads else None
    n_embd_head_k = read.count("attention.key_length", _MAX_WIDTH, default=head_default)
    return Hyperparameters(
        n_vocab=read.count("vocab_size", _MAX_TOKENS, default=read.tokens() or n_vocab),
        n_ctx_train=read.count("context_length", _MAX_TOKENS, required=True),
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=n_head,
        n_head_kv=read.per_layer("attention.head_count_kv", n_layer, default=n_head),
        n_ff=read.per_layer("feed_forward_length", n_layer),
        n_rot=read.count("rope.dimension_count", _MAX_WIDTH, default=n_embd_head_k),
        n_embd_head_k=n_embd_head_k,
        n_embd_head_v=read.count("attention.value_length", _MAX_WIDTH, default=head_default),
        rope_freq_base=read.number("rope.freq_base"),
        rope_scaling_type=read.text("rope.scaling.type"),
        rope_scaling_factor=read.number("rope.scaling.factor"),
        norm_eps=read.number("attention.layer_norm_epsilon"),
        norm_rms_eps=read.number("attention.layer_norm_rms_epsilon"),
        n_expert_used=read.per_layer("expert_used_count", n_layer),
        n_ff_exp=read.per_layer("expert_feed_forward_length", n_layer),
        sliding_window_pattern=read.pattern("attention.sliding_window_pattern", n_layer),
        **{name: read.count(key, most) for name, (key, most) in _COUNTS.items()},
        **{name: unasked.count(key, _MAX_WIDTH) for name, key in _WIDTHS.items()},
        problems=tuple(read.problems),  # last, when all has been read
    )


class _Reader:
    """Reads `<architecture>.NAME` keys and notes what cannot be. A reader is used once."""

    def __init__(self, metadata: Mapping[str, Value], architecture: str) -> None:
        self._metadata = metadata
        self._architecture = architecture
        self.problems: list[Problem] = []

    def count(self, name: str, most: int, *, default: int | None = None, required: bool = False) -> int | None:
        """Read a number from 1 to `most`, of any integer type; `default` where it is absent."""
        key = f"{self._architecture}.{name}"
        value = self._metadata.get(key)
        if _is_absent(value) and not required:
            return default
        if value is None:
            self.problems.append(Problem(ProblemKind.MISSING, f"{key} is missing", key=key))
            return None
        if _is_integer(value) and 1 <= value <= most:
            return value
        self._reject(key, f"an integer from 1 to {most}", value)
        return None

    def per_layer(self, name: str, n_layer: int | None, *, default: PerLayer | None = None) -> PerLayer | None:
        """Read one number for all blocks, or an array of one for each, in which a zero is a value."""
        key = f"{self._architecture}.{name}"
        value = self._metadata.get(key)
        if _is_absent(value):
            return default
        if not isinstance(value, Array):
            same = self.count(name, _MAX_WIDTH)
            return None if same is None or n_layer is None else (same,) * n_layer
        if n_layer is None:
            return None
        # Type and length first: what is decoded here is at most MAX_LAYERS integers.
        if len(value) != n_layer or value.type not in _INTEGERS:
            self._reject(key, f"{n_layer} integers, one per block", value)
            return None
        numbers = tuple(number for number in value.tolist() if _is_integer(number))
        wrong = next((number for number in numbers if not 0 <= number <= _MAX_WIDTH), None)
        if wrong is not None:
            self._reject(key, f"integers from 0 to {_MAX_WIDTH}", wrong)
            return None
        return numbers

    def pattern(self, name: str, n_layer: int | None) -> PerLayer | None:
        """Read a flag for each block, or the period p of a pattern: every p-th block is without."""
        value = self._metadata.get(f"{self._architecture}.{name}")
        if n_layer is None or _is_absent(value):
            return None
        if _is_integer(value) and value > 0:
            return tuple(int(block % value < value - 1) for block in range(n_layer))
        # As llama.cpp has it, a longer array than there are blocks will do.
        if isinstance(value, Array) and n_layer <= len(value) <= MAX_LAYERS and value.type in _FLAGS:
            return tuple(int(bool(flag)) for flag in value.tolist()[:n_layer])
        return None

    def number(self, name: str) -> float | None:
        """Read a finite number that is not negative; a zero is an absent key."""
        key = f"{self._architecture}.{name}"
        value = self._metadata.get(key)
        if value is None:
            return None
        if (isinstance(value, float) or _is_integer(value)) and math.isfinite(value) and value >= 0:
            return float(value) or None
        self._reject(key, "a finite number, not negative", value)
        return None

    def text(self, name: str) -> str | None:
        """Read a string; an empty one is an absent key."""
        key = f"{self._architecture}.{name}"
        value = self._metadata.get(key)
        if value is None or isinstance(value, str):
            return value or None
        self._reject(key, "a string", value)
        return None

    def tokens(self) -> int | None:
        """Count the tokens that the vocabulary lists, without decoding one."""
        tokens = self._metadata.get("tokenizer.ggml.tokens")
        return (len(tokens) or None) if isinstance(tokens, Array) else None

    def _reject(self, key: str, expected: str, value: Value) -> None:
        found = _shown(value)
        message = f"{key} must be {expected}, not {found}"
        self.problems.append(Problem(ProblemKind.HYPERPARAMETER, message, key=key, expected=expected, found=found))


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_absent(value: Value | None) -> bool:
    return value is None or (_is_integer(value) and value == 0)


def _shown(value: Value) -> str:
    """Write a value as text of bounded length."""
    if isinstance(value, Array):
        return f"an array of {len(value)} {value.type.name}"
    return repr(value) if not isinstance(value, str) else repr(value[:80])


def _fact(value: int | float | str | PerLayer | None) -> Fact:
    if not isinstance(value, tuple):
        return value
    return value[0] if len(set(value)) == 1 else list(value)
