"""A restart: what is wished for is loaded as it was; what cannot be is failed, and still wished for."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.devices.simulated import Faults, SimulatedDevice
from app.errors import InvalidModel, ModelNotFound, OutOfDeviceMemory, UnknownDevice
from app.placement import HostMode, PlacementRequest, SplitMode, Strategy
from app.residency import Loadmaster
from app.residency.records import ModelState
from tests.gguf_builder import tiny_llama
from tests.residency.deck import ALL, KIB, MIB, assert_books_agree, at, heard, listening, service, two_devices, until


async def restored(loadmaster: Loadmaster) -> None:
    """Wait until every wish was looked at."""
    await until(lambda: not loadmaster.restoring)


def leave(place: Path, text: str | None, model: str = "tiny") -> None:
    """Write into the wishes of a service that has stopped."""
    with closing(sqlite3.connect(place / "state" / "wishes.sqlite")) as connection:
        connection.execute("INSERT OR REPLACE INTO wishes VALUES (?, ?)", (model, text))
        connection.commit()


@pytest.mark.parametrize(
    "request_",
    [
        PlacementRequest(2, Strategy.ENDS),
        PlacementRequest("auto"),
        PlacementRequest(3, Strategy.LAST, devices=("sim:1",)),
        PlacementRequest(2, Strategy.BEST),
        PlacementRequest(2, host=HostMode.BUFFERED),
        PlacementRequest(0),
    ],
)
def test_a_restart_puts_every_layer_where_it_was(place: Path, request_: PlacementRequest) -> None:
    """The same device for each layer and the same request, without being asked."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", request_)).wait()
            before = loadmaster._residents["tiny"].current.placement
            wish = loadmaster._wishes.current["tiny"]
        async with service(place, *two_devices()) as loadmaster:
            await restored(loadmaster)
            assert loadmaster._residents["tiny"].current.placement == before
            assert loadmaster._wishes.current["tiny"] == wish
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


def test_a_restart_remembers_what_offloads_have_left(place: Path) -> None:
    """Layers that stayed where they were, out of the order of a fresh plan, are put there again."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(4, devices=("sim:1",)))).wait()
            await (await loadmaster.offload("tiny", lambda _: PlacementRequest(2))).wait()
            before = loadmaster._residents["tiny"].current.placement
            assert {slab.device for slab in before.slabs} == {"sim:1"}
        async with service(place, *two_devices()) as loadmaster:
            await restored(loadmaster)
            assert loadmaster._residents["tiny"].current.placement == before

    asyncio.run(main())


def test_what_was_unloaded_stays_unloaded(place: Path) -> None:
    """A withdrawn wish is no wish."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            await (await loadmaster.unload("tiny")).wait()
        async with service(place, *two_devices()) as loadmaster:
            await restored(loadmaster)
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.AVAILABLE

    asyncio.run(main())


def test_a_restart_that_fails_keeps_the_wish(place: Path) -> None:
    """The model is failed, and the next start tries again; an unload forgets the wish."""

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", MIB)) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
        async with service(place, SimulatedDevice("sim:0", MIB, faults=Faults(oom=3))) as loadmaster:
            await restored(loadmaster)
            record = loadmaster.library.record(loadmaster.library.entry("tiny"))
            assert record.state is ModelState.FAILED
            assert isinstance(record.error, OutOfDeviceMemory)
        async with service(place, SimulatedDevice("sim:1", MIB)) as loadmaster:
            await restored(loadmaster)
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.LOADED
        async with service(place) as loadmaster:  # no device at all
            await restored(loadmaster)
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.FAILED
            await loadmaster.unload("tiny")
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.AVAILABLE
        async with service(place, *two_devices()) as loadmaster:
            await restored(loadmaster)
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.AVAILABLE

    asyncio.run(main())


