"""Vocabularies to build: whole files of a few tokens each."""

from collections.abc import Sequence

from app.gguf import Array, parse_header
from app.gguf.arrays import Scalar
from app.model import Vocabulary, read_tokens
from app.tokenizing import Tokenizer, build
from tests.gguf_builder import ARRAY, FLOAT32, INT32, STRING, KeyValue
from tests.gguf_builder import build as write

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

Token = tuple[str | bytes, float, int]


def tokens(*found: Token) -> list[KeyValue]:
    """Tokens of a text, a score and a type each, as a file has them."""
    return [
        ("tokenizer.ggml.tokens", ARRAY, (STRING, [text for text, _, _ in found])),
        ("tokenizer.ggml.scores", ARRAY, (FLOAT32, [score for _, score, _ in found])),
        ("tokenizer.ggml.token_type", ARRAY, (INT32, [kind for _, _, kind in found])),
    ]


def llama(*found: Token, bytes_too: bool = True) -> list[KeyValue]:
    """A SentencePiece vocabulary: the unknown token, `<s>`, `</s>`, the bytes if wanted, then these."""
    head: list[Token] = [("<unk>", 0, UNKNOWN), ("<s>", 0, CONTROL), ("</s>", 0, CONTROL)]
    fallback: list[Token] = [(text, 0, BYTE) for text in BYTES] if bytes_too else []
    return [("tokenizer.ggml.model", STRING, "llama"), *tokens(*head, *fallback, *found)]


def gpt2(texts: Sequence[str | bytes], merges: Sequence[str | bytes], *more: KeyValue) -> list[KeyValue]:
    """A BPE vocabulary of normal tokens."""
    return [
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, texts)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, merges)),
        *more,
    ]


def decoded(array: Array) -> list[Scalar]:
    """All elements of an array, with surrogates for bytes that are not UTF-8."""
    return array.decode(array._data, "surrogateescape")


def vocabulary(pairs: Sequence[KeyValue]) -> Vocabulary:
    """The vocabulary of a file with these keys."""
    return read_tokens(parse_header(write(pairs)).metadata, decoded)


def tokenizer(pairs: Sequence[KeyValue]) -> Tokenizer:
    """The tokenizer of a file with these keys."""
    metadata = parse_header(write(pairs)).metadata
    return build(read_tokens(metadata, decoded), metadata, decoded)


def ids(pairs: Sequence[KeyValue], text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
    """The ids of a text by the tokenizer of a file with these keys."""
    return tokenizer(pairs).tokenize(text, add_special=add_special, parse_special=parse_special)


def texts(pairs: Sequence[KeyValue], text: str, *, parse_special: bool = True) -> list[str]:
    """The same, each id as its token's text."""
    made = tokenizer(pairs)
    found = made.tokenize(text, add_special=False, parse_special=parse_special)
    return [made.vocabulary.texts[token] for token in found]
