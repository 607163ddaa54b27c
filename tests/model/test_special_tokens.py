"""Which tokens are special: by type, by key, by default, and by what they say."""

import pytest

from app.model.special_tokens import Attribute
from tests.gguf_builder import BOOL, STRING, UINT32, KeyValue
from tests.tokenizing.vocabularies import CONTROL, NORMAL, USER_DEFINED, gpt2, llama, vocabulary

NAME = "general.name"


def taken_for(pairs: list[KeyValue], text: str) -> Attribute:
    """What the token of this text is taken for."""
    found = vocabulary(pairs)
    return Attribute(found.attributes[found.ids[text]])


def test_roles_are_declared_taken_for_granted_or_known_by_their_text() -> None:
    """A key goes before the kind's default, and both before texts; of two texts the first token has the role."""
    found = llama(
        ("<|im_end|>", 0, CONTROL), ("<|eot_id|>", 0, CONTROL), ("<PRE>", 0, NORMAL), ("<fim_suffix>", 0, NORMAL)
    )
    keys: list[KeyValue] = [
        ("tokenizer.ggml.eos_token_id", UINT32, 259),
        ("tokenizer.ggml.suffix_token_id", UINT32, 5),
        ("tokenizer.ggml.padding_token_id", UINT32, 2**32 - 1),
    ]

    expected = {"unk": 0, "bos": 1, "eos": 259, "eot": 259, "fim_pre": 261, "fim_suf": 5}
    assert vocabulary([*found, *keys]).special == expected


def test_defaults_beyond_the_vocabulary_are_none() -> None:
    """A BPE's default for `bos` and `eos` is 11; some pre-tokenizers have none."""
    texts = [str(number) for number in range(12)]

    assert vocabulary(gpt2(texts, [])).special == {"bos": 11, "eos": 11}
    assert vocabulary(gpt2(texts[:11], [])).special == {}
    assert vocabulary([*gpt2(texts, []), ("tokenizer.ggml.pre", STRING, "glm4")]).special == {"eos": 11}


def test_what_ends_generation_is_a_control_token_whatever_the_file_says() -> None:
    """Files forget it; a token in a role that it was not declared for is one as well."""
    pairs = llama(("<|endoftext|>", 0, NORMAL), ("<PRE>", 0, USER_DEFINED), ("<x>", 0, USER_DEFINED))

    assert taken_for(pairs, "<|endoftext|>") == Attribute.NORMAL | Attribute.CONTROL
    assert taken_for(pairs, "<PRE>") == Attribute.USER_DEFINED | Attribute.CONTROL
    declared: list[KeyValue] = [*pairs, ("tokenizer.ggml.fim_pre_token_id", UINT32, 260)]
    assert taken_for(declared, "<PRE>") == taken_for(pairs, "<x>") == Attribute.USER_DEFINED


def test_harmony_shows_its_channels() -> None:
    """`<|channel|>` and its kin are always found and shown; so is `<|end|>`, beside `<|return|>` and `<|call|>`."""
    pairs = llama(*((text, 0, CONTROL) for text in ("<|channel|>", "<|end|>", "<|return|>", "<|call|>")))

    assert taken_for(pairs, "<|channel|>") == taken_for(pairs, "<|end|>") == Attribute.USER_DEFINED
    assert taken_for(pairs, "<|return|>") == Attribute.CONTROL
    assert taken_for(llama(("<|end|>", 0, CONTROL)), "<|end|>") == Attribute.CONTROL


def test_an_end_of_sentence_is_text_where_others_end_generation() -> None:
    """`</s>` beside `<|tool_response>`."""
    assert taken_for(llama(("<|tool_response>", 0, CONTROL)), "</s>") == Attribute.NORMAL
    assert taken_for(llama(), "</s>") == Attribute.CONTROL


@pytest.mark.parametrize(
    ("key", "text", "attribute"),
    [
        ((NAME, STRING, "Phi-3-mini"), "</s>", Attribute.RSTRIP),
        ((NAME, STRING, "Phi-3-mini"), "<s>", Attribute(0)),
        ((NAME, STRING, "Modern-BERT"), "[MASK]", Attribute.LSTRIP),
        (("tokenizer.ggml.pre", STRING, "jina-v2-de"), "<mask>", Attribute.LSTRIP),
        (("general.architecture", STRING, "nomic-bert-moe"), "<mask>", Attribute.LSTRIP),
        (("tokenizer.ggml.add_bos_token", BOOL, 1), "<mask>", Attribute(0)),
    ],
)
def test_a_few_models_are_known_by_name_to_strip_spaces(key: KeyValue, text: str, attribute: Attribute) -> None:
    """Files do not say which tokens take the spaces beside them."""
    pairs = llama(("<mask>", 0, CONTROL), ("[MASK]", 0, CONTROL))

    assert taken_for([key, *pairs], text) & (Attribute.LSTRIP | Attribute.RSTRIP) == attribute
