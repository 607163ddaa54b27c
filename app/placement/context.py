"""A context: what an engine is asked to keep beside the weights, and how many bytes of it belong to each layer.

Formulas: llama.cpp at commit 0c1e570, named where they stand. All sizes are in bytes.
"""

from dataclasses import dataclass
from typing import Final

from app.errors import InvalidValue
from app.gguf import GGMLType, tensor_bytes
from app.gguf.types import block_size
from app.model.caches import Caches, Holds, Rows

CACHE_TYPES: Final = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
"""What llama-server takes for `-ctk` and `-ctv` (common/arg.cpp)."""

MAX_SEQUENCES: Final = 256
"""LLAMA_MAX_SEQ."""
_MAX_TOKENS: Final = 2**31 - 1
_MAX_TOKENS_IN_ALL: Final = 2**32 - 1
_CELLS: Final = 256
"""Cells come in multiples of this."""
_STATE_BYTES: Final = 4
"""Recurrent state is F32, whatever the cache types are (llama-model.cpp, create_memory)."""


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """What is asked of a context; the names are llama.cpp's. Raises InvalidValue for a value that cannot be."""

    n_ctx: int | None = None
    """Tokens of all sequences together; None for what the model was trained for."""
    n_seq: int = 1
    kv_unified: bool = False
    """All sequences share the cells, instead of an equal part for each."""
    kv_offload: bool = True
    """The cache is where its layer is; else all of it is on the host."""
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: bool = True
    n_batch: int = 2048
    n_ubatch: int = 512
    """Tokens that are computed at once."""

    def __post_init__(self) -> None:
        for name, most in (("n_ctx", _MAX_TOKENS), ("n_seq", MAX_SEQUENCES), ("n_batch", _MAX_TOKENS)):
            _check_count(name, getattr(self, name), most)
        _check_count("n_ubatch", self.n_ubatch, _MAX_TOKENS)
        for name in ("cache_type_k", "cache_type_v"):
            if getattr(self, name) not in CACHE_TYPES:
                raise InvalidValue(
                    f"context.{name}: no cache type {getattr(self, name)!r}; there are {', '.join(CACHE_TYPES)}",
                    param=f"context.{name}",
                )


def _check_count(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise InvalidValue(f"context.{name}: {value} is not between 1 and {most}", param=f"context.{name}")


@dataclass(frozen=True, slots=True)
class ContextSize:
    """What a request comes to for one model: cells and tokens."""

    cells: int
    """Of one stream, for the layers that see the whole context (n_ctx_seq)."""
    window_cells: int
    """Of one stream, for the layers that slide a window."""
    streams: int
    """How many times the cells are there: once where sequences share them."""
    n_seq: int
    n_ubatch: int
    flash_attention: bool

    def cells_of(self, rows: Rows) -> int:
        """Cells of one stream that this tensor has a row for."""
        if rows.sliding:
            return self.window_cells
        if rows.tokens_per_cell > 1:  # llama-kv-cache-dsv4.cpp
            return _padded(-(-self.cells // rows.tokens_per_cell))
        return self.cells


def context_size(caches: Caches, request: ContextRequest, n_ctx_train: int | None) -> ContextSize:
    """Count cells as llama-context.cpp (the constructor) and llama-kv-cache-iswa.cpp do.

    Raises InvalidValue for cache types that the model's heads or llama.cpp rule out, and for an `n_ctx` that is left
    to a model which does not say what it was trained for.
    """
    if request.n_ctx is None and n_ctx_train is None:
        raise InvalidValue("context.n_ctx: the model does not say how long its context is", param="context.n_ctx")
    flash_attention = request.flash_attention and caches.flash_attention
    _check_types(caches, request, flash_attention=flash_attention)
    n_ctx = request.n_ctx or n_ctx_train or 0
    n_ubatch = min(request.n_ubatch, request.n_batch, n_ctx)
    cells = _padded(n_ctx)
    if not request.kv_unified:
        cells = _padded(cells // request.n_seq)
    streams = 1 if request.kv_unified and caches.unifiable else request.n_seq
    if cells * streams > _MAX_TOKENS_IN_ALL:
        raise InvalidValue(f"context.n_ctx: {n_ctx} tokens come to more than 32 bits can count", param="context.n_ctx")
    looked_back = caches.window * (request.n_seq if streams == 1 else 1)
    return ContextSize(
        cells=cells,
        window_cells=_padded(min(cells, looked_back + n_ubatch)),
        streams=streams,
        n_seq=request.n_seq,
        n_ubatch=n_ubatch,
        flash_attention=flash_attention,
    )


def layer_context_bytes(caches: Caches, request: ContextRequest, size: ContextSize) -> tuple[int, ...]:
    """For each layer, the bytes of its rows and state (llama-kv-cache.cpp, llama-memory-recurrent.cpp)."""
    types = {
        Holds.KEYS: GGMLType[request.cache_type_k.upper()],
        Holds.VALUES: GGMLType[request.cache_type_v.upper()],
    }

    def rows_bytes(rows: Rows) -> int:
        width = rows.width if size.flash_attention else rows.transposed_width
        try:
            row = tensor_bytes(types[rows.holds], (width,))
        except ValueError as error:
            raise _wrong_type("cache_type_k" if rows.holds is Holds.KEYS else "cache_type_v", str(error)) from None
        return row * size.cells_of(rows) * size.streams

    distinct = {
        layer: sum(map(rows_bytes, layer.rows)) + _STATE_BYTES * layer.state * size.n_seq
        for layer in set(caches.layers)
    }
    return tuple(distinct[layer] for layer in caches.layers)


def _check_types(caches: Caches, request: ContextRequest, *, flash_attention: bool) -> None:
    """Refuse what llama.cpp refuses (llama-context.cpp, llama_init_from_model)."""
    if not any(layer.rows for layer in caches.layers):
        return
    if caches.one_type and request.cache_type_k != request.cache_type_v:
        raise _wrong_type(
            "cache_type_v", f"{request.cache_type_v}: this model's keys and values share a type, {request.cache_type_k}"
        )
    if not flash_attention and _block(request.cache_type_v) > 1:
        raise _wrong_type("cache_type_v", f"{request.cache_type_v}: quantised values need flash attention")
    for name, type_, lengths in (
        ("cache_type_k", request.cache_type_k, caches.key_lengths),
        ("cache_type_v", request.cache_type_v, caches.value_lengths),
    ):
        uneven = [length for length in sorted(lengths) if length % _block(type_)]
        if flash_attention and uneven:
            raise _wrong_type(name, f"{type_}: blocks of {_block(type_)} do not divide heads of {uneven[0]}")


def _wrong_type(name: str, sentence: str) -> InvalidValue:
    return InvalidValue(f"context.{name}: {sentence}", param=f"context.{name}")


def _block(cache_type: str) -> int:
    return block_size(GGMLType[cache_type.upper()])


def _padded(cells: int) -> int:
    return -(-cells // _CELLS) * _CELLS
