"""Holding: a generation keeps its slabs and files for as long as somebody reads it, and not a moment longer."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.errors import NotLoaded
from app.model import Tensor
from app.placement import PlacementRequest
from app.residency import Loadmaster
from app.residency.residents import Resident
from tests.residency.deck import ALL, assert_books_agree, at, rows, service, two_devices, until
from tests.residency.instruments import TINY, descriptors


class Reader:
    """A thread that holds the current generation until it is told to let go."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self._holds = threading.Event()
        self._let_go = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.tensor = resident.entry.require_model().tensors_by_name["blk.1.ffn_up.weight"]
        self.wrong = 0

    def _read(self) -> None:
        with self._resident.hold() as generation:
            self._holds.set()
            self._let_go.wait()
            self.wrong += generation.read(self.tensor, 0, self.tensor.nbytes) != of_file(self.tensor)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hold for the block."""
        self._thread.start()
        self._holds.wait()
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Read once more, then let go."""
        self._let_go.set()
        self._thread.join()
        assert not self.wrong


def of_file(tensor: Tensor) -> bytes:
    """The tensor's bytes in the file."""
    return TINY[tensor.offset : tensor.offset + tensor.nbytes]


def retired(loadmaster: Loadmaster) -> int:
    """Bytes that were replaced and are still held."""
    return sum(row.retired_bytes for row in rows(loadmaster).values())


def used(loadmaster: Loadmaster) -> int:
    """Bytes of current placements."""
    return sum(row.used_bytes for row in rows(loadmaster).values())


def check_bytes(resident: Resident, stop: threading.Event) -> int:
    """Read every tensor over and over, generation by generation; how many generations were seen."""
    seen = set()
    while not stop.is_set():
        with resident.hold() as generation:
            seen.add(generation.number)
            for tensor in resident.entry.require_model().tensors:
                assert generation.read(tensor, 0, tensor.nbytes) == of_file(tensor), tensor.name
    return len(seen)


def test_readers_see_the_files_bytes_while_placements_switch(place: Path) -> None:
    """Four threads read everything while the layers move under them: not one byte is ever another."""

    async def main() -> None:
        stop = threading.Event()
        with ThreadPoolExecutor(4) as readers:
            async with service(place, *two_devices()) as loadmaster:
                await (await loadmaster.load("tiny", ALL)).wait()
                resident = loadmaster._residents["tiny"]
                reading = [readers.submit(check_bytes, resident, stop) for _ in range(4)]
                try:
                    for n in (0, 4, 1, 3, 2, 0, 4, 2):
                        await (await loadmaster.offload("tiny", at(n))).wait()
                finally:
                    stop.set()
                assert all(await asyncio.gather(*map(asyncio.wrap_future, reading)))
                await until(lambda: retired(loadmaster) == 0)

    asyncio.run(main())


def test_replaced_slabs_go_with_their_last_holder(place: Path) -> None:
    """Of two readers of a former generation, the first to leave frees nothing and the second everything."""

    async def main() -> None:
        devices = two_devices()
        async with service(place, *devices) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            resident = loadmaster._residents["tiny"]
            before = used(loadmaster)
            first, second = Reader(resident), Reader(resident)
            with first.holding(), second.holding():
                job = await loadmaster.offload("tiny", at(0))
                await job.wait()
                assert (used(loadmaster), retired(loadmaster)) == (0, before)
                first.leave()
                await loadmaster._changes.settle()
                assert retired(loadmaster) == before
                assert sum(d.capacity_bytes - (d.memory().free_bytes or 0) for d in devices) == before
            await until(lambda: retired(loadmaster) == 0)
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_slabs_that_stay_are_not_retired(place: Path) -> None:
    """A slab that the next generation has, too, is used, however many hold the former one."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(2))).wait()
            reader = Reader(loadmaster._residents["tiny"])
            with reader.holding():
                await (await loadmaster.offload("tiny", at(4))).wait()
                assert retired(loadmaster) == 0
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_an_unload_waits_for_nobody_and_takes_nothing_away(place: Path) -> None:
    """Held over an unload, slabs and files stay open for the reader, and are closed once it has left."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(1))).wait()
            reader = Reader(resident := loadmaster._residents["tiny"])
            with reader.holding():
                await (await loadmaster.unload("tiny")).wait()
                assert used(loadmaster) == 0
                assert retired(loadmaster) > 0
                assert any(name.endswith(".gguf") for name in descriptors())
                with pytest.raises(NotLoaded), resident.hold():
                    pass
            await until(lambda: not any(name.endswith(".gguf") or "memfd" in name for name in descriptors()))
            assert retired(loadmaster) == 0

    asyncio.run(main())


def test_a_model_is_loaded_anew_beside_its_held_former_self(place: Path) -> None:
    """After an unload that somebody holds up, a load has its own slabs; both count until the reader leaves."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            before = used(loadmaster)
            with Reader(loadmaster._residents["tiny"]).holding():
                await (await loadmaster.unload("tiny")).wait()
                await (await loadmaster.load("tiny", ALL)).wait()
                assert (used(loadmaster), retired(loadmaster)) == (before, before)
            await until(lambda: retired(loadmaster) == 0)
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_a_stop_gives_readers_time_to_let_go(place: Path) -> None:
    """A service that stops while somebody reads frees what is read once that is over, and ends with nothing held."""

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            async with service(place, *two_devices()) as loadmaster:
                await (await loadmaster.load("tiny", ALL)).wait()
                resident = loadmaster._residents["tiny"]
                reader = Reader(resident)
                reader._thread.start()
                reader._holds.wait()
                leaving = pool.submit(leave_once_unloaded, resident, reader)
            await asyncio.wrap_future(leaving)

    asyncio.run(main())


def leave_once_unloaded(resident: Resident, reader: Reader) -> None:
    """Let go after the model was unloaded."""
    unloaded = threading.Event()
    while not unloaded.wait(0.001):
        try:
            resident.current  # noqa: B018 - asked for its error
        except NotLoaded:
            unloaded.set()
    reader.leave()


def test_reading_a_part_of_a_tensor(place: Path) -> None:
    """Any range of any tensor, from a device or from the file, is that range of the file."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(2))).wait()
            for name in ("blk.0.attn_k.weight", "blk.3.attn_k.weight", "output_norm.weight"):
                for start, stop in ((0, 0), (0, 1), (7, 250), (255, 256)):
                    reading = await loadmaster.read("tiny", name)
                    data = b"".join([part async for part in reading.chunks(start, stop)])
                    reading.close()
                    assert data == of_file(reading.tensor)[start:stop]

    asyncio.run(main())
