"""Vocabularies that cannot be: an error that names the key, or what llama.cpp would do; never anything else."""

from typing import Any

import pytest

from app.errors import InvalidValue, InvalidVocabulary, UnsupportedTokenizer
from app.model.pretokenizers import PreTokenizer
from app.tokenizing.bpe import BytePairs
from app.tokenizing.longest import MAX_LENGTH
from app.tokenizing.overlaps import MAX_OVERLAPPING, overlapping
from app.tokenizing.pieces import Pieces, from_alphabet
from app.tokenizing.tokenizer import MAX_SPECIAL, Frame, Tokenizer
from tests.gguf_builder import ARRAY, FLOAT32, INT8, INT32, STRING, UINT32, KeyValue
from tests.tokenizing.vocabularies import CONTROL, NORMAL, gpt2, ids, llama, texts, tokenizer, tokens, vocabulary

KEY = "tokenizer.ggml."


def changed(pairs: list[KeyValue], name: str, kind: int, value: Any) -> list[KeyValue]:
    """The same keys, one of them with another value."""
    return [*(pair for pair in pairs if pair[0] != KEY + name), (KEY + name, kind, value)]


@pytest.mark.parametrize(
    ("name", "kind", "value", "said"),
    [
        ("tokens", UINT32, 7, "must be an array of STRING, not no array"),
        ("tokens", ARRAY, (INT32, [1, 2]), "must be an array of STRING, not an array of INT32"),
        ("scores", ARRAY, (FLOAT32, [1.0]), "has 1 elements for 260 tokens"),
        ("scores", ARRAY, (STRING, ["1"] * 260), "must be an array of FLOAT32 or INT32"),
        ("scores", ARRAY, (FLOAT32, [float("nan")] * 260), "the score of token 0 is nan"),
        ("token_type", ARRAY, (INT32, []), "has 0 elements for 260 tokens"),
        ("token_type", ARRAY, (INT8, [1] * 260), "must be an array of INT32"),
    ],
)
def test_a_wrong_array_is_named(name: str, kind: int, value: Any, said: str) -> None:
    """Of the wrong type, too short, with what is no number."""
    with pytest.raises(InvalidVocabulary) as fault:
        tokenizer(changed(llama(("a", 0, NORMAL)), name, kind, value))

    assert fault.value.key == KEY + name
    assert said in fault.value.message


@pytest.mark.parametrize("merges", [None, (INT32, [1]), "no array"])
def test_merges_must_be_there(merges: Any) -> None:
    """BPE without merges, or with what are none; llama.cpp does not load these either."""
    pairs = [pair for pair in gpt2(["a"], []) if pair[0] != KEY + "merges"]
    if merges is not None:
        pairs.append((KEY + "merges", STRING if isinstance(merges, str) else ARRAY, merges))

    with pytest.raises(InvalidVocabulary, match="merges"):
        tokenizer(pairs)


@pytest.mark.parametrize("name", ["gpt-9", "hybriddna", "plamo2", "whitespace", "none", ""])
def test_a_kind_that_is_not_known_is_named(name: str) -> None:
    """What cannot be done as llama.cpp does it is not guessed at; the tokens can be listed all the same."""
    pairs = changed(llama(("a", 0, NORMAL)), "model", STRING, name)

    with pytest.raises(UnsupportedTokenizer) as fault:
        tokenizer(pairs)
    assert fault.value.tokenizer == name
    assert len(vocabulary(pairs)) == 260


def test_a_file_without_a_vocabulary_has_no_tokens() -> None:
    """Projectors and adapters have none."""
    assert len(vocabulary([])) == 0
    with pytest.raises(UnsupportedTokenizer, match="names no tokenizer"):
        tokenizer([])


@pytest.mark.parametrize("pairs", [llama(("a", 0, NORMAL), ("a", 1, NORMAL)), gpt2(["b", "a", "a"], [])])
def test_two_tokens_of_one_text_are_refused(pairs: list[KeyValue]) -> None:
    """Both ids are named; llama.cpp ends the process."""
    with pytest.raises(InvalidVocabulary, match=r"tokens \d+ and \d+ have the same text"):
        tokenizer(pairs)


