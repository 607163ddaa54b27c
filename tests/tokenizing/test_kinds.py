"""Each kind of tokenizer by llama.cpp's rules, on vocabularies small enough to work out by hand."""

import pytest
from sentencepiece import SentencePieceNormalizer
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from app.errors import InvalidVocabulary
from tests.gguf_builder import ARRAY, BOOL, INT8, STRING, UINT32, KeyValue
from tests.tokenizing.vocabularies import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    gpt2,
    ids,
    llama,
    texts,
    tokenizer,
    tokens,
)

ABC = llama(("▁", -9, NORMAL), ("a", -8, NORMAL), ("b", -7, NORMAL), ("ab", -2, NORMAL), ("ba", -1, NORMAL))


def test_llama_merges_the_highest_score_first() -> None:
    """`ba` goes before `ab`, though it comes later; of the same pair twice the left one goes first."""
    assert texts(ABC, "aba") == ["▁", "a", "ba"]
    assert texts([*ABC, ("tokenizer.ggml.add_space_prefix", BOOL, 0)], "abab") == ["a", "ba", "b"]
    assert texts(llama(("a", 0, NORMAL), ("aa", 1, NORMAL)), "aaa")[-2:] == ["aa", "a"]


def test_llama_falls_back_to_bytes() -> None:
    """Each byte of a character that has no token; a run of them in order; NUL is a byte like any other."""
    assert texts(ABC, "é")[1:] == ["<0xC3>", "<0xA9>"]
    assert texts(ABC, "a\0€") == ["▁", "a", "<0x00>", "<0xE2>", "<0x82>", "<0xAC>"]
    assert tokenizer(ABC).detokenize(ids(ABC, "a\0€ b")) == "a\0€ b"


def test_llama_without_bytes_says_so() -> None:
    """llama.cpp throws; here it is an error that names the byte. One written as itself is found."""
    bare = llama(("a", 0, NORMAL), ("▁", 0, NORMAL), ("\n", 0, NORMAL), bytes_too=False)

    assert texts(bare, "a\n") == ["▁", "a", "\n"]
    with pytest.raises(InvalidVocabulary, match="<0x62>"):
        ids(bare, "b")


def test_llama_prefixes_a_space_after_special_tokens() -> None:
    """At the beginning and after each special token, not elsewhere; the first is taken off again."""
    found = texts(ABC, "a<s>b</s>")

    assert found == ["▁", "a", "<s>", "▁", "b", "</s>"]
    assert tokenizer(ABC).detokenize(ids(ABC, "a b")) == "a b"
    assert texts(ABC, "") == []


def test_special_tokens_are_text_unless_they_are_parsed() -> None:
    """Control and unknown tokens only with `parse_special`; user-defined ones always, the longest of several."""
    pairs = llama(("▁", 0, NORMAL), ("<x>", 0, USER_DEFINED), ("<x><y>", 0, USER_DEFINED), ("<z>", 0, UNUSED))

    assert texts(pairs, "<x><y><x>", parse_special=False) == ["<x><y>", "<x>"]
    assert texts(pairs, "<s><unk>") == ["<s>", "<unk>"]
    assert texts(pairs, "<s>", parse_special=False) == ["▁", "<0x3C>", "<0x73>", "<0x3E>"]
    assert "<z>" not in texts(pairs, "<z>")


def test_phi_3_takes_the_spaces_after_special_tokens() -> None:
    """By its name, as llama.cpp does, for files do not say so."""
    marked = llama(("▁", 0, NORMAL), ("a", 0, NORMAL), ("<|end|>", 0, CONTROL))

    assert texts(marked, "<|end|>  a") == ["<|end|>", "▁", "▁", "▁", "a"]
    assert texts([*marked, ("general.name", STRING, "Phi-3 mini")], "<|end|>  \na") == ["<|end|>", "▁", "a"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], ["<s>", "▁", "a"]),
        ([("tokenizer.ggml.add_bos_token", BOOL, 0), ("tokenizer.ggml.add_eos_token", BOOL, 1)], ["▁", "a", "</s>"]),
        ([("tokenizer.ggml.bos_token_id", UINT32, 2)], ["</s>", "▁", "a"]),
        ([("tokenizer.ggml.bos_token_id", UINT32, 2**32 - 1)], ["<s>", "▁", "a"]),
    ],
    ids=["defaults", "flags", "named", "out of range"],
)
def test_what_is_added_is_the_files_to_say(more: list[KeyValue], expected: list[str]) -> None:
    """`add_special` adds what flags and ids say, and what llama.cpp does where they say nothing that can be."""
    made = tokenizer([*ABC, *more])

    assert [
        made.vocabulary.texts[token] for token in made.tokenize("a", add_special=True, parse_special=True)
    ] == expected