def test_a_device_that_is_gone_is_named(place: Path) -> None:
    """A wish for a device by its id cannot be had without that device."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(2, devices=("sim:1",)))).wait()
        async with service(place, SimulatedDevice("sim:0", MIB)) as loadmaster:
            await restored(loadmaster)
            error = loadmaster.library.record(loadmaster.library.entry("tiny")).error
            assert isinstance(error, UnknownDevice)
            assert "sim:1" in error.message

    asyncio.run(main())


def test_a_wish_for_a_file_that_vanished_waits_for_it(place: Path) -> None:
    """Others are restored beside it; once the file is back, the next start loads it."""
    (place / "models" / "other.gguf").write_bytes(tiny_llama(n_layer=2))

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            for model in ("tiny", "other"):
                await (await loadmaster.load(model, ALL)).wait()
        (place / "models" / "tiny.gguf").rename(place / "away")
        async with service(place, *two_devices()) as loadmaster:
            await restored(loadmaster)
            assert loadmaster.library.state(loadmaster.library.entry("other")) is ModelState.LOADED
            with pytest.raises(ModelNotFound):
                loadmaster.library.entry("tiny")
        (place / "away").rename(place / "models" / "tiny.gguf")
        async with service(place, *two_devices()) as loadmaster:
            await restored(loadmaster)
            assert loadmaster.library.state(loadmaster.library.entry("tiny")) is ModelState.LOADED

    asyncio.run(main())


@pytest.mark.parametrize("text", ["", "null", '{"request": {}, "devices": [[[0], "sim:0"]]}'])
def test_a_wish_that_cannot_be_read_fails_its_model_alone(place: Path, text: str) -> None:
    """The service is ready, the model says why it is not loaded, and an unload removes the row for good."""

    async def main() -> None:
        async with service(place, *two_devices()):
            pass
        leave(place, text)
        async with service(place, *two_devices()) as loadmaster:
            await restored(loadmaster)
            error = loadmaster.library.record(loadmaster.library.entry("tiny")).error
            assert isinstance(error, InvalidModel)
            assert "another version" in error.message
            await loadmaster.unload("tiny")
        async with service(place, *two_devices()) as loadmaster:
            await restored(loadmaster)
            assert loadmaster.library.record(loadmaster.library.entry("tiny")).error is None

    asyncio.run(main())


def test_a_model_that_grew_is_planned_anew(place: Path) -> None:
    """Where layers are no longer what they were, the request is planned as a fresh load."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
        (place / "models" / "tiny.gguf").write_bytes(tiny_llama(n_layer=3))
        async with service(place, *two_devices()) as loadmaster, listening(loadmaster) as events:
            if loadmaster.restoring:
                await heard(events, id="tiny", state="loaded")
            assert loadmaster.library.record(loadmaster.library.entry("tiny")).n_gpu_layers == 3
            await (await loadmaster.offload("tiny", at(1))).wait()
            await assert_books_agree(loadmaster, "tiny")

    asyncio.run(main())


@pytest.mark.parametrize(
    "request_", [PlacementRequest("auto", Strategy.LLAMA_CPP), PlacementRequest("auto", split_mode=SplitMode.ROW)]
)
def test_what_is_planned_again_takes_nobodys_place(place: Path, request_: PlacementRequest) -> None:
    """Wishes that do not say where each layer was come after those that do, whichever was made first."""
    (place / "models" / "other.gguf").write_bytes(tiny_llama(n_layer=6))

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", 384 * KIB)) as loadmaster:
            await (await loadmaster.load("other", PlacementRequest("all"))).wait()
            await (await loadmaster.load("tiny", request_)).wait()
            await (await loadmaster.offload("other", at(6))).wait()  # now it is the later wish of the two
            before = loadmaster.library.records()
        async with service(place, SimulatedDevice("sim:0", 384 * KIB)) as loadmaster:
            await restored(loadmaster)
            assert [one.n_gpu_layers for one in loadmaster.library.records()] == [one.n_gpu_layers for one in before]

    asyncio.run(main())
