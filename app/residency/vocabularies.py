"""Vocabularies, read when somebody first asks: of any model, loaded or not. The last few are kept ready to use."""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from app.errors import InvalidVocabulary, LoadmasterError
from app.gguf import Array
from app.gguf.arrays import Scalar
from app.model import Vocabulary, read_tokens
from app.model.tokens import KEY
from app.residency.files import OpenFiles, SourceFile
from app.residency.registry import Entry
from app.tokenizing import Tokenizer, build, raw

T = TypeVar("T")

log = logging.getLogger(__name__)

KEPT: Final = 8
KEPT_BYTES: Final = 64 << 20
"""What all that is kept may have in its files; ready to use it takes about ten times as much. The last one is kept."""
THREADS: Final = 2  # the libraries compute, and nobody else is to wait for them


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token: its text as the file has it, what that stands for, and which special tokens it is.

    `piece` is None where no tokenizer can be made of the vocabulary. In both texts, what is not UTF-8 is U+FFFD.
    """

    id: int
    text: str
    piece: str | None
    type: str
    score: float | None
    special: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A vocabulary, and its tokenizer, or why there can be none."""

    vocabulary: Vocabulary
    tokenizer: Tokenizer | InvalidVocabulary

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer; raises InvalidVocabulary where there is none."""
        if isinstance(self.tokenizer, InvalidVocabulary):
            raise self.tokenizer
        return self.tokenizer


class Vocabularies:
    """Opens vocabularies in threads of its own, each once, however many ask; what failed is tried again when asked for.

    Known by their files as they were found: a file that was replaced has another vocabulary.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._threads = ThreadPoolExecutor(THREADS, "vocabulary")
        self._nbytes: dict[SourceFile, int] = {}
        self._kept: OrderedDict[SourceFile, asyncio.Future[Opened]] = OrderedDict()

    async def prepare(self, entry: Entry) -> None:
        """Have a model's tokenizer ready. What keeps it from that is no reason not to use the weights."""
        try:
            (await self._opened(entry)).require_tokenizer()
        except LoadmasterError as error:
            log.info("%s is loaded without a tokenizer: %s", entry.id, error)

    async def use(self, entry: Entry, work: Callable[[Tokenizer], T]) -> T:
        """Have a model's tokenizer do some work in a thread. Raises InvalidModel, FileChanged, InvalidVocabulary."""
        tokenizer = (await self._opened(entry)).require_tokenizer()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, tokenizer)

    async def find(self, entry: Entry, wanted: str, start: int, stop: int) -> tuple[list[TokenRecord], int]:
        """Of all tokens that hold `wanted`, in their text or in what it stands for, a part, and how many there are."""
        opened = await self._opened(entry)
        return await asyncio.get_running_loop().run_in_executor(self._threads, _find, opened, wanted, start, stop)

    async def close(self) -> None:
        """Wait for the threads; what they have not begun is left."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def _opened(self, entry: Entry) -> Opened:
        entry.require_model()
        file = entry.files[0]
        if file not in self._kept:
            opening = asyncio.get_running_loop().run_in_executor(self._threads, _open, entry)
            self._kept[file] = opening
            self._nbytes[file] = sum(array.nbytes for array in _arrays(entry))
            opening.add_done_callback(partial(self._forget_failed, file))
        opening = self._kept[file]
        self._kept.move_to_end(file)
        while len(self._kept) > 1 and (len(self._kept) > KEPT or sum(self._nbytes.values()) > self._kept_bytes):
            oldest, _ = self._kept.popitem(last=False)
            del self._nbytes[oldest]
        return await asyncio.shield(opening)  # whoever goes away takes nobody's vocabulary along

    def _forget_failed(self, file: SourceFile, opening: asyncio.Future[Opened]) -> None:
        failed = opening.cancelled() or opening.exception() is not None
        if failed and self._kept.get(file) is opening:
            del self._kept[file], self._nbytes[file]


def _arrays(entry: Entry) -> list[Array]:
    metadata = entry.headers[0].metadata
    return [value for key, value in metadata.items() if key.startswith(KEY) and isinstance(value, Array)]


def _open(entry: Entry) -> Opened:
    """Read a vocabulary from its file and make its tokenizer; blocks."""
    metadata = entry.headers[0].metadata
    files = OpenFiles(entry.id, entry.files[:1])
    try:  # to make a tokenizer takes a while: the file is not held that long
        read = {array.offset: files.read(0, array.offset, array.nbytes) for array in _arrays(entry)}
        files.check()
    finally:
        files.close()

    def decode(array: Array) -> list[Scalar]:
        return array.decode(read[array.offset], "surrogateescape")

    vocabulary = read_tokens(metadata, decode)
    try:
        return Opened(vocabulary, build(vocabulary, metadata, decode))
    except InvalidVocabulary as fault:
        return Opened(vocabulary, fault)


def _find(opened: Opened, wanted: str, start: int, stop: int) -> tuple[list[TokenRecord], int]:
    roles: dict[int, list[str]] = {}
    for role, token in opened.vocabulary.special.items():
        roles.setdefault(token, []).append(role)
    found: Sequence[int] = range(len(opened.vocabulary))
    if wanted:
        found = [token for token in found if any(wanted in text for text in _texts(opened, token))]
    return [_record(opened, token, tuple(roles.get(token, ()))) for token in found[start:stop]], len(found)


def _texts(opened: Opened, token: int) -> list[str]:
    texts = [raw(opened.vocabulary.texts[token])]
    if isinstance(opened.tokenizer, Tokenizer):
        texts.append(opened.tokenizer.pieces[token])
    return [text.decode("utf-8", "replace") for text in texts]


def _record(opened: Opened, token: int, special: tuple[str, ...]) -> TokenRecord:
    text, *piece = _texts(opened, token)
    scores = opened.vocabulary.scores
    score = None if scores is None else scores[token]
    return TokenRecord(
        id=token,
        text=text,
        piece=piece[0] if piece else None,
        type=opened.vocabulary.types[token].name.lower(),
        score=score if score is not None and math.isfinite(score) else None,
        special=special,
    )
