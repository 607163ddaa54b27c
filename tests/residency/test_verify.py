"""Verification: what it finds, and where."""

import asyncio
import struct
from pathlib import Path

import pytest

from app.devices.simulated import Faults, SimulatedBuffer, SimulatedDevice, flip_bit
from app.gguf import Header, TensorInfo, parse_header
from app.model import Problem, ProblemKind
from app.placement import HostMode, PlacementRequest, SplitMode, Strategy
from app.residency import Loadmaster
from app.residency.jobs import Job
from app.residency.records import JobState, VerifyResult
from app.residency.residents import LiveSlab
from tests.gguf_builder import build, llama_parts, split_llama, tiny_llama
from tests.residency.deck import ALL, MIB, fields, listening, service, two_devices
from tests.residency.instruments import TINY

HEADER = parse_header(TINY)
NAN = {"F32": struct.pack("<f", float("nan")), "F16": b"\0\x7e", "Q8_0": b"\0\x7c", "Q4_0": b"\xff\xff"}
BLOCK = {"F32": 4, "F16": 2, "Q8_0": 34, "Q4_0": 18}
LAYERS = ["The input layer", "Layer 0", "Layer 1", "Layer 2", "Layer 3", "The output layer"]
ROWS = PlacementRequest("all", split_mode=SplitMode.ROW, split_weights="equal")


async def verified(loadmaster: Loadmaster, model: str = "tiny", *, deep: bool = True) -> VerifyResult:
    """Verify, and wait for it."""
    return await result(await loadmaster.verify(model, deep=deep))


async def result(job: Job) -> VerifyResult:
    """Wait for a verification, which has to succeed, whatever it finds."""
    await job.wait()
    assert (job.state, job.stage, job.bytes_total) == (JobState.SUCCEEDED, "done", 0)
    assert isinstance(job.result, VerifyResult)
    return job.result


def only(found: VerifyResult) -> Problem:
    """The one problem that was found."""
    (problem,) = found.problems
    assert not found.ok
    return problem


def damaged(data: bytes, at: int, with_bytes: bytes) -> bytes:
    """Put other bytes in the place of some."""
    return data[:at] + with_bytes + data[at + len(with_bytes) :]


def place_of(header: Header, tensor: TensorInfo) -> int:
    """Where the tensor's data begins in the file."""
    return header.data_offset + tensor.offset


def slabs(loadmaster: Loadmaster) -> tuple[LiveSlab, ...]:
    """What is held of the tiny model."""
    return loadmaster._residents["tiny"].current.slabs


def flip(live: LiveSlab, at: int) -> None:
    """Flip one bit of a device's memory."""
    assert isinstance(live.buffer, SimulatedBuffer)
    with live.buffer.opened() as memory:
        flip_bit(memory, at)


