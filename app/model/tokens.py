"""The vocabulary itself: every token with its text, score and type, and what is special about it.

Source of the rules: `llama_vocab::impl::load` in src/llama-vocab.cpp of llama.cpp 0c1e57098, as packed in
llama-cpp-python 0.3.36.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from app.errors import InvalidVocabulary
from app.gguf import Array, Value, ValueType
from app.gguf.arrays import Scalar
from app.model.pretokenizers import PRETOKENIZERS
from app.model.special_tokens import TokenType, attributes, roles, strip
from app.model.tokenizer_kinds import TOKENIZER_KINDS, Algorithm
from app.model.vocabulary import VocabularyFacts, read_vocabulary

KEY: Final = "tokenizer.ggml."
_DEFAULTED: Final = ("bos", "eos", "unk", "sep", "pad", "mask")
_TYPES: Final = {int(kind): kind for kind in TokenType}

Decode = Callable[[Array], list[Scalar]]
"""Gives all elements of an array of the file; of strings that are not UTF-8 every byte, as `surrogateescape` does."""


@dataclass(frozen=True, slots=True, repr=False)
class Vocabulary:
    """All tokens. A token's id is its place; `ids` has the last one of those that share a text."""

    facts: VocabularyFacts
    texts: tuple[str, ...]
    """As they are in the file, with surrogates for bytes that are not UTF-8; `[EMPTY_7]` where the 8th has no text."""
    scores: Sequence[float] | None
    types: tuple[TokenType, ...]
    attributes: bytes
    """What llama.cpp takes each of them for: `Attribute` by id."""
    ids: Mapping[str, int]
    special: Mapping[str, int]
    """Ids by name (bos, eos, eot, …): as the file says, as is its tokenizer's default, or as known by their text."""

    def __len__(self) -> int:
        return len(self.texts)


def read_tokens(metadata: Mapping[str, Value], decode: Decode) -> Vocabulary:
    """Read all tokens; none for a file that has no vocabulary.

    Raises InvalidVocabulary where an array is of the wrong type or too short, and whatever `decode` does.
    """
    facts = read_vocabulary(metadata) or VocabularyFacts(None, None, None, {}, None, None, None, chat_template=False)
    raw = strings(metadata, "tokens", decode)
    texts = tuple(text or f"[EMPTY_{token}]" for token, text in enumerate(raw or ()))
    ids = {text: token for token, text in enumerate(texts)}
    types = _types(metadata, len(texts), decode)
    declared = _declared(facts, len(texts))
    special = roles(ids, declared)
    taken_for = attributes(types, ids, declared, special)
    name, architecture = _text(metadata, "general.name"), _text(metadata, "general.architecture")
    strip(taken_for, ids, name=name, architecture=architecture, pre=facts.pre or "")
    scores = _scores(metadata, len(texts), decode)
    return Vocabulary(facts, texts, scores, types, bytes(taken_for), ids, special)


def strings(metadata: Mapping[str, Value], name: str, decode: Decode) -> list[str] | None:
    """All elements of `tokenizer.ggml.<name>`; None where there is no such key. InvalidVocabulary for other types."""
    found = elements(metadata, name, (ValueType.STRING,), decode)
    return None if found is None else cast("list[str]", found)


def elements(
    metadata: Mapping[str, Value], name: str, allowed: tuple[ValueType, ...], decode: Decode
) -> list[Scalar] | None:
    """All elements of the array `tokenizer.ggml.<name>`, which must be of an allowed type; None where there is none."""
    value = metadata.get(KEY + name)
    if value is None:
        return None
    if not isinstance(value, Array) or value.type not in allowed:
        found = f"an array of {value.type.name}" if isinstance(value, Array) else "no array"
        expected = " or ".join(kind.name for kind in allowed)
        raise InvalidVocabulary(f"must be an array of {expected}, not {found}", key=KEY + name)
    return decode(value)


def _declared(facts: VocabularyFacts, n_tokens: int) -> dict[str, int]:
    """What the file names, else what its kind of tokenizer takes for granted, where there is such a token."""
    kind = TOKENIZER_KINDS.get(facts.model or "")
    if kind is None:
        return dict(facts.special)
    defaults = {name: getattr(kind, name) for name in _DEFAULTED}
    cut = PRETOKENIZERS.get(facts.pre or "default")
    if kind.algorithm is Algorithm.BPE and cut is not None and not cut.default_bos:
        defaults["bos"] = None
    known = {name: token for name, token in defaults.items() if token is not None and token < n_tokens}
    return {**known, **facts.special}


def _scores(metadata: Mapping[str, Value], n_tokens: int, decode: Decode) -> Sequence[float] | None:
    found = elements(metadata, "scores", (ValueType.FLOAT32, ValueType.INT32), decode)
    if found is None:
        return None
    _require_enough(len(found), n_tokens, "scores")
    return array("f", [float(score) for score in found[:n_tokens]])


def _types(metadata: Mapping[str, Value], n_tokens: int, decode: Decode) -> tuple[TokenType, ...]:
    """A number that is no type is UNDEFINED; without the array all tokens are normal."""
    found = elements(metadata, "token_type", (ValueType.INT32,), decode)
    if found is None:
        return (TokenType.NORMAL,) * n_tokens
    _require_enough(len(found), n_tokens, "token_type")
    return tuple(_TYPES.get(int(kind), TokenType.UNDEFINED) for kind in found[:n_tokens])


def _require_enough(count: int, n_tokens: int, name: str) -> None:
    if count < n_tokens:
        raise InvalidVocabulary(f"has {count} elements for {n_tokens} tokens", key=KEY + name)


def _text(metadata: Mapping[str, Value], key: str) -> str:
    value = metadata.get(key)
    return value if isinstance(value, str) else ""
