"""A tensor's raw bytes: whole, in ranges, and from where they are."""

import asyncio
import logging
import os
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Scope

from app.api.byte_ranges import TensorResponse
from tests.api.server import DEMO, answer, load, open_files, refusal, serving, unload, until
from tests.gguf_builder import Tensor, build, llama_metadata, llama_shapes, tensor_size, tiny_llama
from tests.residency.deck import service

NORM = f"{DEMO}/tensors/output_norm.weight/data"
NORM_BYTES = 2304

RANGES = {
    "bytes=0-3": (0, 4),
    "bytes=0-0": (0, 1),
    "bytes=2300-": (2300, 2304),
    "bytes=-4": (2300, 2304),
    "bytes=-99999": (0, 2304),
    "bytes=100-99999": (100, 2304),
    "Bytes = 5 - 9": (5, 10),
}


def test_a_tensor_is_sent_whole(client: httpx.Client) -> None:
    """Without Range: all of it, with its length, the device and the generation; 0 where nothing is loaded."""
    response = client.get(NORM)

    assert response.status_code == 200
    assert len(response.content) == int(response.headers["content-length"]) == NORM_BYTES
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-type"] == "application/octet-stream"
    assert (response.headers["x-loadmaster-device"], response.headers["x-loadmaster-generation"]) == ("cpu", "0")


def test_the_device_and_generation_are_those_of_the_bytes(client: httpx.Client) -> None:
    """Loaded, the tensor comes from its device, in the current generation."""
    job = load(client, n_gpu_layers=1, devices=["sim:1"])

    response = client.get(NORM)

    assert response.headers["x-loadmaster-device"] == "sim:1"
    assert response.headers["x-loadmaster-generation"] == str(job["generation"])


@pytest.mark.parametrize("n_gpu_layers", [0, 1], ids=["from the file", "from a device"])
def test_one_range_is_sent(client: httpx.Client, n_gpu_layers: int) -> None:
    """206 with the bytes that were asked for, as far as there are."""
    load(client, n_gpu_layers=n_gpu_layers)
    whole = client.get(NORM).content

    for asked, (start, stop) in RANGES.items():
        part = client.get(NORM, headers={"Range": asked})

        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{NORM_BYTES}"
        assert part.content == whole[start:stop]
        assert int(part.headers["content-length"]) == stop - start


@pytest.mark.parametrize("asked", ["bytes=2304-", "bytes=99999-", "bytes=-0", "bytes=2304-9999"])
def test_a_range_beyond_the_end_is_refused(client: httpx.Client, asked: str) -> None:
    """416 with the size, in the error shape."""
    response = client.get(NORM, headers={"Range": asked})

    assert refusal(response, 416)["param"] == "Range"
    assert response.headers["content-range"] == f"bytes */{NORM_BYTES}"


@pytest.mark.parametrize(
    "asked",
    ["garbage", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=0-1,3-4", "items=0-3", "bytes=0--1",
     "bytes=" + "9" * 5000 + "-", "bytes=-" + "9" * 5000, b"bytes=\xb2-3"],
)  # fmt: skip
def test_what_is_no_range_of_ours_is_ignored(client: httpx.Client, asked: str) -> None:
    """Several ranges, other units and garbage: the whole tensor, as the RFC allows."""
    response = client.get(NORM, headers={"Range": asked})

    assert (response.status_code, len(response.content)) == (200, NORM_BYTES)


def test_an_empty_tensor_has_no_bytes(client: httpx.Client) -> None:
    """It is sent as nothing, and no range of it can be."""
    empty = "/v1/models/odd/tensors/empty/data"

    assert (client.get(empty).status_code, client.get(empty).content) == (200, b"")
    for asked in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        refusal(client.get(empty, headers={"Range": asked}), 416)


def test_a_tensor_name_may_hold_a_slash(client: httpx.Client) -> None:
    """Names are looked up, whatever is in them."""
    assert client.get("/v1/models/odd/tensors/a/b/data").content == bytes(8)


def test_an_unknown_tensor_is_named(client: httpx.Client) -> None:
    """404 that says which."""
    for name in ("nope", "%00", "..%2F..%2Fx", "b" * 10_000):
        error = refusal(client.get(f"{DEMO}/tensors/{name}/data"), 404)
        assert (error["code"], error["param"]) == ("not_found", "name")


def test_a_reader_that_leaves_lets_go(client: httpx.Client) -> None:
    """A client that hangs up in the middle of a tensor holds no memory afterwards: nothing stays retired."""
    load(client, n_gpu_layers=1)
    with client.stream("GET", f"{DEMO}/tensors/token_embd.weight/data") as response:
        next(response.iter_raw(1024))

    answer(client.post(f"{DEMO}/unload", json={"wait": True}))

    until(lambda: all(row["retired_bytes"] == 0 for row in answer(client.get("/v1/memory"))["devices"]))


class Impatient(TensorResponse):
    """As it ships, but for the time."""

    seconds = 0.01


def test_a_reader_that_takes_nothing_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It holds nothing any more, and the log has a line: its sloth is no fault of ours, which would be a traceback."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf").write_bytes(tiny_llama())

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("the client stays")

    scope: Scope = {"type": "http", "asgi": {"spec_version": "2.3"}}

    async def main() -> None:
        async with service(tmp_path) as loadmaster:
            before = open_files()
            reading = await loadmaster.read("tiny", "output_norm.weight")
            response = await Impatient.begun(reading, 0, 16)
            assert open_files() != before
            await response(scope, receive, send)
            assert open_files() == before

    asyncio.run(main())

    assert scope["state"] == {"complete": False}
    assert [record.levelno for record in caplog.records if "took nothing" in record.message] == [logging.WARNING]


def sparse_llama(path: Path) -> None:
    """Write a llama whose embedding has 34 MiB, all of them zeros that take no room."""
    tensors, end = [], 0
    for name, kind, dims in llama_shapes(
        n_layer=1, n_embd=4096, n_ff=32, n_kv=4096, n_vocab=8192, tied=True, uneven=False
    ):
        tensors.append(Tensor(name, kind, dims, offset=end))
        end += tensor_size(kind, dims)  # a multiple of 32, each of them
    metadata = llama_metadata(n_layer=1, n_embd=4096, n_ff=32, n_head=4, n_head_kv=4, n_vocab=8192)
    path.write_bytes(build(metadata, tensors))
    os.truncate(path, path.stat().st_size + end)


@pytest.mark.parametrize("host", [None, "mmap", "mlock"])
def test_a_file_that_is_cut_off_ends_the_reading(tmp_path: Path, host: str | None) -> None:
    """Under way, the response ends early; from its start on, it is a 409 that says where the file ends.

    The service lives on, and holds nothing.
    """
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "sparse.gguf"
    sparse_llama(path)
    table, norm = (f"/v1/models/sparse/tensors/{name}.weight/data" for name in ("token_embd", "output_norm"))
    with serving(tmp_path / "state", models=(tmp_path / "models",)) as client:
        if host is not None:
            load(client, "/v1/models/sparse", n_gpu_layers=0, host=host)
        with client.stream("GET", table) as response:
            pieces = response.iter_raw(1024)
            next(pieces)
            os.truncate(path, 500_000)
            with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
                list(pieces)
        for asked in (table, norm):
            error = refusal(client.get(asked), 409)
            assert (error["code"], error["file"]) == ("file_changed", str(path))
        assert answer(client.get("/readyz"))
        unload(client, "/v1/models/sparse")
        until(lambda: open_files() == {})