def test_types_that_are_none_make_tokens_of_no_type() -> None:
    """Negative or unknown: such tokens are found in text, and stand for nothing, as with llama.cpp."""
    pairs = llama(("▁", 0, NORMAL), ("a", 0, -7), ("b", 0, 2**31 - 1), ("c", 0, NORMAL))

    assert texts(pairs, "abc") == ["▁", "a", "b", "c"]
    assert tokenizer(pairs).detokenize(ids(pairs, "abc")) == "c"


def test_tokens_that_are_not_utf_8_are_found_in_no_text() -> None:
    """They are kept apart by their bytes, and come back as such."""
    pairs = llama(
        ("▁", 0, NORMAL), (b"\xff", 0, NORMAL), (b"\xfe", 0, CONTROL), (b"\xff\xfe", 0, NORMAL), ("\0", 0, NORMAL)
    )
    made = tokenizer(pairs)

    assert texts(pairs, "\ufffd") == ["▁", "<0xEF>", "<0xBF>", "<0xBD>"]
    assert [made.pieces[token] for token in range(260, 263)] == [b"\xff", b"\xfe", b"\xff\xfe"]
    assert made.detokenize([260]) == "\ufffd"
    assert ids(gpt2([b"\xff", "a"], [b"\xff a"]), "a") == [1]


def test_a_token_without_text_is_named() -> None:
    """`[EMPTY_0]`, as with llama.cpp."""
    assert vocabulary(gpt2(["", "a"], [])).texts == ("[EMPTY_0]", "a")


def test_byte_tokens_that_name_no_byte_stand_for_one_all_the_same() -> None:
    """The digits are read as far as there are any."""
    pairs = llama(("<0xQ1>", 0, 6), ("x", 0, 6))

    assert [tokenizer(pairs).pieces[token] for token in (259, 260)] == [b"\0", b"\0"]


def test_characters_that_byte_level_does_not_have_are_told() -> None:
    """A token that is not written in GPT-2's alphabet is spelled as llama.cpp spells it."""
    assert tokenizer(gpt2(["a中"], [])).detokenize([0]) == "a[UNK_BYTE_0xe4b8ada中]"


def test_what_would_take_for_ever_is_refused() -> None:
    """More special tokens than can be searched for, and longer ones than can be tried one by one."""
    with pytest.raises(InvalidVocabulary, match="special tokens"):
        tokenizer(llama(*((f"<{number}>", 0, CONTROL) for number in range(MAX_SPECIAL))))
    with pytest.raises(InvalidVocabulary, match="length"):
        tokenizer([(KEY + "model", STRING, "rwkv"), *tokens(("a" * (MAX_LENGTH + 1), 0, NORMAL))])


def test_overlapping_special_tokens_are_looked_for_as_long_as_they_are_few() -> None:
    """A pass over the text for each of a hundred; of more the leftmost are taken. Runs of one character need none."""
    chained = [f"{chr(0x4E00 + n)}{chr(0x4E01 + n)}" for n in range(MAX_OVERLAPPING + 1)]

    assert len(overlapping(chained[:-1])) == MAX_OVERLAPPING
    assert overlapping(chained) == []
    assert overlapping(["<a><b>", "<b><c>", "<b>", "<c>", "[<a><b>]"]) == ["[<a><b>]", "<a><b>", "<b><c>"]
    assert overlapping(["\n" * n for n in range(1, 31)]) == []


@pytest.mark.slow
def test_a_million_tokens_are_many_but_no_fault() -> None:
    """BPE and SentencePiece, a million tokens each."""
    many = [f"t{number}" for number in range(1_000_000)]

    assert len(tokenizer(gpt2(many, [])).vocabulary) == 1_000_000
    assert len(tokenizer(llama(*((text, 0.0, NORMAL) for text in many))).vocabulary) == 1_000_259


def test_a_text_that_a_library_gives_up_on_is_a_value_that_cannot_be() -> None:
    """Oniguruma panics after ten million steps, which no `except Exception` would hear of."""
    found = vocabulary(gpt2(["x"], []))
    cut = PreTokenizer((r"(?:x+x+)+y",))
    frame = Frame(None, None, add_space_prefix=False, clean_spaces=False)
    made = Tokenizer(found, BytePairs(found, [], cut), Pieces(found, from_alphabet), frame)

    with pytest.raises(InvalidValue, match="gives up") as fault:
        made.tokenize("x" * 40 + "zxxy", add_special=False, parse_special=True)
    assert fault.value.param == "content"
    assert made.tokenize("xx", add_special=False, parse_special=True) == [0, 0]
