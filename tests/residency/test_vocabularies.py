"""Vocabularies are made once, kept for a while, and never because of a failure."""

import asyncio
from pathlib import Path

import pytest

from app.errors import FileChanged
from app.residency.registry import Entry, scan
from app.residency.vocabularies import KEPT, Vocabularies
from app.tokenizing import Tokenizer
from tests.gguf_builder import build
from tests.tokenizing.vocabularies import gpt2


def entries(directory: Path, count: int) -> list[Entry]:
    """So many models of two tokens each."""
    for number in range(count):
        (directory / f"{number}.gguf").write_bytes(build(gpt2(["a", "b"], [])))
    return list(scan([directory], {}).values())


def remove(entry: Entry) -> None:
    """Take the model's file away."""
    file = Path(entry.files[0].path)
    file.rename(file.with_suffix(".away"))


def restore(entry: Entry) -> None:
    """Put it back where it was, the same file."""
    file = Path(entry.files[0].path)
    file.with_suffix(".away").rename(file)


async def made(vocabularies: Vocabularies, entry: Entry) -> Tokenizer:
    """The tokenizer itself: another one is one that was made anew."""
    return await vocabularies.use(entry, lambda tokenizer: tokenizer)


def test_who_asks_at_once_gets_the_same(tmp_path: Path) -> None:
    """Fifty first requests make one tokenizer; one of them that goes away takes it from nobody."""

    async def ask() -> None:
        (entry,) = entries(tmp_path, 1)
        vocabularies = Vocabularies()
        impatient = asyncio.create_task(made(vocabularies, entry))
        patient = [asyncio.create_task(made(vocabularies, entry)) for _ in range(50)]
        await asyncio.sleep(0)
        impatient.cancel()
        assert len({id(tokenizer) for tokenizer in await asyncio.gather(*patient)}) == 1
        await vocabularies.close()

    asyncio.run(ask())


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    """Which were asked for last; of one more the one goes that nobody has asked for for the longest time."""

    async def ask() -> None:
        first, second, *others = entries(tmp_path, KEPT + 1)
        vocabularies = Vocabularies()
        kept, dropped = await made(vocabularies, first), await made(vocabularies, second)
        for entry in (*others[:-1], first, others[-1]):
            await made(vocabularies, entry)
        assert await made(vocabularies, first) is kept
        assert await made(vocabularies, second) is not dropped
        await vocabularies.close()

    asyncio.run(ask())


def test_large_ones_are_not_kept_beside_others(tmp_path: Path) -> None:
    """All together have a number of bytes in their files; the last one is kept, however large."""

    async def ask() -> None:
        first, second = entries(tmp_path, 2)
        vocabularies = Vocabularies(kept_bytes=1)
        dropped = await made(vocabularies, first)
        assert await made(vocabularies, first) is dropped
        kept = await made(vocabularies, second)
        assert await made(vocabularies, second) is kept
        assert await made(vocabularies, first) is not dropped
        await vocabularies.close()

    asyncio.run(ask())


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    """A file that is gone is an error, each time; once it is back, so is its vocabulary."""

    async def ask() -> None:
        (entry,) = entries(tmp_path, 1)
        vocabularies = Vocabularies()
        remove(entry)
        for _ in range(2):
            with pytest.raises(FileChanged):
                await made(vocabularies, entry)
        restore(entry)
        assert (await made(vocabularies, entry)).tokenize("ab", add_special=False, parse_special=True) == [0, 1]
        await vocabularies.close()

    asyncio.run(ask())


def test_it_is_ready_for_whoever_loads_a_model(tmp_path: Path) -> None:
    """`prepare` makes it, and raises nothing where there can be none."""

    async def ask() -> None:
        entry, gone = entries(tmp_path, 2)
        remove(gone)
        vocabularies = Vocabularies()
        await vocabularies.prepare(gone)
        await vocabularies.prepare(entry)
        remove(entry)
        assert await made(vocabularies, entry)
        await vocabularies.close()

    asyncio.run(ask())
