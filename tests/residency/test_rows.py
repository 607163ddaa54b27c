"""Matrices cut by rows, tensors placed one by one, llama.cpp's placement: loaded, changed live, restored."""

import asyncio
from pathlib import Path

import pytest

from app.placement import HOST, HostMode, Override, Placement, PlacementRequest, SplitMode, Strategy
from app.residency import Loadmaster
from app.residency.records import VerifyResult
from tests.gguf_builder import STRING, build, llama_parts, tiny_llama
from tests.residency.deck import assert_books_agree, rows, service, two_devices, until
from tests.residency.instruments import original

REQUESTS = {
    "rows": PlacementRequest("all", split_mode=SplitMode.ROW, split_weights=(1.0, 2.0)),
    "rows-last": PlacementRequest(3, Strategy.LAST, split_mode=SplitMode.ROW, split_weights=(0.0, 1.0)),
    "rows-and-overrides": PlacementRequest(
        3, split_mode=SplitMode.ROW, split_weights="equal", overrides=(Override("ffn_down", "sim:1"),)
    ),
    "rows-buffered": PlacementRequest(2, Strategy.ENDS, split_mode=SplitMode.ROW, host=HostMode.BUFFERED),
    "overrides": PlacementRequest(
        2, overrides=(Override(r"blk\.[13]\.ffn_up", "sim:1"), Override("attn_q", HOST), Override("output", "sim:0"))
    ),
    "overrides-without-layers": PlacementRequest(0, overrides=(Override("ffn", "sim:0"),)),
    "llama.cpp": PlacementRequest("all", Strategy.LLAMA_CPP, split_weights="equal"),
    "llama.cpp-some": PlacementRequest(3, Strategy.LLAMA_CPP, split_mode=SplitMode.NONE),
    "llama.cpp-buffered": PlacementRequest(2, Strategy.LLAMA_CPP, host=HostMode.BUFFERED),
    "llama.cpp-and-overrides": PlacementRequest(4, Strategy.LLAMA_CPP, overrides=(Override("token_embd", "sim:1"),)),
}
every_request = pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)


def placement(loadmaster: Loadmaster) -> Placement:
    """Where the tiny model is."""
    return loadmaster._residents["tiny"].current.placement


async def offload(loadmaster: Loadmaster, request: PlacementRequest) -> None:
    """Change the loaded model's placement to what the request says."""
    await (await loadmaster.offload("tiny", lambda _: request)).wait()


async def assert_sound(loadmaster: Loadmaster) -> None:
    """A deep look at every copy finds nothing wrong."""
    job = await loadmaster.verify("tiny", deep=True)
    await job.wait()
    assert isinstance(job.result, VerifyResult)
    assert job.result.ok, job.result.problems


async def assert_books_agree_with_a_copy(loadmaster: Loadmaster, copied_bytes: int) -> None:
    """The sums agree, the copy of a tied embedding in those of the model but not in those of its tensors."""
    await loadmaster.memory.ask()
    entry = loadmaster.library.entry("tiny")
    described = entry.require_model()
    memory = loadmaster.memory.model("tiny")
    assert memory is not None
    assert memory.total_bytes == memory.gpu_bytes + memory.cpu_bytes == described.size_bytes + copied_bytes
    assert sum(memory.devices.values()) == memory.total_bytes
    for found in (loadmaster.library.tensors(entry, described.tensors), loadmaster.library.layers(entry)):
        assert sum(sum(one.devices.values()) for one in found) == described.size_bytes
    for id_, row in rows(loadmaster).items():
        if id_ != HOST:
            assert row.weights_bytes == memory.devices.get(id_, 0)
            assert row.used_bytes == sum(slab.nbytes for slab in placement(loadmaster).slabs if slab.device == id_)
    for tensor in described.tensors:
        reading = await loadmaster.read("tiny", tensor.name)
        data = b"".join([chunk async for chunk in reading.chunks(0, tensor.nbytes)])
        assert data == original(entry.files[tensor.file].path, tensor.offset, tensor.nbytes), tensor.name


