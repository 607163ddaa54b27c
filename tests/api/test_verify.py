"""Verification over HTTP: of every model that can be read, in every state, and beside everything else."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.gguf import parse_header
from tests.api.server import (
    DEMO,
    FAST,
    SLOW,
    TINY,
    Json,
    answer,
    listening,
    load,
    offload,
    refusal,
    serving,
    unload,
    until,
)
from tests.gguf_builder import build, llama_parts, tiny_llama
from tests.materialise import HEADERS, UNKNOWN, materialised

DEEP = {"deep": True, "wait": True}


def verify(client: httpx.Client, model: str = DEMO, /, **body: Json) -> Json:
    """Verify, wait for it, and return the job, which has succeeded whatever it found."""
    job = answer(client.post(f"{model}/verify", json={"wait": True, **body}))
    assert (job["kind"], job["state"], job["stage"]) == ("verify", "succeeded", "done")
    assert (job["progress"], job["bytes_done"], job["bytes_total"], job["error"]) == (1.0, 0, 0, None)
    return job


@pytest.mark.parametrize("deep", [False, True], ids=["structure", "deep"])
def test_the_demo_model_is_sound_layer_by_layer(client: httpx.Client, *, deep: bool) -> None:
    """On the disk and on devices: the answer has a line for each layer, and a summary."""
    for n_gpu_layers in (None, 0, 30):
        if n_gpu_layers is not None:
            load(client, n_gpu_layers=n_gpu_layers)
        result = verify(client, deep=deep)["result"]
        assert result.keys() == {"ok", "deep", "summary", "problems", "layers"}
        assert (result["ok"], result["deep"], result["problems"], len(result["layers"])) == (True, deep, [], 32)
        assert result["layers"][18] == {"layer": 17, "ok": True, "message": "Layer 17: ok"}
        assert [result["layers"][0]["layer"], result["layers"][-1]["layer"]] == ["input", "output"]
        assert "32 of 32 layers ok" in result["summary"]


@pytest.mark.parametrize("body", [None, b"", b"null", b"{}"])
def test_a_body_may_be_left_out(client: httpx.Client, body: bytes | None) -> None:
    """Then it is the structure that is looked at: 202 and a job, or 200 where that has ended already."""
    response = client.post(f"{TINY}/verify", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 202)
    job = response.json()
    until(lambda: answer(client.get(f"/v1/jobs/{job['id']}"))["finished_at"])
    assert answer(client.get(f"/v1/jobs/{job['id']}"))["result"]["deep"] is False


@pytest.mark.parametrize(
    "body", [{"deep": 1}, {"deep": "true"}, {"deep": None}, {"deeper": True}, {"wait": 1}, {"n_gpu_layers": 1}, [], 1]
)
def test_a_body_that_cannot_be_is_refused(client: httpx.Client, body: Json) -> None:
    """422, in the one error shape."""
    refusal(client.post(f"{TINY}/verify", json=body), 422)


def test_what_cannot_be_read_cannot_be_verified(client: httpx.Client) -> None:
    """422 with the file's fault where a model is invalid, 404 where there is none, 405 for a GET."""
    error = refusal(client.post("/v1/models/truncated/verify", json=DEEP), 422)
    assert error["code"] == "invalid_model"
    assert "truncated.gguf" in error["message"]
    assert refusal(client.post("/v1/models/nothing/verify", json=DEEP), 404)["code"] == "model_not_found"
    assert refusal(client.get(f"{TINY}/verify"), 405)["code"] == "method_not_allowed"


@pytest.mark.parametrize("number", [1, 4, 12])
def test_a_flipped_bit_names_its_tensor_and_device(tmp_path: Path, number: int) -> None:
    """With `flip=N` on the second device exactly the tensor that copy N brought is named, and its layer is not ok."""
    with serving(tmp_path, devices=f"sim:64MiB,sim:64MiB:flip={number}") as client:
        load(client, n_gpu_layers=30, split={"weights": "equal"})
        layers = [
            layer["layer"] for layer in answer(client.get(f"{DEMO}/layers"))["data"] if layer["device"] == "sim:1"
        ]
        tensors = answer(client.get(f"{DEMO}/tensors?layer={layers[number - 1]}"))["data"]
        result = verify(client, deep=True)["result"]
        (problem,) = result["problems"]
        assert problem.keys() == {"kind", "layer", "tensor", "key", "expected", "found", "message"}
        assert (problem["kind"], problem["layer"]) == ("wrong_copy", layers[number - 1])
        assert problem["tensor"] == tensors[0]["name"]
        assert problem["found"].endswith("on sim:1")
        assert result["ok"] is False
        assert [layer["layer"] for layer in result["layers"] if not layer["ok"]] == [layers[number - 1]]
        offload(client, n_gpu_layers=0)
        assert verify(client, deep=True)["result"]["ok"] is True


