"""Hyperparameters: llama.cpp's defaults where the file does not say, None where nobody can."""

import pytest

from app.gguf import parse_header
from app.model import Hyperparameters, read_hyperparameters
from tests.gguf_builder import ARRAY, FLOAT32, INT64, STRING, UINT16, UINT32, KeyValue, build

SHAPE: list[KeyValue] = [
    ("a.block_count", UINT32, 2),
    ("a.context_length", UINT32, 128),
    ("a.embedding_length", UINT32, 64),
    ("a.attention.head_count", UINT32, 4),
]


def read(*pairs: KeyValue, n_vocab: int | None = None) -> Hyperparameters:
    """Read the hyperparameters of architecture `a` from these keys."""
    return read_hyperparameters(parse_header(build(pairs)).metadata, "a", n_vocab=n_vocab)


def test_defaults_follow_from_what_the_file_says() -> None:
    """Key-value heads as many as heads, heads share the width, all of a head is rotated."""
    found = read(*SHAPE)

    assert (found.n_head, found.n_head_kv) == ((4, 4), (4, 4))
    assert (found.n_embd_head_k, found.n_embd_head_v, found.n_rot) == (16, 16, 16)
    assert found.problems == ()


def test_what_the_file_says_wins() -> None:
    """Explicit numbers replace the defaults, whatever integer type they have."""
    found = read(
        *SHAPE,
        ("a.attention.head_count_kv", UINT16, 1),
        ("a.attention.key_length", INT64, 32),
        ("a.attention.value_length", UINT32, 24),
        ("a.rope.dimension_count", UINT32, 8),
        ("a.rope.freq_base", FLOAT32, 500000.0),
        ("a.feed_forward_length", ARRAY, (UINT32, [128, 256])),
    )

    assert (found.n_head_kv, found.n_embd_head_k, found.n_embd_head_v, found.n_rot) == ((1, 1), 32, 24, 8)
    assert (found.rope_freq_base, found.n_ff) == (500000.0, (128, 256))


@pytest.mark.parametrize(
    ("pairs", "n_vocab"),
    [
        ([("a.vocab_size", UINT32, 7), ("tokenizer.ggml.tokens", ARRAY, (STRING, ["x", "y"]))], 7),
        ([("a.vocab_size", UINT32, 0), ("tokenizer.ggml.tokens", ARRAY, (STRING, ["x", "y"]))], 2),
        ([], 5),
    ],
)
def test_the_vocabularys_size_has_three_sources(pairs: list[KeyValue], n_vocab: int) -> None:
    """`vocab_size`, then the list of tokens, then the rows of the embedding."""
    assert read(*SHAPE, *pairs, n_vocab=5).n_vocab == n_vocab


def test_unknown_is_none() -> None:
    """A file that says nothing leaves everything open, and the three required keys are problems."""
    found = read()

    assert set(found.as_facts().values()) == {None}
    assert [problem.key for problem in found.problems] == [
        "a.block_count", "a.embedding_length", "a.context_length",
    ]  # fmt: skip


def test_a_value_that_cannot_be_takes_no_default() -> None:
    """A damaged number is unknown; a default in its place would hide the damage behind others."""
    found = read(*SHAPE, ("a.attention.head_count_kv", STRING, "4"), ("a.attention.key_length", STRING, "16"))

    assert (found.n_head_kv, found.n_embd_head_k) == (None, None)
    assert [problem.key for problem in found.problems] == ["a.attention.key_length", "a.attention.head_count_kv"]


def test_facts_show_one_number_where_layers_agree() -> None:
    """A per-layer value is a list only where layers differ."""
    facts = read(*SHAPE, ("a.feed_forward_length", ARRAY, (UINT32, [128, 0]))).as_facts()

    assert (facts["n_head"], facts["n_ff"]) == (4, [128, 0])
