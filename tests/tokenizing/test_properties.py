"""The libraries do what llama.cpp's own loops do, for vocabularies and texts that nobody thought of."""

from collections.abc import Mapping
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from app.model.special_tokens import Attribute
from app.tokenizing.fragments import Fragments
from app.tokenizing.longest import LongestMatch
from tests.gguf_builder import BOOL, KeyValue
from tests.tokenizing.vocabularies import NORMAL, gpt2, llama, tokenizer

LETTERS = "abc"
words = st.text(LETTERS, min_size=1, max_size=4)
NO_PREFIX: KeyValue = ("tokenizer.ggml.add_space_prefix", BOOL, 0)


def merged(symbols: list[str], rank: Mapping[tuple[str, str], float]) -> list[str]:
    """Merge the pair of the lowest rank, the leftmost of equal ones, until there is none."""
    while True:
        pairs = [(rank[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in rank]
        if not pairs:
            return symbols
        _, place = min(pairs)
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]


@given(st.dictionaries(words, st.integers(-3, 0), min_size=1, max_size=12), st.text(LETTERS, max_size=24))
@settings(max_examples=60)
def test_llama_merges_as_the_plain_loop_does(scores: dict[str, int], text: str) -> None:
    """By score, leftmost first, equal scores included; symbols that are no tokens become bytes."""
    made = tokenizer([*llama(*((word, score, NORMAL) for word, score in scores.items())), NO_PREFIX])
    pairs = {(word[:cut], word[cut:]): -score for word, score in scores.items() for cut in range(1, len(word))}
    known = made.vocabulary.ids
    expected = [
        known[name]
        for symbol in merged(list(text), pairs)
        for name in ([symbol] if symbol in known else [f"<0x{byte:02X}>" for byte in symbol.encode()])
    ]

    assert made.tokenize(text, add_special=False, parse_special=True) == expected


@given(st.lists(st.tuples(words, words), max_size=12), st.text(LETTERS, max_size=24))
@settings(max_examples=60)
def test_bpe_merges_as_the_plain_loop_does(merges: list[tuple[str, str]], text: str) -> None:
    """By rank, leftmost first; the first of equal merges counts."""
    texts = sorted({*LETTERS, *(part for pair in merges for part in (*pair, "".join(pair)))})
    made = tokenizer(gpt2(texts, [" ".join(pair) for pair in merges]))
    rank = {pair: float(place) for place, pair in reversed(list(enumerate(merges)))}
    expected = [made.vocabulary.ids[symbol] for symbol in merged(list(text), rank)]

    assert made.tokenize(text, add_special=False, parse_special=True) == expected


@given(
    st.lists(st.one_of(words, st.sampled_from(["<a>", "<b>", "<a><b>", "\n", "\n\n", "\n\n\n"])), unique_by=len),
    st.text("<>abc\n", max_size=60),
)
@settings(max_examples=100)
def test_special_tokens_are_found_as_llama_cpp_finds_them(special: list[str], text: str) -> None:
    """The longest tokens of the whole text first, each from left to right; of equally long ones llama.cpp takes any."""
    longest_first = sorted(special, key=len, reverse=True)
    expected: list[str | int] = [text] if text else []
    for token, name in enumerate(longest_first):
        parts: list[str | int] = []
        for part in expected:
            between = part.split(name) if isinstance(part, str) else [part]
            parts += [one for piece in between for one in (token, piece)][1:]
        expected = [part for part in parts if part != ""]

    found = Fragments({name: (token, Attribute.CONTROL) for token, name in enumerate(longest_first)})

    assert list(found.of(text)) == expected


@given(st.dictionaries(words, st.integers(0, 9)), st.text(LETTERS, max_size=24))
@settings(max_examples=60)
def test_the_longest_match_is_the_longest(ids: dict[str, int], text: str) -> None:
    """At each place no longer token fits; nothing is found only where nothing fits."""
    expected: list[int] | None = []
    rest = text
    while rest and expected is not None:
        match = max((word for word in ids if rest.startswith(word)), key=len, default=None)
        expected = None if match is None else [*expected, ids[match]]
        rest = rest[len(match or "") :]

    assert LongestMatch(ids).tokens(text) == expected


BYTE_LEVEL = tokenizer(gpt2([chr(c) for c in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144))], []))
SENTENCES = tokenizer(llama(("▁", 0, NORMAL), ("▁a", 0, NORMAL), ("é", 0, NORMAL)))


@given(st.text(max_size=60).filter(lambda text: "'" not in text and " " not in text and "\u2581" not in text))
@settings(max_examples=60)
def test_what_is_detokenized_is_what_was_tokenized(text: str) -> None:
    """Any text comes back, whatever characters are in it: by bytes, or as bytes."""
    for made in (BYTE_LEVEL, SENTENCES):
        assert made.detokenize(made.tokenize(text, add_special=False, parse_special=False)) == text


def test_scores_may_be_missing() -> None:
    """All are 0 then: the leftmost pair goes first."""
    pairs = [pair for pair in llama(("ab", 5, NORMAL), ("bc", 9, NORMAL)) if pair[0] != "tokenizer.ggml.scores"]
    made = tokenizer([*pairs, NO_PREFIX])
    first, *_ = made.tokenize("abc", add_special=False, parse_special=True)

    assert made.vocabulary.texts[first] == "ab"
