"""A context's bytes: how many cells there are, what a row of each type takes, and what cannot be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidValue
from app.model.caches import Caches, Holds, LayerCache, Rows
from app.placement.context import CACHE_TYPES, ContextRequest, ContextSize, context_size, layer_context_bytes

KEYS, VALUES = Rows(Holds.KEYS, 64, 64), Rows(Holds.VALUES, 32, 128)
PLAIN = Caches((LayerCache((KEYS, VALUES)),), key_lengths=frozenset({64}), value_lengths=frozenset({32}))


def size(request: ContextRequest, caches: Caches = PLAIN, n_ctx_train: int | None = 4096) -> ContextSize:
    """Count the cells of a request."""
    return context_size(caches, request, n_ctx_train)


def layer_bytes(request: ContextRequest, caches: Caches = PLAIN) -> tuple[int, ...]:
    """Work out each layer's bytes."""
    return layer_context_bytes(caches, request, size(request, caches))


@pytest.mark.parametrize(
    ("asked", "cells", "streams"),
    [
        ({"n_ctx": 1}, 256, 1),
        ({"n_ctx": 256}, 256, 1),
        ({"n_ctx": 257}, 512, 1),
        ({}, 4096, 1),
        ({"n_ctx": 4096, "n_seq": 4}, 1024, 4),
        ({"n_ctx": 4096, "n_seq": 3}, 1536, 3),  # each part is rounded up
        ({"n_ctx": 100, "n_seq": 256}, 256, 256),  # nobody goes without
        ({"n_ctx": 4096, "n_seq": 3, "kv_unified": True}, 4096, 1),
    ],
)
def test_cells_come_in_multiples_of_256(asked: dict[str, Any], cells: int, streams: int) -> None:
    """Sequences have equal parts, each rounded up, or share all cells."""
    found = size(ContextRequest(**asked))

    assert (found.cells, found.streams) == (cells, streams)


def test_a_row_for_each_cell() -> None:
    """Keys and values of one layer: 64 and 32 numbers of two bytes, for each of 1024 cells."""
    assert layer_bytes(ContextRequest(n_ctx=1024)) == (1024 * (64 + 32) * 2,)


@pytest.mark.parametrize(
    ("cache_type", "block_bytes"),
    [("f32", 128), ("f16", 64), ("bf16", 64), ("q8_0", 34), ("q5_1", 24), ("q5_0", 22), ("q4_1", 20), ("iq4_nl", 18)],
)
def test_rows_of_every_type(cache_type: str, block_bytes: int) -> None:
    """A row is as many blocks of 32 as it takes; keys have one type, values another."""
    found = layer_bytes(ContextRequest(n_ctx=1024, cache_type_k=cache_type, cache_type_v="q4_0"))

    assert found == (1024 * (2 * block_bytes + 18),)


def test_without_flash_attention_values_are_as_wide_as_the_widest() -> None:
    """They lie transposed then, and all layers alike."""
    assert layer_bytes(ContextRequest(n_ctx=1024, flash_attention=False)) == (1024 * (64 + 128) * 2,)


@pytest.mark.parametrize(
    ("asked", "cells"),
    [
        ({"n_ctx": 8192}, 1536),  # 1000 + 512, rounded up
        ({"n_ctx": 8192, "n_ubatch": 64}, 1280),
        ({"n_ctx": 8192, "n_batch": 64}, 1280),  # a micro-batch is no larger than a batch
        ({"n_ctx": 1024}, 1024),  # no more than the context
        ({"n_ctx": 32768, "n_seq": 4}, 1536),
        ({"n_ctx": 32768, "n_seq": 4, "kv_unified": True}, 4608),  # one window for each sequence
    ],
)
def test_a_window_needs_cells_for_itself_and_a_micro_batch(asked: dict[str, Any], cells: int) -> None:
    """Beyond the window a token is forgotten, but not before its micro-batch is through."""
    sliding = Caches((LayerCache((Rows(Holds.KEYS, 64, 64, sliding=True),)),), window=1000)

    assert size(ContextRequest(**asked), sliding).window_cells == cells


def test_states_are_per_sequence_and_never_quantised() -> None:
    """Four bytes each, whatever the types and however long the context."""
    recurrent = Caches((LayerCache(state=100), LayerCache()))

    for n_ctx in (512, 65536):
        assert layer_bytes(ContextRequest(n_ctx=n_ctx, n_seq=3, cache_type_k="q8_0"), recurrent) == (1200, 0)