@pytest.mark.parametrize("deep", [False, True], ids=["structure", "deep"])
def test_a_sound_model_is_ok_layer_by_layer(place: Path, *, deep: bool) -> None:
    """Every layer says so, and the summary says what was looked at."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            found = await verified(loadmaster, deep=deep)
            assert (found.ok, found.deep, found.problems) == (True, deep, ())
            assert [layer.message for layer in found.layers] == [f"{name}: ok" for name in LAYERS]
            looked_at = "structure, data and copies" if deep else "structure"
            assert found.summary == f"{looked_at}: 6 of 6 layers ok, no problems"

    asyncio.run(main())


def test_a_structure_problem_is_in_the_result(place: Path) -> None:
    """A tensor that is missing, and a block: the job succeeds, and names both, and the layers that lack them."""
    metadata, tensors = llama_parts(4, 64, 128, 4, 96, None, 0, tied=True, uneven=False)
    kept = [t for t in tensors if t.name != "blk.1.ffn_up.weight" and not str(t.name).startswith("blk.3.")]
    (place / "models" / "tiny.gguf").write_bytes(build(metadata, kept))

    async def main() -> None:
        async with service(place) as loadmaster:
            for deep in (False, True):
                found = await verified(loadmaster, deep=deep)
                assert not found.ok
                assert {(p.kind, p.layer, p.tensor) for p in found.problems} == {
                    (ProblemKind.MISSING, 1, "blk.1.ffn_up.weight"),
                    (ProblemKind.MISSING, 3, None),
                }
                verdicts = {str(layer.layer): layer.ok for layer in found.layers}
                assert verdicts == {"input": True, "0": True, "1": False, "2": True, "3": False, "output": True}
                assert found.layers[4].message == "Layer 3: not ok"
                assert found.summary.endswith("4 of 6 layers ok, 2 problems")

    asyncio.run(main())


@pytest.mark.parametrize("last", [False, True], ids=["first-block", "last-block"])
@pytest.mark.parametrize(
    "name",
    ["token_embd.weight", "blk.0.ffn_up.weight", "blk.2.attn_v.weight", "blk.3.attn_norm.weight", "output.weight"],
)
def test_damaged_data_is_named_with_its_block(place: Path, name: str, *, last: bool) -> None:
    """One scale or number that is NaN or infinite: this tensor, this block, and no other; seen by a deep look only."""
    tensor = next(tensor for tensor in HEADER.tensors if tensor.name == name)
    size = BLOCK[tensor.type.name]
    block = tensor.nbytes // size - 1 if last else 0
    bad = damaged(TINY, place_of(HEADER, tensor) + block * size, NAN[tensor.type.name])
    (place / "models" / "tiny.gguf").write_bytes(bad)

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            assert (await verified(loadmaster, deep=False)).ok
            for request in (None, ALL):
                if request is not None:
                    await (await loadmaster.load("tiny", request)).wait()
                found = await verified(loadmaster)
                problem = only(found)
                assert (problem.kind, problem.tensor) == (ProblemKind.INVALID_DATA, name)
                words = f"{name}: block {block} of type {tensor.type.name} holds a NaN or an infinity"
                assert (problem.message, problem.found) == (words, f"block {block}")
                assert [layer.layer for layer in found.layers if not layer.ok] == [problem.layer]

    asyncio.run(main())


@pytest.mark.parametrize("device", ["sim:0", "sim:1"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_bit_that_flipped_on_its_way_is_found(place: Path, device: str, number: int) -> None:
    """Whichever copy arrives wrong, the tensor that it hit is named, with its device, and only that one."""

    async def main() -> None:
        faults = Faults(flip=number)
        devices = [
            SimulatedDevice(id_, 4 * MIB, faults=faults if id_ == device else None) for id_ in ("sim:0", "sim:1")
        ]
        async with service(place, *devices) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            on_device = [live.slab for live in slabs(loadmaster) if live.slab.device == device]
            hit = on_device[number - 1].slices[0]
            for _ in range(2):
                problem = only(await verified(loadmaster))
                assert (problem.kind, problem.tensor) == (ProblemKind.WRONG_COPY, hit.tensor.name)
                at = hit.nbytes // 2
                assert problem.message == f"{hit.tensor.name}: byte {at} of the copy on {device} is not the file's"
                assert (problem.found or "").endswith(f"on {device}")
            await (await loadmaster.unload("tiny")).wait()
            await (await loadmaster.load("tiny", ALL)).wait()
            assert (await verified(loadmaster)).ok

    asyncio.run(main())


@pytest.mark.parametrize(
    "request_", [ALL, ROWS, PlacementRequest("all", Strategy.LLAMA_CPP)], ids=["layers", "rows", "llama.cpp"]
)
def test_every_tensor_on_every_device_is_compared(place: Path, request_: PlacementRequest) -> None:
    """Wherever a bit of a slab is flipped, in the first byte of a tensor, the last, or between: it is found there."""
    (place / "models" / "tiny.gguf").write_bytes(tiny_llama(n_layer=2))

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", request_)).wait()
            held = slabs(loadmaster)
            assert {live.slab.device for live in held} == {"sim:0", "sim:1"}
            for live in held:
                for part in live.slab.slices:
                    for at in {0, part.nbytes // 3, part.nbytes - 1}:
                        flip(live, part.slab_offset + at)
                        problem = only(await verified(loadmaster))
                        flip(live, part.slab_offset + at)
                        where = f"byte {part.start + at} of the copy on {live.slab.device} is not the file's"
                        assert problem.message == f"{part.tensor.name}: {where}"
            assert (await verified(loadmaster)).ok

    asyncio.run(main())


def test_all_wrong_copies_of_a_tensor_are_named(place: Path) -> None:
    """Data that is invalid, and a wrong copy on each of two devices: three problems of one tensor, each once."""
    tensor = next(tensor for tensor in HEADER.tensors if tensor.name == "blk.2.ffn_down.weight")
    size = BLOCK[tensor.type.name]
    (place / "models" / "tiny.gguf").write_bytes(
        damaged(TINY, place_of(HEADER, tensor) + 3 * size, 2 * NAN[tensor.type.name])
    )

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ROWS)).wait()
            for live in slabs(loadmaster):
                for part in live.slab.slices:
                    if part.tensor.name == tensor.name:
                        flip(live, part.slab_offset + 7)
                        flip(live, part.slab_offset + 9)
            found = await verified(loadmaster)
            assert {problem.tensor for problem in found.problems} == {tensor.name}
            kinds = sorted(problem.kind for problem in found.problems)
            assert kinds == ["invalid_data", "wrong_copy", "wrong_copy"]

    asyncio.run(main())


def test_a_host_copy_is_compared_too(place: Path) -> None:
    """With `host: buffered` what stays on the host is a copy like any other."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(1, host=HostMode.BUFFERED))).wait()
            assert (await verified(loadmaster)).ok
            live = next(live for live in slabs(loadmaster) if live.slab.device == "cpu")
            with live.buffer.writable() as memory:  # type: ignore[attr-defined]
                memory[0] ^= 1
            assert "of the copy on cpu is not the file's" in only(await verified(loadmaster)).message

    asyncio.run(main())


