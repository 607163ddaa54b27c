"""Special tokens are found first: they cut a text into fragments, each either a token or plain text."""

from collections.abc import Iterator, Mapping

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from app.model.special_tokens import Attribute

_TEXT = ""  # what plain text is to a tokenizer that knows special tokens only


class Fragments:
    """Cuts texts at special tokens: the leftmost first, of several there the longest.

    llama.cpp takes the longest of a whole text first. That differs only where two special tokens overlap each other,
    and takes as many passes over a text as there are special tokens.
    """

    def __init__(self, special: Mapping[str, tuple[int, Attribute]]) -> None:
        self._finder = Tokenizer(WordLevel({_TEXT: 0}, unk_token=_TEXT))
        self._finder.add_tokens(
            [
                AddedToken(
                    text,
                    normalized=False,
                    lstrip=bool(attribute & Attribute.LSTRIP),
                    rstrip=bool(attribute & Attribute.RSTRIP),
                )
                for text, (_, attribute) in special.items()
            ]
        )
        self._tokens = {self._finder.token_to_id(text): token for text, (token, _) in special.items()}

    def of(self, text: str) -> Iterator[int | str]:
        """The fragments in order, none of them empty: ids of special tokens, and the text between them."""
        (found,) = self._finder.encode_batch([text], add_special_tokens=False)  # of one: it lets other threads work
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            yield self._tokens[token] if token else text[start:end]
