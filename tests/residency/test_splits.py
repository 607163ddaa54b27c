"""Shards are one model: listed, loaded and read as one, and where one does not belong, the model says which."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import InvalidModel, LoadmasterError
from app.gguf import parse_header
from app.residency.registry import Entry, scan
from tests.gguf_builder import split_llama, tiny_llama
from tests.residency.deck import ALL, assert_books_agree, at, service, two_devices

SHARDS = split_llama(3)


def shard_name(number: int, of: int = 3) -> str:
    """Name a shard of the model `split`, counted from 1."""
    return f"split-{number:05}-of-{of:05}.gguf"


def write(directory: Path) -> Path:
    """Write the model `split` in three shards to `directory`/models."""
    models = directory / "models"
    models.mkdir(exist_ok=True)
    for number, data in enumerate(SHARDS, 1):
        (models / shard_name(number)).write_bytes(data)
    return models


def test_shards_are_listed_as_one_model(tmp_path: Path) -> None:
    """Three shards are one entry without their suffix: metadata of the first, tensors and bytes of all."""
    entries = scan([write(tmp_path)], {})
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "split.gguf").write_bytes(tiny_llama())
    whole = scan([tmp_path / "whole"], {})["split"].require_model()

    assert list(entries) == ["split"]
    model = entries["split"].require_model()
    assert (model.problems, model.parameters, model.n_layer) == ((), whole.parameters, 4)
    assert [tensor.name for tensor in model.tensors] == [tensor.name for tensor in whole.tensors]
    assert {tensor.file for tensor in model.tensors} == {0, 1, 2}
    assert entries["split"].size_bytes == sum(map(len, SHARDS))


def test_a_model_in_shards_is_loaded_moved_and_read(tmp_path: Path) -> None:
    """On two devices, on none and in between, every tensor reads back as it is in a model of one file."""
    write(tmp_path)
    whole = tiny_llama()
    header = parse_header(whole)

    async def main() -> None:
        async with service(tmp_path, *two_devices()) as loadmaster:
            await (await loadmaster.load("split", ALL)).wait()
            await assert_books_agree(loadmaster, "split")
            for tensor in header.tensors:
                reading = await loadmaster.read("split", tensor.name)
                start = header.data_offset + tensor.offset
                parts = [part async for part in reading.chunks(0, tensor.nbytes)]
                assert b"".join(parts) == whole[start : start + tensor.nbytes], tensor.name
            for n_gpu_layers in (2, 0, 3):
                await (await loadmaster.offload("split", at(n_gpu_layers))).wait()
                await assert_books_agree(loadmaster, "split")

    asyncio.run(main())


def truncate(models: Path) -> None:
    """Cut the last shard in its last tensor."""
    path = models / shard_name(3)
    path.write_bytes(path.read_bytes()[:-64])


def swap(models: Path) -> None:
    """Give each of two shards the other's name."""
    (models / shard_name(2)).rename(models / "kept")
    (models / shard_name(3)).rename(models / shard_name(2))
    (models / "kept").rename(models / shard_name(3))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda models: (models / shard_name(2)).unlink(), "split: 2 shards of 3; missing: 2"),
    "first-missing": (lambda models: (models / shard_name(1)).unlink(), "split: 2 shards of 3; missing: 1"),
    "doubled": (
        lambda models: (models / "split-00002-of-00003.GGUF").write_bytes(SHARDS[1]),
        "split: 4 shards of 3; doubled: 2",
    ),
    "beyond": (
        lambda models: (models / shard_name(4)).write_bytes(SHARDS[1]),
        "split: 4 shards of 3; not among them: 4",
    ),
    "copied": (
        lambda models: (models / shard_name(3)).write_bytes(SHARDS[1]),
        "models/split-00003-of-00003.gguf: split.no is 1; by its name this is shard 3, which has 2 (byte",
    ),
    "swapped": (swap, "models/split-00002-of-00003.gguf: split.no is 2; by its name this is shard 2, which has 1"),
    "foreign": (
        lambda models: (models / shard_name(2)).write_bytes(split_llama(3, n_layer=5)[1]),
        "models/split-00002-of-00003.gguf: split.tensors.count is 47; ",
    ),
    "foreign-alike": (
        lambda models: (models / shard_name(2)).write_bytes(split_llama(3, tied=False, n_layer=4)[1]),
        "models/split-00002-of-00003.gguf: split.tensors.count is 39; ",
    ),
    "whole-model": (
        lambda models: (models / shard_name(2)).write_bytes(tiny_llama()),
        "models/split-00002-of-00003.gguf: split.no is missing; by its name this is shard 2",
    ),
    "truncated": (truncate, "models/split-00003-of-00003.gguf: 'output_norm.weight' is bytes"),
    "no-gguf": (
        lambda models: (models / shard_name(2)).write_bytes(b"<html>"),
        "models/split-00002-of-00003.gguf: not a GGUF file: it begins with b'<htm', which is an HTML page",
    ),
}


def only(models: Path) -> Entry:
    """Look at a directory, in which one model is."""
    (entry,) = scan([models], {}).values()
    return entry


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_the_shard_at_fault_is_named(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    """A model with a shard that is missing, doubled, cut or of another model is one invalid entry, which says so."""
    models = write(tmp_path)
    damage(models)

    entry = only(models)

    assert (entry.id, entry.model) == ("split", None)
    assert isinstance(entry.error, LoadmasterError)
    assert message in str(entry.error)
    with pytest.raises(InvalidModel, match="split cannot be used"):
        entry.require_model()


def test_shards_of_two_splits(tmp_path: Path) -> None:
    """Shards of 3 beside shards of 2 under one name could be either model: both are listed, neither can be used."""
    models = write(tmp_path)
    for number, data in enumerate(split_llama(2), 1):
        (models / shard_name(number, of=2)).write_bytes(data)

    entries = scan([models], {})

    assert sorted(entries) == [shard_name(1, of=2), shard_name(1)]
    for entry in entries.values():
        assert f"{shard_name(1, of=2)} and {shard_name(1)} have the same id 'split'" in str(entry.error)


def test_a_shard_that_was_renamed(tmp_path: Path) -> None:
    """A shard under the name of a whole model says that it is one of three."""
    (tmp_path / "model.gguf").write_bytes(SHARDS[0])

    assert "model.gguf: one of 3 shards, without the others" in str(only(tmp_path).error)


def test_a_shard_that_comes_later(tmp_path: Path) -> None:
    """A model that was not whole is looked at again once it is."""
    models = write(tmp_path)
    last = models / shard_name(3)
    last.rename(models / "download")
    before = scan([models], {})
    (models / "download").rename(last)

    assert before["split"].model is None
    assert scan([models], before)["split"].model is not None
