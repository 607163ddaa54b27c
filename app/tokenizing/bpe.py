"""`gpt2` and its kin: text is cut into pieces, in each of which pairs are merged by their rank."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

from tokenizers import Tokenizer
from tokenizers.models import BPE

from app.errors import InvalidVocabulary
from app.model.pretokenizers import PreTokenizer
from app.model.tokens import KEY, Vocabulary
from app.tokenizing.pieces import SPACE, byte_alphabet, is_utf8, raw
from app.tokenizing.splitting import splitter

_NEWLINES: Final = re.compile("(\n+)")


class BytePairs:
    """The library's BPE over the file's tokens and merges.

    What a merge makes, or is made of, need not be a token. Such symbols have ids beyond the vocabulary's here; whatever
    is left of them at the end is spelled out in bytes, of which those without a token are left out, as llama.cpp does.
    """

    def __init__(self, vocabulary: Vocabulary, merges: Sequence[str], cut: PreTokenizer) -> None:
        self._vocabulary = vocabulary
        self._cut = cut
        ids = {text: token for text, token in vocabulary.ids.items() if is_utf8(text)}
        ranked = _pairs(merges)
        symbols = [chain.from_iterable(ranked), map("".join, ranked), byte_alphabet() if cut.byte_level else ()]
        self._symbols = sorted({symbol for symbol in chain.from_iterable(symbols) if symbol not in ids})
        numbered = {symbol: len(vocabulary) + number for number, symbol in enumerate(self._symbols)}
        model = BPE(
            vocab=ids | numbered,
            merges=ranked,
            ignore_merges=cut.ignore_merges,
            byte_fallback=not cut.byte_level,
        )
        self._tokenizer = Tokenizer(model)
        self._tokenizer.pre_tokenizer = splitter(cut)

    def encode(self, text: str, *, starts: bool) -> list[int]:
        """The ids; where the text stands makes no difference."""
        del starts
        if self._cut.escape_spaces:
            text = text.replace(" ", SPACE)
        if not self._cut.whole_newlines:
            return next(self._merged([text]))
        parts = [part for part in _NEWLINES.split(text) if part]
        ids = self._vocabulary.ids
        whole = {part: ids[part] for part in set(parts) if part[0] == "\n" and part in ids}
        merged = self._merged([part for part in parts if part not in whole])
        return [token for part in parts for token in ([whole[part]] if part in whole else next(merged))]

    def _merged(self, texts: list[str]) -> Iterator[list[int]]:
        for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):  # lets other threads work
            if not self._symbols or max(found.ids, default=0) < len(self._vocabulary):
                yield found.ids
            else:
                yield [one for token in found.ids for one in self._spelled(token)]

    def _spelled(self, token: int) -> list[int]:
        if token < len(self._vocabulary):
            return [token]
        of_byte: Callable[[int], str] = chr if self._cut.byte_level else "<0x{:02X}>".format
        bytes_of = raw(self._symbols[token - len(self._vocabulary)])
        names = (of_byte(byte) for byte in bytes_of if byte < 0x80 or not self._cut.byte_level)
        return [self._vocabulary.ids[name] for name in names if name in self._vocabulary.ids]


def _pairs(merges: Sequence[str]) -> list[tuple[str, str]]:
    """Both sides of each merge, once, cut at the first space that is not its beginning.

    Those that have no two sides, or are not UTF-8, are left out. There are hundreds of thousands: all are looked at as
    one text before any is looked at alone.
    """
    if not is_utf8("".join(merges)):
        merges = [merge for merge in merges if is_utf8(merge)]
    spaces = ((merge, merge.find(" ", 1)) for merge in dict.fromkeys(merges))
    return [(merge[:space], merge[space + 1 :]) for merge, space in spaces if 0 < space < len(merge) - 1]


def require_merges(merges: Sequence[str] | None, cut: PreTokenizer) -> Sequence[str]:
    """The merges; InvalidVocabulary where there have to be some and there are none."""
    if merges is None and cut.needs_merges:
        raise InvalidVocabulary("there are no merges", key=f"{KEY}merges")
    return merges or ()
