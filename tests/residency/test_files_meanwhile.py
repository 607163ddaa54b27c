"""A file that changes in the middle: of a load, an offload, a deep look, a read. Nothing is lost, nobody dies of it.

What is loaded is mapped, too: were it ever read through the mapping, a file that is cut off would be a SIGBUS here.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.devices.simulated import SimulatedDevice
from app.errors import FileChanged, LoadmasterError
from app.model import ProblemKind
from app.placement import HostMode, PlacementRequest
from app.residency import Loadmaster
from app.residency.jobs import Job
from app.residency.records import JobState, ModelState
from tests.gguf_builder import tiny_llama
from tests.residency.deck import MIB, Books, books, ended, service, two_devices, until
from tests.residency.instruments import TINY
from tests.residency.test_files import swap
from tests.residency.test_verify_holds import verifying


def put_directory(path: Path) -> None:
    """Put a directory where a file was."""
    path.unlink()
    path.mkdir()


DEEDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "unlinked": (lambda path: path.unlink(), "is gone"),
    "moved": (lambda path: path.rename(path.with_suffix(".kept")), "is gone"),
    "replaced": (lambda path: swap(path, path.read_bytes()), "was replaced by another file"),
    "rewritten": (lambda path: path.write_bytes(path.read_bytes()), "was written to"),
    "grown": (lambda path: path.write_bytes(path.read_bytes() + b"more"), "changed its size"),
    "cut": (lambda path: os.truncate(path, 60_000), "changed its size"),
    "emptied": (lambda path: os.truncate(path, 0), "changed its size"),
    "touched": (lambda path: path.touch(), "was written to"),
    "directory-removed": (lambda path: shutil.rmtree(path.parent), "is gone"),
    "directory-in-its-place": (put_directory, "was replaced by another file"),
}
SHORTER = ("cut", "emptied")
QUICK = ("unlinked", "replaced", "cut", "touched")
every_deed = pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in DEEDS]
)


@pytest.fixture
def path(place: Path) -> Path:
    """The model's file, in a directory of its own; another model is beside that."""
    models = place / "models"
    (models / "one").mkdir()
    (models / "other.gguf").write_bytes(tiny_llama(n_layer=2, seed=1))
    return (models / "tiny.gguf").rename(models / "one" / "tiny.gguf")


def slow() -> SimulatedDevice:
    """A device that takes a fifth of a second for the tiny model."""
    return SimulatedDevice("sim:0", 4 * MIB, bytes_per_second=MIB)


def kept(loadmaster: Loadmaster) -> Books:
    """The books, but for the names of open files, which change with the files."""
    return replace(books(loadmaster, "one/tiny"), descriptors=[])


async def copying(job: Job) -> None:
    """Wait until a job is in the middle of its bytes."""
    await until(lambda: job.bytes_done > 0)
    assert not job.ended


async def assert_failed_in_words(job: Job, path: Path, name: str) -> None:
    """The job says which file it was, and what became of it."""
    failure = await ended(job)
    assert isinstance(failure, FileChanged)
    assert job.state is JobState.FAILED
    assert failure.facts["file"] == str(path)
    assert str(path) in failure.message
    assert DEEDS[name][1] in failure.message


async def assert_lives_on(loadmaster: Loadmaster) -> None:
    """Other models come and go, memory is told, and a look at the directories ends well."""
    await (await loadmaster.load("other", PlacementRequest("all", host=HostMode.MLOCK))).wait()
    await loadmaster.memory.ask()
    loadmaster.memory.record()
    await (await loadmaster.unload("other")).wait()
    await loadmaster.rescan()
    await loadmaster.snapshot()


@every_deed
def test_in_the_middle_of_a_load(path: Path, name: str) -> None:
    """The job fails and says what happened; nothing of it is left."""

    async def main() -> None:
        async with service(path.parents[2], slow()) as loadmaster:
            before = books(loadmaster, "one/tiny")
            job = await loadmaster.load("one/tiny", PlacementRequest("all"))
            await copying(job)
            DEEDS[name][0](path)
            await assert_failed_in_words(job, path, name)
            assert books(loadmaster, "one/tiny") == before
            assert loadmaster.library.state(loadmaster.library.entry("one/tiny")) is ModelState.FAILED
            await assert_lives_on(loadmaster)

    asyncio.run(main())