def test_what_is_to_be_added_and_is_not_there_is_an_error() -> None:
    """A vocabulary that wants an end-of-sequence token and has none, where llama.cpp ends the process."""
    pairs = gpt2(["a"], [], ("tokenizer.ggml.add_eos_token", BOOL, 1))

    assert ids(pairs, "a") == [0]
    with pytest.raises(InvalidVocabulary, match="eos"):
        ids(pairs, "a", add_special=True)


def test_bpe_merges_by_rank() -> None:
    """The first merge of the file goes first; a merge twice counts where it stands first."""
    alphabet = ["a", "b", "c", "ab", "bc", "Ġ"]

    assert texts(gpt2(alphabet, ["a b", "b c"]), "abc") == ["ab", "c"]
    assert texts(gpt2(alphabet, ["b c", "a b", "b c"]), "abc") == ["a", "bc"]


def test_bpe_goes_on_from_what_is_no_token() -> None:
    """A merge may make what is no token; what is left of that is spelled out in single bytes that are."""
    pairs = gpt2(["a", "b", "c", "abc"], ["a b", "ab c", "b c"])

    assert texts(pairs, "abc") == ["abc"]
    assert texts(pairs, "ab") == ["a", "b"]
    assert texts(pairs, "aéb") == ["a", "b"]


def test_bpe_ignores_merges_that_cannot_be() -> None:
    """Without two sides, of characters that no text is made of, not UTF-8: they are never met."""
    assert texts(gpt2(["a", "b", "ab"], ["", "ab", "a ", " a", "x  y", b"\xff a", "a b"]), "ab") == ["ab"]


def test_bpe_takes_whole_pieces_where_its_pre_tokenizer_says_so() -> None:
    """`llama-bpe` looks a piece up before it merges."""
    pairs = gpt2(["a", "b", "c", "ab", "abc"], ["a b"])

    assert texts(pairs, "abc") == ["ab", "c"]
    assert texts([*pairs, ("tokenizer.ggml.pre", STRING, "llama-bpe")], "abc") == ["abc"]


def test_bpe_takes_out_spaces_where_its_pre_tokenizer_says_so() -> None:
    """By default spaces before punctuation and contractions are left out of the text; for qwen2 they stay."""
    pairs = gpt2([*"abst.!'", "Ġ"], [])
    text = "a . b ' a 's !"

    assert tokenizer(pairs).detokenize(ids(pairs, text)) == "a. b'a's!"
    kept = [*pairs, ("tokenizer.ggml.pre", STRING, "qwen2")]
    assert tokenizer(kept).detokenize(ids(kept, text)) == text


def test_gemma_4_escapes_spaces_and_keeps_newlines_whole() -> None:
    """BPE over UTF-8: U+2581 for spaces, whole runs of newlines, `<0xFF>` for what has no token, always a `bos`."""
    found = ["<bos>", "▁", "a", "▁a", "\n\n\n", "\n", "<0xC3>", "<0xA9>"]
    pairs = [
        ("tokenizer.ggml.model", STRING, "gemma4"),
        *gpt2(found, ["▁ a"])[1:],
        ("tokenizer.ggml.bos_token_id", UINT32, 0),
    ]

    assert texts(pairs, " a\n\n\na\n\né") == ["▁a", "\n\n\n", "a", "\n", "\n", "<0xC3>", "<0xA9>"]
    assert ids([*pairs, ("tokenizer.ggml.add_bos_token", BOOL, 0)], "a", add_special=True) == [0, 2]


WORDS = tokens(
    ("[PAD]", 0, CONTROL), ("[UNK]", 0, UNKNOWN), ("▁un", 0, NORMAL), ("able", 0, NORMAL), ("▁cafe", 0, NORMAL),
    ("▁中", 0, NORMAL), ("▁,", 0, NORMAL), ("[CLS]", 0, CONTROL), ("[SEP]", 0, CONTROL), ("▁É", 0, NORMAL),
)  # fmt: skip
BERT: list[KeyValue] = [
    ("tokenizer.ggml.model", STRING, "bert"),
    ("tokenizer.ggml.unknown_token_id", UINT32, 1),
    ("tokenizer.ggml.bos_token_id", UINT32, 7),
    ("tokenizer.ggml.seperator_token_id", UINT32, 8),
    *WORDS,
]


