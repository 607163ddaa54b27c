"""What a load leaves in the page cache: the whole file, unless it is larger than the host's memory may become."""

import asyncio
import os
from pathlib import Path

import pytest

from app.devices.simulated import SimulatedDevice
from app.residency import Loadmaster
from tests.gguf_builder import tiny_llama
from tests.residency.deck import ALL, MIB, service

MODEL = tiny_llama(n_layer=16, n_embd=256)


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A place with a model of several megabytes, on the disk alone."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "large.gguf").write_bytes(MODEL)
    return tmp_path


def cool(path: Path) -> None:
    """Have the page cache forget the file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


async def resident(loadmaster: Loadmaster) -> int:
    """How much of the loaded files is in the page cache."""
    await loadmaster.memory.ask()
    found = loadmaster.memory.record().host.resident_bytes
    assert found is not None
    return found


@pytest.mark.parametrize(("memory_limit", "stays"), [("all", True), ("cpu=1MiB", False)])
def test_only_what_the_host_could_hold_stays_in_the_page_cache(cold: Path, memory_limit: str, stays: bool) -> None:
    """A model larger than the host's limit goes to the device in passing; the bytes that arrive are the file's."""

    async def main() -> None:
        async with service(cold, SimulatedDevice("sim:0", 64 * MIB), memory_limit=memory_limit) as loadmaster:
            cool(cold / "models" / "large.gguf")
            await (await loadmaster.load("large", ALL)).wait()
            cached = await resident(loadmaster)
            assert (cached > 0.9 * len(MODEL)) if stays else (cached < 0.2 * len(MODEL))
            verified = await loadmaster.verify("large", deep=True)
            await verified.wait()
            assert verified.state == "succeeded"

    asyncio.run(main())