def test_groups_of_tokens_have_a_cell_each() -> None:
    """One cell for 128 tokens, in multiples of 256, for each sequence even in a unified cache."""
    grouped = Caches((LayerCache((Rows(Holds.KEYS, 64, 64, tokens_per_cell=128),)),), unifiable=False)

    found = layer_bytes(ContextRequest(n_ctx=65536, n_seq=2, kv_unified=True), grouped)

    assert found == (2 * 512 * 64 * 2,)


@pytest.mark.parametrize("field", ["n_ctx", "n_seq", "n_batch", "n_ubatch"])
@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_counts_are_positive(field: str, value: int) -> None:
    """What must be counted is at least one, and 32 bits hold it; the error names the field."""
    with pytest.raises(InvalidValue, match=str(value)) as refused:
        ContextRequest(**{field: value})  # type: ignore[arg-type]

    assert refused.value.param == f"context.{field}"


@pytest.mark.parametrize("field", ["cache_type_k", "cache_type_v"])
@pytest.mark.parametrize("value", ["", "q4_k", "Q8_0", "f64"])
def test_only_known_cache_types(field: str, value: str) -> None:
    """The types llama-server knows, as it spells them."""
    with pytest.raises(InvalidValue) as refused:
        ContextRequest(**{field: value})  # type: ignore[arg-type]

    assert refused.value.param == f"context.{field}"


@pytest.mark.parametrize(
    ("caches", "asked", "field"),
    [
        (PLAIN, {"cache_type_v": "q8_0", "flash_attention": False}, "cache_type_v"),
        (
            Caches((LayerCache((Rows(Holds.KEYS, 80, 80),)),), key_lengths=frozenset({80})),
            {"cache_type_k": "q8_0"},
            "cache_type_k",
        ),
        (Caches((LayerCache((KEYS,)),), one_type=True), {"cache_type_k": "q8_0"}, "cache_type_v"),
        (Caches((LayerCache((KEYS, VALUES)),), flash_attention=False), {"cache_type_v": "q4_0"}, "cache_type_v"),
        (
            Caches((LayerCache((Rows(Holds.KEYS, 80, 80),)),)),
            {"cache_type_k": "q8_0", "flash_attention": False},
            "cache_type_k",
        ),
    ],
    ids=["no flash attention", "uneven heads", "one tensor", "never flash attention", "uneven rows"],
)
def test_types_that_the_model_rules_out(caches: Caches, asked: dict[str, Any], field: str) -> None:
    """What llama.cpp would refuse to make is refused here, by the name of the field."""
    with pytest.raises(InvalidValue) as refused:
        layer_bytes(ContextRequest(n_ctx=512, **asked), caches)

    assert refused.value.param == f"context.{field}"


def test_a_length_must_come_from_somewhere() -> None:
    """A model that does not say how long its context is needs to be told."""
    with pytest.raises(InvalidValue) as refused:
        size(ContextRequest(), n_ctx_train=None)

    assert refused.value.param == "context.n_ctx"


def test_tokens_stay_within_32_bits() -> None:
    """Parts that are rounded up must not come to more than can be counted."""
    with pytest.raises(InvalidValue) as refused:
        size(ContextRequest(n_ctx=2**31 - 1, n_seq=256, kv_unified=True), Caches(PLAIN.layers, unifiable=False))

    assert refused.value.param == "context.n_ctx"


@given(
    n_ctx=st.integers(1, 1 << 20),
    n_seq=st.integers(1, 64),
    cache_type=st.sampled_from(CACHE_TYPES),
    more=st.integers(1, 4096),
)
def test_a_longer_context_never_takes_less(n_ctx: int, n_seq: int, cache_type: str, more: int) -> None:
    """Bytes grow with the context, and there is room for every token asked for."""
    request = ContextRequest(n_ctx=n_ctx, n_seq=n_seq, cache_type_k=cache_type, cache_type_v=cache_type)
    longer = ContextRequest(n_ctx=n_ctx + more, n_seq=n_seq, cache_type_k=cache_type, cache_type_v=cache_type)

    found = size(request)

    assert found.cells * found.streams >= n_ctx
    assert layer_bytes(request) <= layer_bytes(longer)