@every_request
def test_books_and_bytes_agree_however_tensors_are_placed(place: Path, request_: PlacementRequest) -> None:
    """Loaded so, all sums are one and every tensor is read back as the file has it; a deep look is content."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", request_)).wait()
            await assert_books_agree(loadmaster, "tiny")
            await assert_sound(loadmaster)

    asyncio.run(main())


def test_offloads_go_from_any_placement_to_any_other(place: Path) -> None:
    """Live, there and back between all kinds, the bytes stay the file's, and what is held is what a load would hold."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            fresh = {}
            for name, request in REQUESTS.items():
                await (await loadmaster.load("tiny", request)).wait()
                await assert_books_agree(loadmaster, "tiny")
                fresh[name] = placement(loadmaster)
                await (await loadmaster.unload("tiny")).wait()
            await (await loadmaster.load("tiny", PlacementRequest("all"))).wait()
            for name in ("rows", "llama.cpp", "rows-and-overrides", "rows", "llama.cpp-some"):
                await offload(loadmaster, REQUESTS[name])
                await assert_books_agree(loadmaster, "tiny")
                assert placement(loadmaster) == fresh[name]
            await assert_sound(loadmaster)

    asyncio.run(main())


@pytest.mark.parametrize("name", ["rows", "overrides", "llama.cpp"])
def test_layers_come_and_go_live(place: Path, name: str) -> None:
    """Up and down through the numbers of layers, nothing is lost; the same n twice copies nothing."""
    request = REQUESTS[name]

    def layers(n: int) -> PlacementRequest:
        return PlacementRequest(
            n, request.strategy, None, request.split_mode, request.split_weights, overrides=request.overrides
        )

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", layers(0))).wait()
            for n in (1, 4, 2, 3, 0, 4):
                await offload(loadmaster, layers(n))
                assert placement(loadmaster).n_gpu_layers == n
                await assert_books_agree(loadmaster, "tiny")
            again = await loadmaster.offload("tiny", lambda _: layers(4))
            await again.wait()
            assert again.bytes_total == 0
            await assert_sound(loadmaster)

    asyncio.run(main())


def without_output() -> bytes:
    """Write a model of an architecture of its own: what its last block says is multiplied by the embedding."""
    metadata, tensors = llama_parts(4, 64, 128, 4, 96, None, 0, tied=True, uneven=False)
    keys = [(str(key).replace("llama.", "plain."), kind, value) for key, kind, value in metadata[1:]]
    named = [one for one in tensors if one[0] != "output_norm.weight"]
    return build([("general.architecture", STRING, "plain"), *keys], named)


@pytest.mark.parametrize("host", [HostMode.MMAP, HostMode.BUFFERED])
@pytest.mark.parametrize("data", [tiny_llama(tied=True), without_output()], ids=["tied", "without-output-tensors"])
def test_the_copy_of_a_tied_embedding_counts(place: Path, data: bytes, host: HostMode) -> None:
    """Where the output goes by llama.cpp's rules a tied embedding goes too, and stays on the host as well."""
    (place / "models" / "tiny.gguf").write_bytes(data)

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            nothing = PlacementRequest(0, Strategy.LLAMA_CPP, host=host)
            await (await loadmaster.load("tiny", nothing, allow_unknown=True)).wait()
            await assert_books_agree_with_a_copy(loadmaster, 0)
            described = loadmaster.library.entry("tiny").require_model()
            embedding = described.tensors_by_name["token_embd.weight"]
            for n in (1, 5, 3):
                await offload(loadmaster, PlacementRequest(n, Strategy.LLAMA_CPP, host=host))
                await assert_books_agree_with_a_copy(loadmaster, embedding.nbytes)
                assert placement(loadmaster).tensor_devices(embedding) == {HOST: embedding.nbytes}
                await assert_sound(loadmaster)
            await offload(loadmaster, PlacementRequest(3, host=host))
            await assert_books_agree_with_a_copy(loadmaster, 0)

    asyncio.run(main())


@pytest.mark.parametrize("tied", [False, True], ids=["own-output", "tied-output"])
@every_request
def test_a_restart_restores_an_equal_placement(place: Path, request_: PlacementRequest, *, tied: bool) -> None:
    """Every slab is where it was, row for row, and sound; the wish is the same."""
    (place / "models" / "tiny.gguf").write_bytes(tiny_llama(tied=tied))

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", request_)).wait()
            before, wish = placement(loadmaster), loadmaster._wishes.current["tiny"]
        async with service(place, *two_devices()) as loadmaster:
            await until(lambda: not loadmaster.restoring)
            assert placement(loadmaster) == before
            assert loadmaster._wishes.current["tiny"] == wish
            await assert_sound(loadmaster)

    asyncio.run(main())
