"""A tokenizer ready to use: special tokens first, text by its kind, and back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from app.errors import InvalidValue, InvalidVocabulary
from app.model.special_tokens import SPECIAL, Attribute
from app.model.tokens import KEY, Vocabulary
from app.tokenizing.fragments import Fragments
from app.tokenizing.panics import panics_are
from app.tokenizing.pieces import Pieces, is_utf8, without_spaces

MAX_SPECIAL: Final = 100_000
"""So many special tokens are searched for; files in the field have some 30 thousand at most."""

_SPECIAL: Final = int(SPECIAL)  # a flag's own `&` takes longer than all else that is done to a token here


class Encoder(Protocol):
    """How one kind of tokenizer turns text that holds no special tokens into ids."""

    def encode(self, text: str, *, starts: bool) -> list[int]:
        """The ids of a text, not empty, that `starts` the whole or follows a special token."""
        ...


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around a whole text with `add_special`, by role; and what is taken out of one made of tokens."""

    before: str | None
    after: str | None
    add_space_prefix: bool
    clean_spaces: bool


class Tokenizer:
    """Text to ids and back. Any thread may use it, several at once."""

    def __init__(self, vocabulary: Vocabulary, encoder: Encoder, pieces: Pieces, frame: Frame) -> None:
        self.vocabulary = vocabulary
        self.pieces = pieces
        self._encoder = encoder
        self._frame = frame
        special = {
            vocabulary.texts[token]: (token, Attribute(attribute))
            for token, attribute in enumerate(vocabulary.attributes)
            if attribute & _SPECIAL and is_utf8(vocabulary.texts[token])
        }
        if len(special) > MAX_SPECIAL:
            raise InvalidVocabulary(
                f"{len(special)} special tokens; {MAX_SPECIAL} can be found", key=f"{KEY}token_type"
            )
        hidden = Attribute.CONTROL | Attribute.UNKNOWN
        self._all = Fragments(special)
        self._shown = Fragments({text: one for text, one in special.items() if not one[1] & hidden})

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The ids of a text. Without `parse_special` only user-defined tokens are found as a whole.

        `add_special` puts before and after it what the vocabulary wants there; InvalidVocabulary where it has none.
        InvalidValue for a text that a library gives up on.
        """
        with panics_are(InvalidValue("content: the tokenizer gives up on this text", param="content")):
            return self._tokenize(text, add_special=add_special, parse_special=parse_special)

    def _tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        ids = self._framing(self._frame.before) if add_special else []
        starts = True
        for fragment in (self._all if parse_special else self._shown).of(text):
            if isinstance(fragment, int):
                ids.append(fragment)
            else:
                ids += self._encoder.encode(fragment, starts=starts)
            starts = isinstance(fragment, int)
        return ids + self._framing(self._frame.after) if add_special else ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of these ids, special ones included; InvalidValue for an id that is no token.

        Bytes that are not UTF-8 come out as U+FFFD: a part of a character, where the rest of it is missing.
        """
        text = b"".join(self._without_prefix(self._known(ids)))
        return (without_spaces(text) if self._frame.clean_spaces else text).decode("utf-8", "replace")

    def _without_prefix(self, ids: Iterable[int]) -> Iterable[bytes]:
        pieces = (self.pieces[token] for token in ids)
        if self._frame.add_space_prefix:
            yield next(pieces, b"").removeprefix(b" ")
        yield from pieces

    def _known(self, ids: Sequence[int]) -> Sequence[int]:
        for place, token in enumerate(ids):
            if not 0 <= token < len(self.vocabulary):
                param = f"tokens[{place}]"
                raise InvalidValue(f"{param}: {token} is no token; there are {len(self.vocabulary)}", param=param)
        return ids

    def _framing(self, role: str | None) -> list[int]:
        if role is None:
            return []
        if role not in self.vocabulary.special:
            raise InvalidVocabulary(
                f"add_special wants a {role} token, and there is none", key=KEY + f"{role}_token_id"
            )
        return [self.vocabulary.special[role]]