def test_a_model_that_is_not_sound_is_verified_and_not_loaded(tmp_path: Path) -> None:
    """The job succeeds with `ok: false` and names the tensor; a load is 422 and names it, too."""
    metadata, tensors = llama_parts(2, 64, 128, 4, 96, None, 0, tied=True, uneven=False)
    kept = [tensor for tensor in tensors if tensor.name != "blk.1.attn_output.weight"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bad.gguf").write_bytes(build(metadata, kept))
    with serving(tmp_path / "state", models=(tmp_path / "models",)) as client:
        for deep in (False, True):
            result = verify(client, "/v1/models/bad", deep=deep)["result"]
            (problem,) = result["problems"]
            assert (problem["kind"], problem["tensor"]) == ("missing", "blk.1.attn_output.weight")
            assert (problem["layer"], problem["expected"], problem["found"]) == (1, "[64, 64]", "no tensor")
            assert [layer["ok"] for layer in result["layers"]] == [True, True, False, True]
        assert answer(client.get("/v1/models/bad"))["problems"] == [problem]
        assert "blk.1.attn_output.weight" in refusal(client.post("/v1/models/bad/load"), 422)["message"]


def test_a_busy_model_is_verified_and_stays_busy(tmp_path: Path) -> None:
    """While it is loaded slowly: no 409, the load goes on, and the job is told over the event stream."""
    with serving(tmp_path, devices=SLOW) as client, listening(client) as events:
        loading = answer(client.post(f"{DEMO}/load", json={"n_gpu_layers": 30}), 202)
        assert verify(client, deep=True)["result"]["ok"] is True
        assert answer(client.get(DEMO))["job"] == loading["id"]
        jobs = (event.data for event in events if event.name == "job" and event.data["kind"] == "verify")
        told = [next(jobs)]
        while told[-1]["state"] != "succeeded":
            told.append(next(jobs))
        amounts = [job["progress"] for job in told]
        assert amounts == sorted(amounts)
        assert {job["bytes_total"] for job in told} == {0}
        assert told[-1]["result"]["ok"] is True
        assert answer(client.get(f"/v1/jobs/{loading['id']}"))["state"] == "running"


def test_fifty_at_once_while_layers_move(tmp_path: Path, built_models: Path) -> None:
    """Each finds every copy true, whichever generation it holds; the device has room for what is held."""
    with serving(tmp_path, devices="sim:1GiB", models=(built_models,)) as client, ThreadPoolExecutor(16) as pool:
        load(client, n_gpu_layers=10)
        results = [pool.submit(verify, client, TINY, deep=True) for _ in range(40)]
        results += [pool.submit(verify, client, DEMO, deep=True) for _ in range(10)]
        for n_gpu_layers in (30, 0, 20):
            offload(client, n_gpu_layers=n_gpu_layers)
        unload(client)
        assert all(result.result()["result"]["ok"] for result in results)


def test_a_verification_is_cancelled_like_any_job(client: httpx.Client) -> None:
    """DELETE ends it, unless it was faster; whoever waits is told with 409."""
    job = client.post(f"{DEMO}/verify", json={"deep": True}).json()
    assert client.delete(f"/v1/jobs/{job['id']}").status_code in (200, 202)
    until(lambda: answer(client.get(f"/v1/jobs/{job['id']}"))["finished_at"])
    ended = answer(client.get(f"/v1/jobs/{job['id']}"))
    assert ended["state"] in ("cancelled", "succeeded")
    assert (ended["result"] is None) == (ended["state"] == "cancelled")


def test_a_file_that_changed_is_told_in_words(tmp_path: Path) -> None:
    """Not loaded: 409 `file_changed`. Loaded: `ok: false`, and the first problem says what happened."""
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "tiny.gguf"
    path.write_bytes(tiny_llama())
    with serving(tmp_path / "state", models=(tmp_path / "models",)) as client:
        load(client, "/v1/models/tiny", n_gpu_layers=2)
        os.truncate(path, parse_header(tiny_llama()).data_offset)
        result = verify(client, "/v1/models/tiny", deep=True)["result"]
        assert {problem["kind"] for problem in result["problems"]} == {"file_changed"}
        assert "changed its size" in result["problems"][0]["message"]
        assert not any(layer["ok"] for layer in result["layers"])
        unload(client, "/v1/models/tiny")
        error = refusal(client.post("/v1/models/tiny/verify", json=DEEP), 409)
        assert error["code"] == "file_changed"
        answer(client.post("/v1/models/rescan"))
        assert answer(client.get("/v1/models/tiny"))["state"] == "invalid"


@pytest.mark.skipif(not HEADERS, reason="no shared fixtures beside the checkout")
def test_architectures_that_nobody_here_knows(tmp_path: Path) -> None:
    """They are listed, shown, planned and verified; loaded only where the request says that it may be so."""
    (tmp_path / "models").mkdir()
    for head in HEADERS:
        if any(head.name.startswith(name + "-") for name in UNKNOWN):
            materialised(head, tmp_path / "models")
    with serving(tmp_path / "state", devices=FAST, models=(tmp_path / "models",)) as client:
        models = [model for model in answer(client.get("/v1/models"))["data"] if model["architecture"] in UNKNOWN]
        assert {model["architecture"] for model in models} == UNKNOWN
        for model in models:
            path = f"/v1/models/{model['id']}"
            assert answer(client.get(path))["architecture_known"] is False
            assert answer(client.get(f"{path}/statistics"))["parameters"] == model["parameters"]
            assert answer(client.get(f"{path}/layers"))["total"] == model["n_layer"] + 2
            assert verify(client, path, deep=True)["result"]["ok"] is True
            error = refusal(client.post(f"{path}/load", json={"n_gpu_layers": 1}), 422)
            assert f"unknown architecture '{model['architecture']}'" in error["message"]
            assert error["param"] == "allow_unknown_architecture"
            allowed = {"n_gpu_layers": 1, "allow_unknown_architecture": True}
            assert answer(client.post(f"{path}/plan", json=allowed))["fits"] is True
            load(client, path, **allowed)
            assert verify(client, path, deep=True)["result"]["ok"] is True
            unload(client, path)