def test_bert_cuts_words_into_the_longest_pieces() -> None:
    """Lower case, without accents; punctuation and Chinese alone; a word that does not come out even is unknown."""
    assert texts(BERT, "UNABLE,café中\u200b \0x") == ["▁un", "able", "▁,", "▁cafe", "▁中", "[UNK]"]
    assert texts(BERT, "unx\tuna\u3000ble") == ["[UNK]", "[UNK]", "[UNK]"]
    assert ids(BERT, "un", add_special=True) == [7, 2, 8]
    assert tokenizer(BERT).detokenize([2, 3, 6]) == " unable,"


def test_bert_leaves_case_and_accents_where_the_file_says_so() -> None:
    """`normalizer.lowercase` off leaves both, unless the file has something else to say of accents."""
    cased: list[KeyValue] = [*BERT, ("tokenizer.ggml.normalizer.lowercase", BOOL, 0)]

    assert texts(cased, "É UN") == ["▁É", "[UNK]"]
    assert texts([*cased, ("tokenizer.ggml.normalizer.strip_accents", BOOL, 1)], "É") == ["[UNK]"]


def t5(*more: KeyValue) -> list[KeyValue]:
    """A Unigram vocabulary."""
    found = tokens(
        ("<pad>", 0, CONTROL), ("</s>", 0, CONTROL), ("<unk>", 0, UNKNOWN), ("▁", -3, NORMAL), ("a", -4, NORMAL),
        ("b", -4, NORMAL), ("ab", -6, NORMAL), ("▁a", -5, NORMAL), ("1", -4, NORMAL), ("<x>", -50, USER_DEFINED),
    )  # fmt: skip
    return [("tokenizer.ggml.model", STRING, "t5"), *found, *more]


def test_t5_takes_the_best_sum_of_scores() -> None:
    """`▁` and `ab` are -9 together, as `▁a` and `b` are; a run of what has no token is unknown, once."""
    spaced = t5(("tokenizer.ggml.add_space_prefix", BOOL, 1))

    assert texts(t5(), "ab") == ["ab"]
    assert texts(spaced, "aab") == ["▁a", "ab"]
    assert texts(spaced, "xyzb<x>a") == ["▁", "<unk>", "b", "<x>", "▁a"]
    assert ids(t5(), "a", add_special=True) == [4, 1]


def test_t5_has_one_space_before_each_word_where_it_merges_spaces() -> None:
    """`remove_extra_whitespaces` puts one there even without a prefix; else there are as many as in the text."""
    assert texts(t5(("tokenizer.ggml.remove_extra_whitespaces", BOOL, 1)), "  a   b ") == ["▁a", "▁", "b"]
    assert texts(t5(), "  b") == ["▁", "▁", "b"]


def test_t5_normalises_by_the_files_own_table() -> None:
    """The table is sentencepiece's own: full-width letters and superscripts become plain, all blanks spaces."""
    rules = ModelProto.FromString(SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto())
    charsmap = list(rules.normalizer_spec.precompiled_charsmap)
    signed = [byte - 256 if byte > 127 else byte for byte in charsmap]
    pairs = t5(("tokenizer.ggml.precompiled_charsmap", ARRAY, (INT8, signed)))

    assert texts(pairs, "\uff41\uff42¹\u3000\uff42") == ["ab", "1", "▁", "b"]
    with pytest.raises(InvalidVocabulary, match="precompiled_charsmap"):
        tokenizer(t5(("tokenizer.ggml.precompiled_charsmap", ARRAY, (INT8, signed[:5000]))))


def test_rwkv_takes_the_longest_bytes() -> None:
    r"""Tokens are written with escapes; what begins no token is an error, where llama.cpp loops."""
    found = tokens(
        ("<s>", 0, NORMAL), (r"\xc3", 0, NORMAL), (r"\xa9", 0, NORMAL), ("a", 0, NORMAL), (r"a\n\\", 0, NORMAL)
    )
    pairs: list[KeyValue] = [("tokenizer.ggml.model", STRING, "rwkv"), *found]

    assert ids(pairs, "aéa\n\\a") == [3, 1, 2, 4, 3]
    assert tokenizer(pairs).detokenize([3, 1, 2, 4, 3]) == "aéa\n\\a"
    with pytest.raises(InvalidVocabulary, match="byte"):
        ids(pairs, "b")
