"""Which layers of a model attend, slide a window, or carry a state: one table for each rule of llama.cpp's.

Facts of src/models/*.cpp (load_arch_hparams) and llama-model.cpp (create_memory) at llama.cpp commit 0c1e570. A looped
model (Nanbeige) has each block once per loop here, as llama.cpp counts its layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.gguf import Array, Value
from app.model.hyperparameters import MAX_LAYERS, Hyperparameters

_MOST: Final = 2**32 - 1


class Metadata:
    """`<architecture>.NAME` keys as numbers; what is absent, or cannot be a count, is None."""

    def __init__(self, metadata: Mapping[str, Value], architecture: str) -> None:
        self.architecture = architecture
        self._metadata = metadata

    def number(self, name: str) -> int | None:
        """Read one number, 0 included: a few rules tell it from an absent key."""
        return _count(self._metadata.get(f"{self.architecture}.{name}"))

    def array(self, name: str, n_layer: int) -> tuple[int, ...] | None:
        """Read an array of one number per layer; what it leaves out at its end is 0."""
        value = self._metadata.get(f"{self.architecture}.{name}")
        if not isinstance(value, Array) or not value.complete or len(value) > 2 * MAX_LAYERS:
            return None
        numbers = [int(item) if isinstance(item, bool) else _count(item) or 0 for item in value]
        return tuple(numbers[:n_layer] + [0] * (n_layer - len(numbers)))

    def per_layer(self, name: str, n_layer: int) -> tuple[int, ...] | None:
        """Read an array of one number per layer, or one number for all."""
        same = self.number(name)
        return (same,) * n_layer if same is not None else self.array(name, n_layer)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None


@dataclass(frozen=True, slots=True)
class LayerKinds:
    """One flag per layer; `window` is in tokens, 0 where no layer slides one."""

    attention: tuple[bool, ...]
    """Keeps keys and values of its own."""
    recurrent: tuple[bool, ...]
    """Carries a state."""
    sliding: tuple[bool, ...]
    window: int

    @property
    def n_layer(self) -> int:
        """How many layers llama.cpp counts (n_layer_all)."""
        return len(self.attention)


@dataclass(frozen=True, slots=True)
class _Window:
    """How an architecture's window repeats; the file's array goes before all of this, its period before `period`."""

    period: int | None = None
    """Every period-th layer is dense; None: only an array says which."""
    dense_first: bool = False
    """The dense layer is the first of its period, not the last."""
    default: int = 0
    """The window where the file has none, in tokens."""
    fixed: int | None = None
    """The window whatever the file says, unless it says 0."""


_WINDOWS: Final = {
    "afmoe": _Window(4),
    "cohere2": _Window(4),
    "cohere2moe": _Window(4, dense_first=True),
    "dflash": _Window(),
    "dots3note": _Window(),
    "exaone-moe": _Window(4, default=128),
    "exaone4": _Window(4, default=4096),
    "gemma2": _Window(2, default=4096),
    "gemma3": _Window(6),
    "gemma3n": _Window(5),
    "gemma4": _Window(),
    "gpt-oss": _Window(2),
    "granite_swa": _Window(),
    "laguna": _Window(4, dense_first=True),
    "llama4": _Window(4, default=8192, fixed=8192),
    "maple": _Window(),
    "mellum": _Window(4),
    "mimo2": _Window(),
    "muse-glimmer": _Window(4),
    "olmo2": _Window(4),
    "plamo3": _Window(8),
    "smallthinker": _Window(4, dense_first=True, fixed=4096),
    "spark2_5": _Window(),
    "step35": _Window(),
}
"""Of all other architectures, those with the key included (Phi 3, say), llama.cpp slides no window."""

_NO_WINDOW: Final = _Window()
_ALL_SLIDE: Final = frozenset({"deepseek4", "lfm2"})
"""Every layer that attends has the window."""
_EXAONE4_SLIDING_LAYERS: Final = 64
"""Only the EXAONE 4 of this many layers has a window."""

_RECURRENT: Final = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_PARALLEL: Final = frozenset({"falcon-h1"})
"""Every layer attends and carries a state."""
_RECURRENT_WITHOUT_KV_HEADS: Final = frozenset({
    "bailingmoe3", "glm5-next", "granitehybrid", "jamba", "kimi-k3", "kimi-linear", "lfm2", "lfm2moe", "plamo2",
})  # fmt: skip
_ONE_PART_PER_LAYER: Final = frozenset({"nemotron_h", "nemotron_h_moe"})
"""A layer is attention, a state, or a feed-forward network, and not two of them."""
_FULL_ATTENTION_INTERVAL: Final = {"minimax-01": 8, "qwen35": 4, "qwen35moe": 4, "qwen3next": 4, "qwen4exp": 4}
"""Every so many layers one attends, where the file does not say which."""

_DRAFT_LAYERS_ATTEND: Final = frozenset({
    "bailingmoe3", "deepseek4", "falcon-h1", "granitehybrid", "hy_v4", "jamba", "kimi-k3", "kimi-linear", "lfm2",
    "lfm2moe", "minimax-m3", "nemotron_h", "nemotron_h_moe", "plamo2",
})  # fmt: skip
"""Whose NextN layers get rows although a context that drafts nothing never fills them."""

_KV_LAYERS: Final = {"gemma3n": 20}
"""How many layers, from the first, have keys and values of their own; later ones use those of an earlier layer."""


def read_layer_kinds(read: Metadata, hyperparameters: Hyperparameters) -> LayerKinds:
    """Tell the kinds of layers apart, by architecture and metadata. Never raises."""
    heads, n_ff = kv_heads(read, hyperparameters), hyperparameters.n_ff or ()
    trunk = len(heads) - (hyperparameters.n_layer_nextn or 0)
    recurrent = _recurrent(read, heads, n_ff, trunk)
    window, sliding = _sliding(read, recurrent, trunk)
    return LayerKinds(_attention(read, heads, n_ff, recurrent, trunk), recurrent, sliding, window)


def kv_heads(read: Metadata, hyperparameters: Hyperparameters) -> tuple[int, ...]:
    """Count the key-value heads of each layer; as many numbers as llama.cpp counts layers."""
    heads = hyperparameters.n_head_kv or (0,) * (hyperparameters.n_layer or 0)
    if read.architecture == "nanbeige":
        loops = read.number("num_loops") or 1
        return heads * (loops if loops * len(heads) <= MAX_LAYERS else 1)
    return (*heads, 1) if read.architecture == "graniteswitch" and heads else heads  # a router of one head behind


def _recurrent(read: Metadata, heads: tuple[int, ...], n_ff: tuple[int, ...], trunk: int) -> tuple[bool, ...]:
    name, numbers = read.architecture, range(len(heads))
    if name in _RECURRENT | _PARALLEL:
        return tuple(il < trunk for il in numbers)
    if name in _RECURRENT_WITHOUT_KV_HEADS:
        return tuple(il < trunk and not heads[il] for il in numbers)
    if name in _ONE_PART_PER_LAYER:
        return tuple(il < trunk and not heads[il] and not _at(n_ff, il) for il in numbers)
    if name in _FULL_ATTENTION_INTERVAL:
        listed = read.array("attention.recurrent_layers", len(heads))
        interval = read.number("full_attention_interval") or _FULL_ATTENTION_INTERVAL[name]
        return tuple(il < trunk and bool(listed[il] if listed else (il + 1) % interval) for il in numbers)
    return (False,) * len(heads)


def _attention(
    read: Metadata, heads: tuple[int, ...], n_ff: tuple[int, ...], recurrent: tuple[bool, ...], trunk: int
) -> tuple[bool, ...]:
    name, n_layer = read.architecture, len(heads)
    if name in _RECURRENT:
        return (False,) * n_layer
    end = n_layer if name in _DRAFT_LAYERS_ATTEND or trunk <= 0 else trunk  # some are nothing but NextN layers
    if name == "gemma4":
        end = min(end, n_layer - (read.number("attention.shared_kv_layers") or 0))
    end = min(end, _KV_LAYERS.get(name, end))
    alone = name in _ONE_PART_PER_LAYER
    return tuple(
        il < end and (name in _PARALLEL or not recurrent[il]) and not (alone and _at(n_ff, il)) for il in range(n_layer)
    )


def _sliding(read: Metadata, recurrent: tuple[bool, ...], trunk: int) -> tuple[int, tuple[bool, ...]]:
    """The window in tokens, and the layers that have it (llama-model.cpp, load_swa_pattern)."""
    n_layer, name = len(recurrent), read.architecture
    given = read.number("attention.sliding_window")
    if given and name in _ALL_SLIDE:
        return given, tuple(not recurs for recurs in recurrent)
    rule = _WINDOWS.get(name, _NO_WINDOW)
    window = rule.default if given is None else given
    listed = read.array("attention.sliding_window_pattern", n_layer)
    period = read.number("attention.sliding_window_pattern")
    period = rule.period if period is None else period
    of_another_size = name == "exaone4" and trunk != _EXAONE4_SLIDING_LAYERS
    if rule is _NO_WINDOW or of_another_size or not window or (listed is None and rule.period is None):
        return 0, (False,) * n_layer
    if listed is None:
        dense = 0 if rule.dense_first else (period or 0) - 1
        listed = tuple(int(il < trunk and (not period or il % period != dense)) for il in range(n_layer))
    return rule.fixed or window, tuple(map(bool, listed))


def _at(numbers: tuple[int, ...], layer: int) -> int:
    return numbers[layer] if layer < len(numbers) else 0
