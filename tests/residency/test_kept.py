"""What was placed is what is remembered: whatever chose it, over restarts, evictions and changes of other fields."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from app.api.bodies import PlacementBody
from app.devices.simulated import SimulatedDevice
from app.errors import DoesNotFit
from app.placement import HostMode, Override, PlacementRequest, SplitMode, Strategy
from app.residency import Loadmaster
from app.residency.eviction import Evict
from app.residency.wishes import Retention
from tests.random_placements import MIB, chances, random_body, two_models
from tests.residency.deck import assert_books_agree, service, until

PINNED = Retention(pinned=True)
EVERY_WAY = {
    "first": PlacementRequest(5),
    "auto": PlacementRequest("auto"),
    "best": PlacementRequest(4, Strategy.BEST),
    "llama.cpp": PlacementRequest(6, Strategy.LLAMA_CPP),
    "llama.cpp auto": PlacementRequest("auto", Strategy.LLAMA_CPP),
    "rows": PlacementRequest("all", split_mode=SplitMode.ROW),
    "buffered": PlacementRequest(3, host=HostMode.BUFFERED),
    "overrides": PlacementRequest(4, overrides=(Override("attn", "sim:1"),)),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A tied model of 10 blocks, and one of 8 with experts."""
    for model in two_models():
        model.write(tmp_path / "models")
    return tmp_path


def devices(first_bytes: int = 6 * MIB, second_bytes: int = 5 * MIB) -> list[SimulatedDevice]:
    """Two that are not alike."""
    return [SimulatedDevice("sim:0", first_bytes), SimulatedDevice("sim:1", second_bytes)]


async def restored(loadmaster: Loadmaster) -> None:
    """Wait until every wish was looked at."""
    await until(lambda: not loadmaster.restoring)


@pytest.mark.parametrize("way", EVERY_WAY)
def test_a_restart_puts_back_what_was_there(place: Path, way: str) -> None:
    """Whatever chose it, though the memory is now free in other places, and another model is restored first."""

    async def main() -> None:
        async with service(place, *devices()) as loadmaster:
            await (await loadmaster.load("tied", PlacementRequest(2))).wait()
            await (await loadmaster.load("experts", EVERY_WAY[way], PINNED)).wait()
            await (await loadmaster.offload("tied", lambda request: replace(request, n_gpu_layers=1))).wait()
            before = {id_: resident.current.placement for id_, resident in loadmaster._residents.items()}
            wishes = dict(loadmaster._wishes.current)
        async with service(place, *devices()) as loadmaster:
            await restored(loadmaster)
            assert {id_: resident.current.placement for id_, resident in loadmaster._residents.items()} == before
            assert loadmaster._wishes.current == wishes
            await assert_books_agree(loadmaster, "experts")

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(4))
def test_restarts_after_random_placements(place: Path, seed: int) -> None:
    """Both models come back byte for byte where they were, whatever they were asked for before."""
    rng = chances(seed)

    async def main() -> None:
        async with service(place, *devices()) as loadmaster:
            for model in two_models():
                await (await loadmaster.load(model.id, PlacementRequest(0))).wait()
            for _ in range(6):
                for model in two_models():
                    body = PlacementBody.model_validate(random_body(rng, model.n_layer))
                    try:
                        await (await loadmaster.offload(model.id, body.changed, evict=Evict.NONE)).wait()
                    except DoesNotFit:
                        continue
            before = {id_: resident.current.placement for id_, resident in loadmaster._residents.items()}
        async with service(place, *devices()) as loadmaster:
            await restored(loadmaster)
            assert {id_: resident.current.placement for id_, resident in loadmaster._residents.items()} == before

    asyncio.run(main())


def test_experts_that_auto_kept_apart_stay_apart(place: Path) -> None:
    """Shrunk for another model, kept by a change of nothing, restarted: never with more than there is room for."""

    async def main() -> None:
        tight = [SimulatedDevice("sim:0", 3 * MIB)]
        async with service(place, *tight) as loadmaster:
            await (await loadmaster.load("experts", PlacementRequest("auto"))).wait()
            placement = loadmaster._residents["experts"].current.placement
            assert placement.n_cpu_moe > 0
            wanted = PlacementRequest(1)
            assert not (await loadmaster.plan("tied", wanted)).fits
            await (await loadmaster.load("tied", wanted, evict=Evict.LAYERS)).wait()
            wish = loadmaster._wishes.current["experts"]
            shrunk = loadmaster._residents["experts"].current.placement
            assert wish is not None
            assert (wish.request.n_gpu_layers, wish.request.n_cpu_moe) == (shrunk.n_gpu_layers, placement.n_cpu_moe)
            assert shrunk.n_gpu_layers < placement.n_gpu_layers
            job = await loadmaster.offload("experts", lambda request: request, evict=Evict.NONE)
            await job.wait()
            assert job.bytes_total == 0
            before = loadmaster._residents["experts"].current.placement
        async with service(place, SimulatedDevice("sim:0", 3 * MIB)) as loadmaster:
            await restored(loadmaster)
            assert set(loadmaster._residents) == {"tied", "experts"}
            assert loadmaster._residents["experts"].current.placement == before

    asyncio.run(main())


@pytest.mark.parametrize("way", EVERY_WAY)
def test_how_long_a_model_stays_is_no_reason_to_move_it(place: Path, way: str) -> None:
    """Nothing is copied, no generation is made, and nobody is evicted, whatever would be chosen today."""

    async def main() -> None:
        async with service(place, *devices()) as loadmaster:
            await (await loadmaster.load("tied", PlacementRequest(3))).wait()
            await (await loadmaster.load("experts", EVERY_WAY[way])).wait()
            await (await loadmaster.offload("tied", lambda request: replace(request, n_gpu_layers=4))).wait()
            before = loadmaster._residents["experts"].current
            wish = loadmaster._wishes.current["experts"]
            job = await loadmaster.offload("experts", None, lambda _: PINNED)
            assert (job.ended, job.bytes_total, job.generation) == (True, 0, before.number)
            assert loadmaster._residents["experts"].current is before
            assert set(loadmaster._residents) == {"tied", "experts"}
            assert wish is not None
            assert loadmaster._wishes.current["experts"] == replace(wish, retention=PINNED)

    asyncio.run(main())
