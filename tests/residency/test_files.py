"""Open files: recognised for as long as they are used, and told from what took their place."""

import asyncio
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.errors import FileChanged, HostError
from app.placement import PlacementRequest
from app.residency.files import OpenFiles, SourceFile
from app.residency.records import ModelState
from tests.residency.deck import books, service, two_devices
from tests.residency.instruments import TINY

PAGE = resource.getpagesize()

Deed = Callable[[Path], object]
DEEDS: list[tuple[Deed, str]] = [
    (lambda path: path.unlink(), "is gone (No such file or directory)"),
    (lambda path: swap(path, TINY), "was replaced by another file"),
    (lambda path: path.write_bytes(TINY + b"x"), f"changed its size from {len(TINY)} to {len(TINY) + 1} bytes"),
    (lambda path: path.write_bytes(TINY[:99]), f"changed its size from {len(TINY)} to 99 bytes"),
    (lambda path: os.utime(path, ns=(1, 1)), "was written to"),
]
NAMES = ["unlinked", "replaced", "grown", "cut", "touched"]


def swap(path: Path, data: bytes) -> None:
    """Put another file in its place, as a download does."""
    other = path.with_suffix(".part")
    other.write_bytes(data)
    other.replace(path)


def overwrite(path: Path, data: bytes) -> None:
    """Write over a file in place, and put its clock back."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def path(place: Path) -> Path:
    """A model file."""
    return place / "models" / "tiny.gguf"


@pytest.fixture
def opened(path: Path) -> Iterator[OpenFiles]:
    """The file, open."""
    files = OpenFiles("tiny", [SourceFile.at(path)])
    yield files
    files.close()


@pytest.mark.parametrize(("deed", "words"), DEEDS, ids=NAMES)
def test_a_check_says_what_became_of_the_file(opened: OpenFiles, path: Path, deed: Deed, words: str) -> None:
    """In words, with the numbers; before that it finds nothing."""
    opened.check()
    deed(path)
    with pytest.raises(FileChanged) as caught:
        opened.check()
    assert caught.value.message == f"{path} {words}"
    assert caught.value.facts == {"model": "tiny", "file": str(path)}


@pytest.mark.parametrize(("deed", "words"), DEEDS, ids=NAMES)
def test_a_file_that_changed_since_the_scan_is_not_loaded(place: Path, path: Path, deed: Deed, words: str) -> None:
    """The job fails with what changed, and nothing of it stays; a rescan makes it right."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            before = books(loadmaster, "tiny")
            deed(path)
            job = await loadmaster.load("tiny", PlacementRequest("all"))
            with pytest.raises(FileChanged) as caught:
                await job.wait()
            assert words.removeprefix("is gone (").removesuffix(")") in caught.value.message
            assert "rescan" in caught.value.message
            assert books(loadmaster, "tiny") == before
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.FAILED

            swap(path, TINY)
            await loadmaster.rescan()
            await (await loadmaster.load("tiny", PlacementRequest("all"))).wait()

    asyncio.run(main())


def test_another_model_with_equal_size_and_time_is_not_loaded(place: Path, path: Path) -> None:
    """Written over in place and its clock put back, the file is told by its metadata."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            overwrite(path, TINY.replace(b"blk.3.ffn_gate", b"blk.3.ffn_fate"))
            job = await loadmaster.load("tiny", PlacementRequest("all"))
            with pytest.raises(FileChanged, match="not the ones that were planned"):
                await job.wait()

    asyncio.run(main())


def test_reads_come_from_the_file_that_was_opened(opened: OpenFiles, path: Path) -> None:
    """Replaced or unlinked, the open file still has its bytes; cut off, it says where it ends."""
    swap(path, bytes(len(TINY)))
    assert opened.read(0, 10, 1000) == TINY[10:1010]
    path.unlink()
    assert opened.read(0, len(TINY) - 5, 5) == TINY[-5:]


def test_a_read_beyond_the_end_says_where_it_is(opened: OpenFiles, path: Path) -> None:
    """A file that has become too short is a changed file, and no short answer."""
    os.truncate(path, 5000)
    for offset in (4000, 5000, 6000):
        with pytest.raises(FileChanged, match="ends at byte 5000"):
            opened.read(0, offset, 2000)
        with pytest.raises(FileChanged, match="ends at byte 5000"):
            opened.read_into(0, offset, memoryview(bytearray(2000)))


def test_locks_are_exact_and_replace_each_other(opened: OpenFiles) -> None:
    """Each call locks the pages of its ranges and no others; none at all unlocks."""
    opened.lock([(0, 0, 1), (0, 2 * PAGE, PAGE)])
    assert opened.locked_bytes == 2 * PAGE
    opened.lock([(0, 2 * PAGE, 10)])
    assert opened.locked_bytes == PAGE
    opened.lock([])
    assert opened.locked_bytes == 0
    assert opened.mapped_bytes == len(TINY)


def test_the_whole_file_is_resident_once_it_was_read(opened: OpenFiles) -> None:
    """What has just been written is in the page cache, and counted to the byte."""
    assert opened.resident_bytes() == len(TINY)


def test_close_is_idempotent(path: Path) -> None:
    """After it nothing is open, mapped or locked."""
    files = OpenFiles("tiny", [SourceFile.at(path)])
    files.close()
    files.close()
    assert (files.fds, files.mapped_bytes, files.locked_bytes) == ([], 0, 0)


def test_one_missing_file_of_several_leaves_none_open(path: Path) -> None:
    """The descriptors of those that could be opened are closed again."""
    there = SourceFile.at(path)
    with pytest.raises(FileChanged, match=r"nothing\.gguf: No such file"):
        OpenFiles("tiny", [there, SourceFile(str(path.parent / "nothing.gguf"), 1, 1, 1, 1)])


@pytest.fixture
def _no_more_descriptors(opened: OpenFiles) -> Iterator[None]:
    """As many as are open now may be open, and no more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(opened.fds[0])
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("_no_more_descriptors")
def test_want_of_descriptors_is_no_change_of_the_file(opened: OpenFiles) -> None:
    """The host is at fault, and a rescan would not help: HostError, for files opened anew and once more."""
    with pytest.raises(HostError, match="Too many open files"):
        OpenFiles("tiny", opened.files)
    with pytest.raises(HostError, match="Too many open files"):
        opened.duplicate()


def test_a_duplicate_outlives_its_original(opened: OpenFiles, path: Path) -> None:
    """It reads and checks the same file, whatever lies at its path, and maps nothing."""
    twin = opened.duplicate()
    opened.close()
    assert (twin.read(0, 10, 1000), twin.mapped_bytes) == (TINY[10:1010], 0)
    twin.check()
    swap(path, bytes(len(TINY)))
    assert twin.read(0, 10, 1000) == TINY[10:1010]
    with pytest.raises(FileChanged, match="was replaced by another file"):
        twin.check()
    twin.close()


def test_a_name_taken_by_a_link_is_refused(path: Path) -> None:
    """Resolved once, a path is not followed again: a link in its place is not opened."""
    file = SourceFile.at(path)
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))
    with pytest.raises(HostError, match="Too many levels of symbolic links"):
        file.open()


def test_a_name_taken_by_a_pipe_keeps_nobody_waiting(path: Path) -> None:
    """It is opened without waiting for a writer, seen not to be the file, and closed."""
    file = SourceFile.at(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(HostError, match=r"changed its size|was replaced"):
        file.open()  # the inode may be the same, taken again
