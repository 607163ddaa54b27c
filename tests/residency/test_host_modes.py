"""The host's part: the file's pages, the same locked, or a copy of our own; each changed while the model is loaded."""

import asyncio
import ctypes
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import HostError
from app.placement import HostMode, PlacementRequest
from app.residency import Loadmaster
from app.residency.records import HostMemoryRecord, ModelState
from tests.residency.deck import assert_books_agree, at, books, ended, rows, service, two_devices
from tests.residency.instruments import TINY

LIMIT = 65536  # less than the tiny model
CAP_IPC_LOCK = 1 << 14
MLOCK = PlacementRequest(0, host=HostMode.MLOCK)
BUFFERED = PlacementRequest(0, host=HostMode.BUFFERED)


def effective(capabilities: int | None) -> int:
    """Set this thread's lower 32 effective capabilities, if given; returns what they were."""
    libc = ctypes.CDLL(None)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    before = data[0]
    if capabilities is not None:
        data[0] = capabilities
        assert libc.capset(header, data) == 0
    return before


@pytest.fixture
def _little_may_be_locked() -> Iterator[None]:
    """LIMIT bytes, for root as well."""
    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    before = effective(None)
    effective(before & ~CAP_IPC_LOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (LIMIT, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)
    effective(before)


async def host(loadmaster: Loadmaster) -> HostMemoryRecord:
    """The host's memory now."""
    await loadmaster.memory.ask()
    return loadmaster.memory.record().host


def test_mlock_locks_what_is_not_on_devices(place: Path) -> None:
    """Whole pages of exactly the host's tensors; fewer as layers leave, none once it is mmap again."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", MLOCK)).wait()
            all_of_it = (await host(loadmaster)).locked_bytes
            assert all_of_it >= loadmaster.library.entry("tiny").require_model().size_bytes
            await (await loadmaster.offload("tiny", lambda request: replace(request, n_gpu_layers=2))).wait()
            some = (await host(loadmaster)).locked_bytes
            assert 0 < some < all_of_it
            await assert_books_agree(loadmaster, "tiny")
            await (await loadmaster.offload("tiny", at(2))).wait()
            assert (await host(loadmaster)).locked_bytes == 0
            assert (await host(loadmaster)).mapped_bytes == len(TINY)

    asyncio.run(main())


@pytest.mark.usefixtures("_little_may_be_locked")
def test_a_refused_lock_fails_the_load(place: Path) -> None:
    """HostError with the limit, nothing staged or locked, and a load without it succeeds."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            before = books(loadmaster, "tiny")
            failure = await ended(await loadmaster.load("tiny", replace(MLOCK, n_gpu_layers=1)))
            assert isinstance(failure, HostError)
            assert failure.facts["limit_bytes"] == LIMIT
            assert books(loadmaster, "tiny") == before
            await (await loadmaster.load("tiny", PlacementRequest(1))).wait()
            assert (await host(loadmaster)).locked_bytes == 0

    asyncio.run(main())


@pytest.mark.usefixtures("_little_may_be_locked")
def test_a_refused_lock_leaves_a_loaded_model_as_it_was(place: Path) -> None:
    """Placement, generation, wish and host mode stay; asked again, it is refused again."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(2))).wait()
            before = books(loadmaster, "tiny")
            for n in (1, 2, 2):
                job = await loadmaster.load("tiny", replace(MLOCK, n_gpu_layers=n))
                assert isinstance(await ended(job), HostError)
                assert books(loadmaster, "tiny") == before
                assert loadmaster._residents["tiny"].host is HostMode.MMAP
                assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.LOADED
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_buffered_holds_a_true_copy_of_every_layer(place: Path) -> None:
    """The host's books have what no device has; a layer that goes to a device is in the host's no more."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", BUFFERED)).wait()
            size = loadmaster.library.entry("tiny").require_model().size_bytes
            assert rows(loadmaster)["cpu"].weights_bytes == size
            await (await loadmaster.offload("tiny", lambda request: replace(request, n_gpu_layers=3))).wait()
            memory = loadmaster.memory.model("tiny")
            assert memory is not None
            assert rows(loadmaster)["cpu"].weights_bytes == memory.cpu_bytes
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_a_change_of_the_host_mode_alone_is_a_generation(place: Path) -> None:
    """Nothing moves on the devices, and the answer says that nothing was copied to them."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(4))).wait()
            job = await loadmaster.load("tiny", PlacementRequest(4, host=HostMode.MLOCK))
            await job.wait()
            assert (job.generation, job.bytes_total) == (2, 0)
            assert loadmaster._residents["tiny"].host is HostMode.MLOCK

    asyncio.run(main())