def test_shards_are_verified_as_one_model(place: Path) -> None:
    """Damage in the last shard, and a copy of it that is wrong, are named as in a single file."""
    shards = split_llama(3)
    header = parse_header(shards[2])
    tensor = next(tensor for tensor in header.tensors if tensor.type.name == "Q8_0")
    bad = damaged(shards[2], place_of(header, tensor) + 34, NAN["Q8_0"])
    for number, data in enumerate((*shards[:2], bad), 1):
        (place / "models" / f"split-{number:05}-of-00003.gguf").write_bytes(data)

    async def main() -> None:
        async with service(place, SimulatedDevice("sim:0", 4 * MIB, faults=Faults(flip=1))) as loadmaster:
            problem = only(await verified(loadmaster, "split"))
            assert (problem.tensor, problem.found) == (tensor.name, "block 1")
            await (await loadmaster.load("split", ALL)).wait()
            found = await verified(loadmaster, "split")
            kinds = [(problem.kind, problem.tensor) for problem in found.problems]
            assert kinds == [(ProblemKind.WRONG_COPY, "token_embd.weight"), (ProblemKind.INVALID_DATA, tensor.name)]

    asyncio.run(main())


@pytest.mark.parametrize("n_layer", [4, 0], ids=["tiny", "vocabulary"])
def test_progress_only_grows_and_no_byte_is_promised_to_a_device(place: Path, n_layer: int) -> None:
    """From 0 to 1 through every stage; also where a file holds no tensors at all."""
    if not n_layer:
        (place / "models" / "tiny.gguf").write_bytes(
            build(llama_parts(1, 64, 128, 4, 96, None, 0, tied=True, uneven=False)[0])
        )

    async def main() -> None:
        async with service(place) as loadmaster, listening(loadmaster) as events:
            job = await loadmaster.verify("tiny", deep=True)
            seen = []
            async for event in events:
                if event.name == "job":
                    seen.append(fields(event))
                    if seen[-1]["finished_at"]:
                        break
            assert job.ended
            amounts = [one["progress"] for one in seen]
            assert amounts == sorted(amounts)
            assert (amounts[0], amounts[-1]) == (0.0, 1.0)
            assert all(0 <= amount < 1 for amount in amounts[:-1])
            assert {(one["bytes_done"], one["bytes_total"]) for one in seen} == {(0, 0)}
            stages = dict.fromkeys(one["stage"] for one in seen if one["stage"])
            assert list(stages) == ["structure", "data", "done"]
            assert seen[-1]["result"]["ok"] is True

    asyncio.run(main())
