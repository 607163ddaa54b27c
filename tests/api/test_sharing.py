"""Several models, too little memory: who makes room, who stays, and what is said about it, over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.server import Json, answer, refusal, serving, until
from tests.residency.instruments import TINY

A, B, C = (f"/v1/models/shelf/{name}" for name in "abc")
ROOM = "sim:440KiB"
"""Two of the models, of 182 KiB each, but not three."""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """A service with three models of the same size on one device that has room for two."""
    (tmp_path / "models" / "shelf").mkdir(parents=True)
    for name in "abc":
        (tmp_path / "models" / "shelf" / f"{name}.gguf").write_bytes(TINY)
    with serving(tmp_path / "state", devices=ROOM, models=(tmp_path / "models",)) as client:
        yield client


def load(client: httpx.Client, model: str, **body: Json) -> Json:
    """Load a model whole; the models that made room for it."""
    job = answer(client.post(f"{model}/load", json={"n_gpu_layers": "all", "wait": True} | body))
    return job["result"]["evicted"]


def test_a_load_evicts_and_says_whom(client: httpx.Client) -> None:
    """The result names the model and its bytes, and the jobs say why it was unloaded."""
    for model in (A, B):
        assert load(client, model) == []
    taken = answer(client.get(f"{A}/memory"))
    answer(client.post(f"{A}/touch"))
    [evicted] = load(client, C)
    assert evicted["model"] == "shelf/b"
    assert evicted["n_gpu_layers"] is None
    assert evicted["freed"]["sim:0"] >= taken["gpu_bytes"]
    jobs = answer(client.get("/v1/jobs"))["data"]
    assert [(job["kind"], job["cause"]) for job in jobs if job["model"] == "shelf/b"] == [
        ("unload", "eviction"),
        ("load", "request"),
    ]
    assert answer(client.get(B))["state"] == "available"


def test_layers_are_taken_instead_of_models(client: httpx.Client) -> None:
    """Everybody stays loaded; the last one that was used gives least."""
    for model in (A, B):
        load(client, model)
    [evicted] = load(client, C, evict="layers")
    assert evicted["model"] == "shelf/a"
    shrunk = answer(client.get(A))
    assert (shrunk["state"], shrunk["n_gpu_layers"]) == ("loaded", evicted["n_gpu_layers"])
    assert answer(client.get("/v1/memory"))["devices"][0]["reserved_bytes"] == 0


def test_a_refusal_names_the_models_in_the_way(client: httpx.Client) -> None:
    """507 with numbers and ids; what was there is there, and a model can be unpinned."""
    load(client, A, pinned=True)
    load(client, B, pinned=True)
    error = refusal(client.post(f"{C}/load", json={"n_gpu_layers": "all"}), 507)
    assert error["pinned"] == ["shelf/a", "shelf/b"]
    assert "all models there are pinned: shelf/a, shelf/b" in error["message"]
    assert error["required_bytes"] > error["available_bytes"]
    answer(client.patch(f"{A}/offload", json={"pinned": False}))
    error = refusal(client.post(f"{C}/load", json={"n_gpu_layers": "all", "evict": False}), 507)
    assert (error["pinned"], error["idle"]) == (["shelf/b"], ["shelf/a"])
    assert [model["model"] for model in load(client, C)] == ["shelf/a"]


def test_how_long_a_model_stays_is_shown_and_kept(client: httpx.Client) -> None:
    """`pinned`, `keep_alive`, `used_at`, `expires_at`; null where nothing is loaded."""
    stay = ("pinned", "keep_alive", "used_at", "expires_at")
    assert [answer(client.get(A))[field] for field in stay] == [None] * 4
    load(client, A, keep_alive=600)
    shown = answer(client.get(A))
    assert (shown["pinned"], shown["keep_alive"]) == (False, 600)
    assert shown["expires_at"] == pytest.approx(shown["used_at"] + 600)
    answer(client.patch(f"{A}/offload", json={"n_gpu_layers": 1, "wait": True}))
    assert answer(client.get(A))["keep_alive"] == 600
    answer(client.patch(f"{A}/offload", json={"keep_alive": 0, "wait": True}))
    until(lambda: answer(client.get(A))["state"] == "available")


def test_a_touch(client: httpx.Client) -> None:
    """Answers with the model; 409 where it is not loaded, 404 where there is none."""
    assert refusal(client.post(f"{A}/touch"), 409)["code"] == "not_loaded"
    assert refusal(client.post("/v1/models/nobody/touch"), 404)["code"] == "model_not_found"
    load(client, A)
    before = answer(client.get(A))["used_at"]
    until(lambda: answer(client.post(f"{A}/touch"))["used_at"] > before)
