"""`bert`: text is cleaned and cut into words, each of which falls into the longest tokens from its beginning.

Source: `llm_tokenizer_wpm_session` in src/llama-vocab.cpp of llama.cpp 0c1e57098, and the Unicode tables that its
scripts/gen-unicode-data.py writes.
"""

import re
from functools import cache
from typing import Final
from unicodedata import category, normalize

from app.errors import InvalidVocabulary
from app.model.tokens import KEY, Vocabulary
from app.tokenizing.longest import LongestMatch
from app.tokenizing.pieces import SPACE, is_utf8

_BLANK: Final = re.compile(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_CHINESE: Final = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
)
_DROPPED: Final = frozenset({"Cc", "Cf", "Co", "Cs"})


class WordPieces:
    """Words by longest match. A word that does not fall into tokens to its end is the unknown token, as a whole."""

    def __init__(self, vocabulary: Vocabulary, *, lower_case: bool, strip_accents: bool) -> None:
        self._match = LongestMatch({text: token for text, token in vocabulary.ids.items() if is_utf8(text)})
        self._unknown = vocabulary.special.get("unk")
        self._clean = cache(lambda character: _clean(character, lower_case=lower_case, strip_accents=strip_accents))

    def encode(self, text: str, *, starts: bool) -> list[int]:
        """The ids; where the text stands makes no difference. InvalidVocabulary where an unknown token is missing."""
        del starts
        known: dict[str, list[int]] = {}
        ids: list[int] = []
        for word in _BLANK.sub(" ", text).translate(self._table(text)).split(" "):
            if word and word not in known:
                known[word] = self._tokens(word)
            ids += known.get(word, ())
        return ids

    def _table(self, text: str) -> dict[int, str]:
        return {ord(character): self._clean(character) for character in set(text) - {" "}}

    def _tokens(self, word: str) -> list[int]:
        found = self._match.tokens(SPACE + word)
        if found is not None:
            return found
        if self._unknown is None:
            raise InvalidVocabulary("a word has no tokens, and there is no unknown token", key=f"{KEY}unknown_token_id")
        return [self._unknown]


def _clean(character: str, *, lower_case: bool, strip_accents: bool) -> str:
    """What becomes of a character: itself, its base, nothing, or a word of its own, between spaces."""
    if _BLANK.match(character):
        return " "
    if strip_accents:
        character = normalize("NFD", character)[0]
    kind = category(character)
    if character in "\0\ufffd" or kind in _DROPPED or (strip_accents and kind[0] == "M"):
        return ""
    alone = kind[0] == "P" or (kind[0] == "S" and character < "\x7f") or _CHINESE.match(character)
    if lower_case:
        lower = character.lower()
        character = lower if len(lower) == 1 else lower[0]
    return f" {character} " if alone else character
