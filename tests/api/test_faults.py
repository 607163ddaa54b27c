"""When a change fails or is called off in the middle, everything is as it was. Each test orders its own fault."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.api.server import (
    DEMO,
    SLOW,
    Json,
    answer,
    listening,
    load,
    offload,
    open_files,
    present,
    refusal,
    serving,
    unload,
    until,
)

Serve = Callable[[str], AbstractContextManager[httpx.Client]]

FAULTS = {"oom": "out_of_memory", "failcopy": "transfer"}


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serve with devices of the test's choice."""
    return lambda devices: serving(tmp_path / "state", devices=devices)


def wait_for_bytes(client: httpx.Client, job: Json) -> None:
    """Return once the job has copied something, and not all."""
    until(lambda: answer(client.get(f"/v1/jobs/{job['id']}"))["bytes_done"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle_of_a_load_leaves_nothing(serve: Serve, fault: str) -> None:
    """The load is a 503 that names the device; the model is failed, says why, and loads when asked again."""
    with serve(f"sim:64MiB,sim:64MiB:{fault}=5") as client:
        before = present(client)

        error = refusal(client.post(f"{DEMO}/load", json={"n_gpu_layers": 20, "wait": True}), 503)

        assert (error["code"], error["reason"], error["device"]) == ("device_error", FAULTS[fault], "sim:1")
        assert present(client) == before
        assert open_files() == {}
        model = answer(client.get(DEMO))
        assert (model["state"], model["error"]["reason"]) == ("failed", FAULTS[fault])
        (job,) = answer(client.get("/v1/jobs"))["data"]
        assert (job["state"], job["error"]["reason"]) == ("failed", FAULTS[fault])

        load(client, n_gpu_layers=20)
        assert answer(client.get(DEMO))["error"] is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle_of_an_offload_leaves_the_placement(serve: Serve, fault: str) -> None:
    """The PATCH is a 503; placement, generation and ledger are as before, the model loaded and its bytes readable."""
    with serve(f"sim:64MiB,sim:64MiB:{fault}=20") as client:
        load(client, n_gpu_layers=12)
        before = present(client)
        held = open_files().keys()

        error = refusal(client.patch(f"{DEMO}/offload", json={"n_gpu_layers": 30, "wait": True}), 503)

        assert error["reason"] == FAULTS[fault]
        assert present(client) == before
        assert open_files().keys() == held
        assert answer(client.get(DEMO))["state"] == "loaded"
        assert client.get(f"{DEMO}/tensors/blk.0.attn_q.weight/data").status_code == 200

        offload(client, n_gpu_layers=30)


def test_cancel_in_the_middle_of_a_load(serve: Serve) -> None:
    """DELETE is a 202 at once; the job ends cancelled, the model is available, and nothing is held."""
    with serve(SLOW) as client:
        before = present(client)
        job = answer(client.post(f"{DEMO}/load", json={"n_gpu_layers": 30}), 202)
        wait_for_bytes(client, job)

        assert answer(client.delete(f"/v1/jobs/{job['id']}"), 202)["id"] == job["id"]
        until(lambda: answer(client.get(f"/v1/jobs/{job['id']}"))["finished_at"])

        ended = answer(client.delete(f"/v1/jobs/{job['id']}"))
        assert (ended["state"], ended["error"]["code"]) == ("cancelled", "cancelled")
        assert 0 < ended["bytes_done"] < ended["bytes_total"]
        assert present(client) == before
        assert answer(client.get(DEMO))["state"] == "available"
        assert open_files() == {}


def test_cancel_in_the_middle_of_an_offload(serve: Serve) -> None:
    """The placement stays the one before; the layers that were there stay readable on their devices."""
    with serve(SLOW) as client:
        load(client, n_gpu_layers=1)
        before = present(client)
        job = answer(client.patch(f"{DEMO}/offload", json={"n_gpu_layers": 30}), 202)
        wait_for_bytes(client, job)

        client.delete(f"/v1/jobs/{job['id']}")
        until(lambda: answer(client.get(f"/v1/jobs/{job['id']}"))["state"] == "cancelled")

        assert present(client) == before
        assert answer(client.get(DEMO))["state"] == "loaded"


def test_unload_during_a_load(serve: Serve) -> None:
    """202; the load ends cancelled, the unload succeeded, and nothing is held."""
    with serve(SLOW) as client:
        loading = answer(client.post(f"{DEMO}/load", json={"n_gpu_layers": 30}), 202)
        wait_for_bytes(client, loading)
        busy = refusal(client.post(f"{DEMO}/load", json={"n_gpu_layers": 2}), 409)
        assert (busy["code"], busy["job"]) == ("busy", loading["id"])

        unloading = answer(client.post(f"{DEMO}/unload"), 202)

        until(lambda: answer(client.get(f"/v1/jobs/{unloading['id']}"))["finished_at"])
        states = {job["kind"]: job["state"] for job in answer(client.get("/v1/jobs"))["data"]}
        assert states == {"load": "cancelled", "unload": "succeeded"}
        assert answer(client.get(DEMO))["state"] == "available"
        assert answer(client.get("/v1/memory"))["models"] == []
        assert open_files() == {}


def test_whoever_waits_for_a_load_that_is_called_off_is_told(serve: Serve) -> None:
    """A waiting load whose job is cancelled answers 409 `cancelled`."""
    with serve(SLOW) as client, listening(client) as events:
        next(events)
        post = partial(client.post, f"{DEMO}/load", json={"n_gpu_layers": 30, "wait": True})
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(post)
            job = next(event.data for event in events if event.name == "job")
            client.delete(f"/v1/jobs/{job['id']}")
            assert refusal(waiting.result(), 409)["code"] == "cancelled"


def test_what_is_read_is_what_the_device_holds(serve: Serve) -> None:
    """A bit that was flipped on the way to the device shows when its bytes are read back: they are not the file's."""
    with serve("sim:64MiB:flip=1") as client:
        load(client, n_gpu_layers=1)
        table = client.get(f"{DEMO}/tensors/token_embd.weight/data")
        unload(client)
        file = client.get(f"{DEMO}/tensors/token_embd.weight/data")

    assert (table.headers["x-loadmaster-device"], file.headers["x-loadmaster-device"]) == ("sim:0", "cpu")
    differing = np.frombuffer(table.content, np.uint8) ^ np.frombuffer(file.content, np.uint8)
    assert differing[differing != 0].tolist() == [1]
