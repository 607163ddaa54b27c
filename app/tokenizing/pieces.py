"""What each token stands for, in bytes: some are a part of a character only.

Source: `llama_vocab::impl::token_to_piece` and `detokenize` in src/llama-vocab.cpp of llama.cpp 0c1e57098.
"""

import re
from collections.abc import Callable
from typing import Final

from app.model.special_tokens import SPECIAL, Attribute
from app.model.tokens import Vocabulary

SPACE: Final = "\u2581"
"""What stands for a space in most vocabularies."""

_HEX: Final = re.compile("[0-9A-Fa-f]+")
_SPACE_BEFORE: Final = re.compile(rb" ([?!.,])")
_APOSTROPHE_ALONE: Final = re.compile(rb" ' ")
_CONTRACTION: Final = re.compile(rb" ('(?:s|m|re|ve))")


def raw(text: str) -> bytes:
    """A token's text as it stands in the file."""
    return text.encode("utf-8", "surrogateescape")


def is_utf8(text: str) -> bool:
    """Whether a token's text is text; if not, it is found in no text."""
    try:
        text.encode()
    except UnicodeEncodeError:  # by the surrogates that stand for single bytes
        return False
    return True


def byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: a printable character for every byte, and the byte of each.

    What is printable in Latin-1 stands for itself; the others are U+0100 and following, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(0x100) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES: Final = byte_alphabet()


class Pieces:
    """The bytes of each token of a vocabulary. `spell` has the say over normal tokens; if not `by_type`, over all."""

    def __init__(self, vocabulary: Vocabulary, spell: Callable[[str], bytes], *, by_type: bool = True) -> None:
        self._vocabulary = vocabulary
        self._spell = spell
        self._by_type = by_type

    def __getitem__(self, token: int) -> bytes:
        """What a token stands for; nothing for unused ones. IndexError."""
        text, attribute = self._vocabulary.texts[token], self._vocabulary.attributes[token]
        if self._by_type and attribute & SPECIAL:
            return raw(text)
        if not self._by_type or attribute & Attribute.NORMAL:
            return self._spell(text)
        if attribute & Attribute.BYTE:
            digits = _HEX.match(text[3:5])
            return bytes([int(digits[0], 16) if digits else 0])
        return b""


def spaced(text: str) -> bytes:
    """Spell a token in which U+2581 stands for a space."""
    return raw(text.replace(SPACE, " "))


def from_alphabet(text: str) -> bytes:
    """Spell a token written in GPT-2's alphabet; what is not of it is named in brackets, as llama.cpp does."""
    if _BYTES.keys() >= set(text):
        return bytes(_BYTES[character] for character in text)
    return b"".join(
        bytes([_BYTES[character]])
        if character in _BYTES
        else b"[UNK_BYTE_0x%s%s]" % (raw(character).hex().encode(), raw(text))
        for character in text
    )


def without_spaces(text: bytes) -> bytes:
    """Take out the spaces before punctuation, around an apostrophe, and before `'s`, `'m`, `'re` and `'ve`."""
    return _CONTRACTION.sub(rb"\1", _APOSTROPHE_ALONE.sub(b"'", _SPACE_BEFORE.sub(rb"\1", text)))