@every_deed
@pytest.mark.parametrize("host", [HostMode.MLOCK, pytest.param(HostMode.MMAP, marks=pytest.mark.slow)])
def test_in_the_middle_of_an_offload(path: Path, name: str, host: HostMode) -> None:
    """The job fails; what was loaded is loaded yet, its copies on devices are right, and it can be unloaded."""

    async def main() -> None:
        async with service(path.parents[2], slow()) as loadmaster:
            await (await loadmaster.load("one/tiny", PlacementRequest(1, host=host))).wait()
            before = kept(loadmaster)
            job = await loadmaster.load("one/tiny", PlacementRequest("all", host=host))
            await copying(job)
            DEEDS[name][0](path)
            await assert_failed_in_words(job, path, name)
            assert kept(loadmaster) == before
            assert loadmaster.library.state(loadmaster.library.entry("one/tiny")) is ModelState.LOADED
            await assert_serves(loadmaster, path)
            await assert_lives_on(loadmaster)
            await (await loadmaster.load("one/tiny", PlacementRequest(1, host=host))).wait()  # it is so already
            await (await loadmaster.unload("one/tiny")).wait()

    asyncio.run(main())


async def assert_serves(loadmaster: Loadmaster, path: Path) -> None:
    """Each tensor reads as it was when it was loaded, or, where it is beyond the end of its file now, not at all."""
    for tensor in loadmaster.library.entry("one/tiny").require_model().tensors:
        reading = await loadmaster.read("one/tiny", tensor.name)
        found = await all_of(reading.chunks(0, tensor.nbytes))
        if isinstance(found, FileChanged):
            assert reading.devices == ("cpu",)
            assert f"{path} ends at byte" in found.message
        else:
            assert found == TINY[tensor.offset : tensor.offset + tensor.nbytes]


async def all_of(chunks: AsyncIterator[bytes]) -> bytes | FileChanged:
    """What a reader gets: the bytes, or the error that it is told."""
    try:
        return b"".join([chunk async for chunk in chunks])
    except FileChanged as error:
        return error


@pytest.mark.parametrize("request_", [None, PlacementRequest(2, host=HostMode.MLOCK)], ids=["available", "mlock"])
@every_deed
def test_in_the_middle_of_a_deep_look(place: Path, name: str, request_: PlacementRequest | None) -> None:
    """The verification ends in its own time, and its first problem is the file's; others only where bytes are gone."""
    tiny = place / "models" / "tiny.gguf"

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            if request_ is not None:
                await (await loadmaster.load("tiny", request_)).wait()
            async with verifying(loadmaster) as verification:
                DEEDS[name][0](tiny)
                first, *others = (await verification.result()).problems
            assert (first.kind, first.tensor) == (ProblemKind.FILE_CHANGED, None)
            assert str(tiny) in first.message
            assert DEEDS[name][1] in first.message
            assert all(problem.kind is ProblemKind.FILE_CHANGED for problem in others)
            assert bool(others) == (name in SHORTER)
            assert all("ends at byte" in problem.message for problem in others)

    asyncio.run(main())


@pytest.mark.parametrize("loaded", [False, True], ids=["available", "loaded"])
@every_deed
def test_in_the_middle_of_a_read(place: Path, name: str, *, loaded: bool) -> None:
    """Whoever reads has the file that was opened: its bytes go on, and where they end the reader is told in words."""
    data = tiny_llama(n_layer=1, n_embd=256, n_ff=32, n_vocab=16_384)  # an embedding of 4.25 MiB: two pieces
    tiny = place / "models" / "tiny.gguf"
    tiny.write_bytes(data)

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            if loaded:
                await (await loadmaster.load("tiny", PlacementRequest(0, host=HostMode.MLOCK))).wait()
            tensor = loadmaster.library.entry("tiny").require_model().tensors_by_name["token_embd.weight"]
            chunks = (await loadmaster.read("tiny", tensor.name)).chunks(0, tensor.nbytes)
            first = await anext(chunks)
            DEEDS[name][0](tiny)
            rest = await all_of(chunks)
            if name in SHORTER:
                assert isinstance(rest, FileChanged)
                assert f"{tiny} ends at byte" in rest.message
            else:
                assert isinstance(rest, bytes)
                assert first + rest == data[tensor.offset : tensor.offset + tensor.nbytes]

    asyncio.run(main())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_any_more(place: Path) -> None:
    """Whoever has it open reads on; a load of it fails in words, and works once it may be read again."""
    tiny = place / "models" / "tiny.gguf"

    async def main() -> None:
        async with service(place, slow()) as loadmaster:
            job = await loadmaster.load("tiny", PlacementRequest(2))
            await copying(job)
            tiny.chmod(0)
            await job.wait()
            await (await loadmaster.unload("tiny")).wait()
            failure = await ended(await loadmaster.load("tiny", PlacementRequest(2)))
            assert isinstance(failure, LoadmasterError)
            assert f"{tiny}: Permission denied" in failure.message
            tiny.chmod(0o600)
            await (await loadmaster.load("tiny", PlacementRequest(2))).wait()

    asyncio.run(main())
