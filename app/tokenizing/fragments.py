"""Special tokens are found first: they cut a text into fragments, each either a token or plain text."""

from collections.abc import Iterator, Mapping
from typing import Final

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from app.model.special_tokens import Attribute
from app.tokenizing.overlaps import overlapping, parted

_TEXT: Final = ""  # what plain text is to a tokenizer that knows special tokens only
_BLANKS: Final = " \t\n\v\f\r"  # C's isspace


class Fragments:
    """Cuts texts at special tokens: of those that overlap each other the longest of the whole text first, as llama.cpp.

    That takes a pass over the text for each of them. So in one pass the leftmost are found, of several there the
    longest; where none of them may overlap another, it is the same.
    """

    def __init__(self, special: Mapping[str, tuple[int, Attribute]]) -> None:
        self._finder = Tokenizer(WordLevel({_TEXT: 0}, unk_token=_TEXT))
        self._finder.add_tokens([AddedToken(text, normalized=False) for text in special])
        self._tokens = {self._finder.token_to_id(text): token for text, (token, _) in special.items()}
        self._ids = {text: token for text, (token, _) in special.items()}
        self._overlapping = overlapping(special)
        self._in_doubt = {self._ids[text] for text in self._overlapping}
        self._takes_before = {token for token, attribute in special.values() if attribute & Attribute.LSTRIP}
        self._takes_after = {token for token, attribute in special.values() if attribute & Attribute.RSTRIP}

    def of(self, text: str) -> Iterator[int | str]:
        """The fragments in order, none of them empty: ids of special tokens, and the text between them."""
        fragments = self._leftmost(text)
        if not self._in_doubt.isdisjoint(fragments):
            parts = parted(text, self._overlapping)
            fragments = [
                one
                for place, part in enumerate(parts)
                for one in ([self._ids[part]] if place % 2 else self._leftmost(part))
            ]
        for before, fragment, after in zip([None, *fragments], fragments, [*fragments[1:], None], strict=False):
            if isinstance(fragment, int):
                yield fragment
            elif kept := self._stripped(fragment, before, after):
                yield kept

    def _leftmost(self, text: str) -> list[int | str]:
        (found,) = self._finder.encode_batch([text], add_special_tokens=False)  # of one: it lets other threads work
        return [
            self._tokens[number] if number else text[start:end]
            for number, (start, end) in zip(found.ids, found.offsets, strict=True)
        ]

    def _stripped(self, text: str, before: int | str | None, after: int | str | None) -> str:
        text = text.lstrip(_BLANKS) if before in self._takes_after else text
        return text.rstrip(_BLANKS) if after in self._takes_before else text
