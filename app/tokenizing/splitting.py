"""Turns an entry of `PRETOKENIZERS` into a pre-tokenizer that the `tokenizers` library runs."""

import re
from typing import Final

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from app.model import pretokenizers

_CATEGORY: Final = re.compile(r"\\p\{([LMNPS])\}")

# What Unicode 16.0 added: Oniguruma knows these characters, llama.cpp's tables (15.1) do not, and take them for none of
# letters, marks, numbers, punctuation and symbols. The ranges also run over what no version has assigned.
_TOO_NEW: Final = (
    r"\x{897}\x{1B4E}\x{1B4F}\x{1B7F}\x{1C89}\x{1C8A}\x{2427}-\x{2429}\x{31E4}\x{31E5}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}"
    r"\x{105C0}-\x{105F3}\x{10D40}-\x{10D8F}\x{10EC2}-\x{10EFC}\x{11380}-\x{113E2}\x{116D0}-\x{116E3}\x{11BC0}-\x{11BF9}"
    r"\x{11F5A}\x{13460}-\x{143FA}\x{16100}-\x{16139}\x{16D40}-\x{16D79}\x{18CFF}\x{1CC00}-\x{1CEB3}\x{1E5D0}-\x{1E5FF}"
    r"\x{1F8B2}-\x{1F8C1}\x{1FA89}-\x{1FA8F}\x{1FABE}\x{1FAC6}\x{1FADC}-\x{1FADF}\x{1FAE9}\x{1FBCB}-\x{1FBEF}"
)


def splitter(entry: pretokenizers.PreTokenizer) -> PreTokenizer:
    """Make the entry executable: the pieces of a text, in GPT-2's alphabet of bytes where the entry says so.

    Escaping spaces, lower-casing and whole newlines are the caller's, who knows the vocabulary.
    """
    steps: list[PreTokenizer] = [Split(Regex(oniguruma(cut)), "isolated") for cut in entry.expressions]
    if entry.byte_level:
        steps.append(ByteLevel(add_prefix_space=False, use_regex=False))
    return Sequence(steps)


def oniguruma(expression: str) -> str:
    r"""Write an expression of the table out for Oniguruma: each `\p{..}` without what llama.cpp does not know."""
    return _CATEGORY.sub(rf"[\\p{{\1}}&&[^{_TOO_NEW.replace(chr(92), chr(92) * 2)}]]", expression)
