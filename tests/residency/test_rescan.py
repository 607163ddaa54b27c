"""Looking again: what is new, changed or gone is noticed, and nothing else is read."""

import asyncio
import os
from pathlib import Path

import pytest

from app.errors import HostError, Malformed, ModelNotFound, NotGGUF
from app.placement import PlacementRequest
from app.residency.files import FIRST_READ, SourceFile, read_header
from app.residency.records import ModelState
from app.residency.registry import scan
from tests.gguf_builder import ARRAY, STRING, UINT8, UINT32, build, tiny_llama
from tests.residency.deck import assert_books_agree, fields, listening, service, two_devices
from tests.residency.instruments import TINY


def test_unchanged_files_are_not_read_again(place: Path) -> None:
    """The entry is the very one of the last scan."""
    first = scan([place / "models"], {})
    assert scan([place / "models"], first)["tiny"] is first["tiny"]


def test_new_changed_and_removed_files_are_noticed(place: Path) -> None:
    """A second look sees all three."""
    models = place / "models"
    (models / "going.gguf").write_bytes(TINY)
    first = scan([models], {})
    (models / "going.gguf").unlink()
    (models / "new.gguf").write_bytes(tiny_llama(n_layer=2))
    (models / "tiny.gguf").write_bytes(tiny_llama(n_layer=3))
    second = scan([models], first)
    assert sorted(second) == ["new", "tiny"]
    assert second["new"].require_model().n_layer == 2
    assert second["tiny"].require_model().n_layer == 3


def test_a_file_of_the_same_size_and_name_is_another(place: Path) -> None:
    """Replaced by one of equal size and time: the inode tells."""
    path = place / "models" / "tiny.gguf"
    first = scan([place / "models"], {})
    status = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(tiny_llama(n_layer=4, uneven=True, tied=False, seed=5))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert scan([place / "models"], first)["tiny"] is not first["tiny"]


def test_an_invalid_file_that_was_mended_is_a_model(place: Path) -> None:
    """What could not be read is looked at again each time."""
    path = place / "models" / "late.gguf"
    path.write_bytes(TINY[:100])
    first = scan([place / "models"], {})
    assert first["late"].model is None
    path.write_bytes(TINY)
    assert scan([place / "models"], first)["late"].model is not None


def test_a_header_beyond_the_first_read_is_read_whole(tmp_path: Path) -> None:
    """More is read while the header goes on."""
    long = [("some.text", STRING, "x" * (FIRST_READ + 5)), ("some.bytes", ARRAY, (UINT8, list(range(200))))]
    path = tmp_path / "long.gguf"
    path.write_bytes(build([("general.architecture", STRING, "llama"), *long, ("last", UINT32, 7)]))
    header = read_header(SourceFile.at(path))
    assert header.metadata["last"] == 7
    assert header.data_offset > FIRST_READ


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"GGML" + TINY[4:], NotGGUF), (build([("", UINT32, 1), ("", UINT32, 1)]), Malformed)],
)
def test_whatever_is_wrong_names_the_file(tmp_path: Path, data: bytes, error: type[NotGGUF | Malformed]) -> None:
    """Not only where a file is too short."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        read_header(SourceFile.at(path))
    assert caught.value.file == str(path)


class CutWhenOpened(SourceFile):
    """A file that somebody cuts off right after it was opened."""

    def open(self) -> int:
        """Open it, then have it cut."""
        fd = super().open()
        os.truncate(self.path, 200)
        return fd


def test_a_file_cut_off_while_it_is_read_is_not_read_for_ever(tmp_path: Path) -> None:
    """A file that is suddenly shorter than it was is an error, not a wait for more."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(TINY)
    file = SourceFile.at(path)
    with pytest.raises(HostError, match="cut off at byte 200"):
        read_header(CutWhenOpened(file.path, file.device, file.inode, file.size_bytes, file.mtime_ns))


def test_everybody_is_shown_what_a_rescan_found(place: Path) -> None:
    """Listeners start over with a snapshot, and nobody replays across it."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            before = (await loadmaster.snapshot()).id
            async with listening(loadmaster) as events:
                (place / "models" / "new.gguf").write_bytes(TINY)
                await loadmaster.rescan()
                event = await anext(events)
                assert event.name == "snapshot"
                assert [model["id"] for model in fields(event)["models"]] == ["new", "tiny"]
            late = loadmaster.broadcast.listen(before)
            assert late.behind
            late.close()

    asyncio.run(main())


def test_a_loaded_model_outlives_its_file(place: Path) -> None:
    """Unlinked and scanned again, a loaded model is what it was until it is unloaded; then it is gone for everybody."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(4))).wait()
            (place / "models" / "tiny.gguf").rename(place / "elsewhere")
            await loadmaster.rescan()
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.LOADED
            reading = await loadmaster.read("tiny", "blk.3.attn_q.weight")
            assert b"".join([part async for part in reading.chunks(0, reading.tensor.nbytes)])

            async with listening(loadmaster) as events:
                await (await loadmaster.unload("tiny")).wait()
                while (event := await anext(events)).name != "snapshot" or fields(event)["models"]:
                    pass
                assert fields(event)["memory"]["devices"][0]["used_bytes"] == 0
            with pytest.raises(ModelNotFound):
                loadmaster.library.entry("tiny")

    asyncio.run(main())


def test_a_model_that_is_replaced_while_loaded_is_the_new_one_after_an_unload(place: Path) -> None:
    """The loaded one is read from its open file; the next load is of what is there then."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(4))).wait()
            other = place / "models" / "other"
            other.write_bytes(tiny_llama(n_layer=2))
            other.replace(place / "models" / "tiny.gguf")
            await loadmaster.rescan()
            assert loadmaster.library.entry("tiny").require_model().n_layer == 4
            await (await loadmaster.unload("tiny")).wait()
            await (await loadmaster.load("tiny", PlacementRequest(2))).wait()
            assert loadmaster.library.entry("tiny").require_model().n_layer == 2
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())
