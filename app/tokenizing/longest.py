"""The longest token that fits, again and again. Neither library has this in a time that grows only with the text."""

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from app.errors import InvalidVocabulary
from app.model.tokens import KEY

T = TypeVar("T", str, bytes)

MAX_LENGTH: Final = 256
"""So many characters, or bytes, a token may have: each length that occurs may have to be tried at each place."""


class LongestMatch(Generic[T]):
    """Tokens by text, tried by the lengths that tokens of the same beginning have. InvalidVocabulary for a long one."""

    def __init__(self, ids: Mapping[T, int]) -> None:
        self._ids: Mapping[T, int] = ids
        lengths: dict[T, set[int]] = {}
        for text, token in ids.items():
            if len(text) > MAX_LENGTH:
                message = f"token {token} has a length of {len(text)}; {MAX_LENGTH} is the most for this tokenizer"
                raise InvalidVocabulary(message, key=f"{KEY}tokens")
            lengths.setdefault(text[:2], set()).add(len(text))
        for beginning in [text for text in lengths if len(text) == 2]:
            lengths[beginning] |= lengths.get(beginning[:1], set())
        self._lengths: dict[T, list[int]] = {
            beginning: sorted(found, reverse=True) for beginning, found in lengths.items()
        }

    def tokens(self, text: T) -> list[int] | None:
        """The ids that the text falls into from its beginning; None where nothing fits at some place."""
        found, place = [], 0
        while place < len(text):
            match = self._at(text, place)
            if match is None:
                return None
            found.append(self._ids[match])
            place += len(match)
        return found

    def _at(self, text: T, place: int) -> T | None:
        lengths = self._lengths.get(text[place : place + 2]) or self._lengths.get(text[place : place + 1]) or []
        candidates = (text[place : place + length] for length in lengths)
        return next((candidate for candidate in candidates if candidate in self._ids), None)
