"""Vocabulary facts: what the metadata says of the tokenizer, and None where it is silent."""

from app.gguf import parse_header
from app.model import VocabularyFacts, read_vocabulary
from tests.gguf_builder import ARRAY, BOOL, INT32, STRING, UINT32, KeyValue, build

TOKENS = ("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "b", "c", "d"]))


def read(*pairs: KeyValue) -> VocabularyFacts | None:
    """Read the facts from these keys."""
    return read_vocabulary(parse_header(build(pairs)).metadata)


def test_all_facts_are_read() -> None:
    """Names, special tokens (the format spells one of them seperator), flags, the template's presence."""
    assert read(
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "llama-bpe"),
        TOKENS,
        ("tokenizer.ggml.bos_token_id", UINT32, 0),
        ("tokenizer.ggml.seperator_token_id", UINT32, 1),
        ("tokenizer.ggml.fim_pre_token_id", UINT32, 2),
        ("tokenizer.ggml.suffix_token_id", UINT32, 3),
        ("tokenizer.ggml.add_bos_token", BOOL, 1),
        ("tokenizer.ggml.add_eos_token", BOOL, 0),
        ("tokenizer.chat_template", STRING, "{{ messages }}"),
    ) == VocabularyFacts(
        model="gpt2",
        pre="llama-bpe",
        n_tokens=4,
        special={"bos": 0, "sep": 1, "fim_pre": 2, "fim_suf": 3},
        add_bos=True,
        add_eos=False,
        add_space_prefix=None,
        chat_template=True,
    )


def test_ids_that_are_no_tokens_are_left_out() -> None:
    """Beyond the vocabulary, negative, or no number at all."""
    facts = read(
        TOKENS,
        ("tokenizer.ggml.bos_token_id", UINT32, 4),
        ("tokenizer.ggml.eos_token_id", INT32, -1),
        ("tokenizer.ggml.padding_token_id", UINT32, 2**32 - 1),
        ("tokenizer.ggml.unknown_token_id", BOOL, 1),
        ("tokenizer.ggml.mask_token_id", UINT32, 3),
    )

    assert facts is not None
    assert facts.special == {"mask": 3}


def test_no_vocabulary_is_none() -> None:
    """A file without tokenizer keys has no vocabulary, as projectors have none."""
    assert read(("general.architecture", STRING, "clip")) is None


def test_a_vocabulary_without_tokens_is_unknown_in_size() -> None:
    """A tokenizer of model `none` has no list: the number of tokens is unknown, not 0."""
    facts = read(("tokenizer.ggml.model", STRING, "none"))

    assert facts is not None
    assert (facts.model, facts.n_tokens) == ("none", None)
