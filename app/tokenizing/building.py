"""From a file's vocabulary to a tokenizer: which kind it is, and what it takes for granted where the file is silent."""

from collections.abc import Mapping
from typing import Final

from app.errors import InvalidVocabulary, UnsupportedTokenizer
from app.gguf import Value, ValueType
from app.model.pretokenizers import PreTokenizer, pretokenizer
from app.model.tokenizer_kinds import Algorithm, TokenizerKind, tokenizer_kind
from app.model.tokens import KEY, Decode, Vocabulary, elements, strings
from app.tokenizing.bpe import BytePairs, require_merges
from app.tokenizing.panics import panics_are
from app.tokenizing.pieces import Pieces, from_alphabet, spaced
from app.tokenizing.rwkv import LongestBytes, unescaped
from app.tokenizing.sentence_pieces import SentencePieces
from app.tokenizing.tokenizer import Encoder, Frame, Tokenizer
from app.tokenizing.unigram import Scored
from app.tokenizing.word_pieces import WordPieces

_UNSUPPORTED: Final = frozenset({"hybriddna", "whitespace", "plamo2"})
"""llama.cpp knows these; no library here does what it does."""


def build(vocabulary: Vocabulary, metadata: Mapping[str, Value], decode: Decode) -> Tokenizer:
    """Make a tokenizer of a vocabulary and the rest of what its file says: merges, flags, a table of replacements.

    Raises UnsupportedTokenizer, InvalidVocabulary, and whatever `decode` does.
    """
    model = vocabulary.facts.model
    if model is None:
        raise UnsupportedTokenizer("the file names no tokenizer", key=f"{KEY}model", tokenizer=None)
    kind = tokenizer_kind(model)
    if kind.algorithm is Algorithm.NONE or model in _UNSUPPORTED:
        what = "the model has no vocabulary" if kind.algorithm is Algorithm.NONE else f"{model!r} is not supported"
        raise UnsupportedTokenizer(what, key=f"{KEY}model", tokenizer=model)
    _require_distinct(vocabulary)
    cut = pretokenizer(kind.pre or vocabulary.facts.pre) if kind.algorithm is Algorithm.BPE else None
    with panics_are(InvalidVocabulary("the tokenizer's library gives up on this vocabulary", key=f"{KEY}tokens")):
        encoder = _encoder(vocabulary, kind, cut, metadata, decode)
        return Tokenizer(vocabulary, encoder, _pieces(vocabulary, kind, cut), _frame(vocabulary, kind, cut))


def _encoder(
    vocabulary: Vocabulary,
    kind: TokenizerKind,
    cut: PreTokenizer | None,
    metadata: Mapping[str, Value],
    decode: Decode,
) -> Encoder:
    facts = vocabulary.facts
    if cut is not None:
        return BytePairs(vocabulary, require_merges(strings(metadata, "merges", decode), cut), cut)
    add_space_prefix = kind.add_space_prefix if facts.add_space_prefix is None else facts.add_space_prefix
    match kind.algorithm:
        case Algorithm.WORDPIECE:
            lower_case = _flag(metadata, "normalizer.lowercase", default=True)
            strip_accents = _flag(metadata, "normalizer.strip_accents", default=lower_case)
            return WordPieces(vocabulary, lower_case=lower_case, strip_accents=strip_accents)
        case Algorithm.UNIGRAM:
            found = elements(metadata, "precompiled_charsmap", (ValueType.INT8, ValueType.UINT8), decode)
            charsmap = bytes(int(byte) & 0xFF for byte in found or ())
            once = _flag(metadata, "remove_extra_whitespaces", default=False)
            return Scored(vocabulary, charsmap, add_space_prefix=add_space_prefix, remove_extra_spaces=once)
        case Algorithm.RWKV:
            return LongestBytes(vocabulary)
        case _:
            return SentencePieces(vocabulary, add_space_prefix=add_space_prefix)


def _pieces(vocabulary: Vocabulary, kind: TokenizerKind, cut: PreTokenizer | None) -> Pieces:
    if kind.algorithm is Algorithm.RWKV:
        return Pieces(vocabulary, unescaped, by_type=False)
    return Pieces(vocabulary, from_alphabet if cut is not None and not cut.escape_spaces else spaced)


def _frame(vocabulary: Vocabulary, kind: TokenizerKind, cut: PreTokenizer | None) -> Frame:
    facts = vocabulary.facts
    add_bos = kind.add_bos or (cut is not None and cut.add_bos) if facts.add_bos is None else facts.add_bos
    add_eos = kind.add_eos if facts.add_eos is None else facts.add_eos
    before = "bos" if add_bos or (cut is not None and cut.always_add_bos) else None
    after = "eos" if add_eos else None
    if kind.algorithm is Algorithm.WORDPIECE:  # which does so whatever the file says
        before, after = "bos", "sep"
    if kind.algorithm is Algorithm.RWKV:
        before = after = None
    return Frame(
        before,
        after,
        add_space_prefix=kind.add_space_prefix if facts.add_space_prefix is None else facts.add_space_prefix,
        clean_spaces=kind.clean_spaces if cut is None else cut.clean_spaces,
    )


def _require_distinct(vocabulary: Vocabulary) -> None:
    """llama.cpp ends the process where two tokens have the same text."""
    if len(vocabulary.ids) < len(vocabulary):
        first = next(token for token, text in enumerate(vocabulary.texts) if vocabulary.ids[text] != token)
        second = vocabulary.ids[vocabulary.texts[first]]
        raise InvalidVocabulary(f"tokens {first} and {second} have the same text", key=f"{KEY}tokens")


def _flag(metadata: Mapping[str, Value], name: str, *, default: bool) -> bool:
    value = metadata.get(KEY + name)
    return value if isinstance(value, bool) else default
