"""Ollama's own client against the service: list, show, load, move, ps and unload, on the demo model."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import ollama
import pytest

from tests.api.server import DEMO, DEMO_ID, SLOW, TINY, Json, answer, devices_of, load, serving

NAME = f"{DEMO_ID}:latest"
TINY_ID = "org/tiny"


@pytest.fixture
def api(client: httpx.Client) -> Iterator[ollama.Client]:
    """Ollama's client of the shared service."""
    with ollama.Client(str(client.base_url)) as api:
        yield api


def state(client: httpx.Client, model: str = DEMO) -> Json:
    """State, layers on accelerators, and seconds to be kept, by our own API."""
    found = answer(client.get(model))
    return found["state"], found["n_gpu_layers"], found["keep_alive"]


def refused(client: httpx.Client, status: int, path: str = "/api/generate", /, **body: Json) -> str:
    """The sentence of a refusal, which must have Ollama's shape."""
    found = answer(client.post(path, json=body), status)
    assert list(found) == ["error"]
    assert isinstance(found["error"], str)
    return found["error"]


def test_what_can_be_loaded_is_listed(api: ollama.Client) -> None:
    """Every sound model with its size and details, under a name with a tag; what cannot be read is left out."""
    listed = {model.model: model for model in api.list().models}

    demo = listed[NAME]
    assert (demo.size, demo.details.family if demo.details else None) == (98_362_432, "llama")
    assert demo.details is not None
    assert (demo.details.parameter_size, demo.details.quantization_level) == ("134.52M", "Q4_1")
    assert demo.digest is not None
    assert (len(demo.digest), int(demo.digest, 16) >= 0) == (64, True)
    assert f"{TINY_ID}:latest" in listed
    assert "truncated:latest" not in listed


def test_an_empty_prompt_loads_and_keep_alive_0_unloads(api: ollama.Client, client: httpx.Client) -> None:
    """num_gpu layers go to the accelerators before the answer, and are gone before the next one; ps says so."""
    loaded = api.generate(DEMO_ID, options={"num_gpu": 12, "temperature": 0.5}, keep_alive="10m")

    assert (loaded.model, loaded.done, loaded.done_reason, loaded.response) == (DEMO_ID, True, "load", "")
    assert state(client) == ("loaded", 12, 600)
    memory = answer(client.get(f"{DEMO}/memory"))
    (row,) = api.ps().models
    assert (row.model, row.size, row.size_vram) == (NAME, memory["total_bytes"], memory["gpu_bytes"])
    assert row.expires_at is not None
    assert timedelta(minutes=9) < row.expires_at - datetime.now(UTC) <= timedelta(minutes=10)

    moved = api.generate(NAME, options=ollama.Options(num_gpu=24))
    assert moved.done_reason == "load"
    assert state(client) == ("loaded", 24, 600)

    unloaded = api.generate(DEMO_ID, keep_alive=0)
    assert (unloaded.done, unloaded.done_reason) == (True, "unload")
    assert state(client)[0] == "available"
    assert answer(client.get("/v1/memory"))["devices"][0]["used_bytes"] == 0
    assert api.ps().models == []


def test_a_stream_has_one_part(api: ollama.Client, client: httpx.Client) -> None:
    """Which is the whole answer, at the end; and a refusal is an error of the client before any part."""
    (part,) = api.generate(TINY_ID, options={"num_gpu": 1}, stream=True)

    assert (part.done, part.done_reason) == (True, "load")
    assert state(client, TINY)[:2] == ("loaded", 1)
    with pytest.raises(ollama.ResponseError, match="no model 'nope'"):
        list(api.generate("nope", stream=True))


def test_what_was_honoured_is_echoed(api: ollama.Client, client: httpx.Client) -> None:
    """In the answer, in ps and, where the client shows it, in show's parameters: what is so, not what was sent."""
    body = {"model": DEMO_ID, "options": {"num_gpu": 999, "use_mmap": True}}
    generated = answer(client.post("/api/generate", json=body))

    assert generated["options"] == {"num_gpu": 30, "use_mmap": True, "use_mlock": False}
    (row,) = answer(client.get("/api/ps"))["models"]
    assert row["options"] == generated["options"]
    assert row["devices"] == answer(client.get("/v1/memory"))["models"][0]["devices"]
    parameters = api.show(DEMO_ID).parameters
    assert parameters is not None
    assert dict(line.split() for line in parameters.splitlines())["num_gpu"] == "30"


def test_a_call_that_only_names_a_loaded_model_moves_nothing(api: ollama.Client, client: httpx.Client) -> None:
    """What is left out stays as it is, a negative num_gpu included; and so stays pinned what is."""
    load(client, TINY, n_gpu_layers=2, pinned=True, keep_alive=60)
    before = answer(client.get(TINY))

    api.generate(TINY_ID)
    api.generate(TINY_ID, options={"num_gpu": -1, "top_k": 3}, keep_alive=-1)

    after = answer(client.get(TINY))
    assert (after["n_gpu_layers"], after["generation"]) == (2, before["generation"])
    assert (after["pinned"], after["keep_alive"]) == (True, -1)


def test_where_and_how_it_is_kept_can_be_said(api: ollama.Client, client: httpx.Client) -> None:
    """main_gpu is the one accelerator that is used, use_mmap false makes copies; and back again."""
    api.generate(TINY_ID, options={"num_gpu": 1, "main_gpu": 1, "use_mmap": False})
    assert {"sim:0"}.isdisjoint(devices_of(client, TINY).values())
    assert answer(client.get("/v1/memory"))["host"]["buffered_bytes"] > 0

    api.generate(TINY_ID, options={"num_gpu": 99, "main_gpu": -1, "use_mmap": True, "use_mlock": False})
    assert set(devices_of(client, TINY).values()) == {"sim:0", "sim:1"}
    assert answer(client.get("/v1/memory"))["host"]["buffered_bytes"] == 0


def test_a_context_is_planned_for(api: ollama.Client, client: httpx.Client) -> None:
    """num_ctx counts against the accelerators, as `context` does in our own API, and ps shows it."""
    api.generate(TINY_ID, options={"num_gpu": 1, "num_ctx": 64, "num_batch": 32})

    assert [row.context_length for row in api.ps().models] == [64]
    error = refused(client, 507, model=TINY_ID, options={"num_gpu": 1, "num_ctx": 2**31 - 1})
    assert error.startswith("org/tiny: does not fit: sim:")


def test_a_model_is_shown(api: ollama.Client, client: httpx.Client) -> None:
    """Its metadata, template and details; long arrays whole only where that is asked for."""
    shown = api.show(NAME)

    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["general.parameter_count"] == 134_515_008
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert shown.template
    assert (shown.capabilities, shown.parameters) == ([], "")
    verbose = answer(client.post("/api/show", json={"name": TINY_ID, "verbose": True}))
    assert len(verbose["tensors"]) == answer(client.get(f"{TINY}/tensors"))["total"]
    odd = answer(client.post("/api/show", json={"model": "odd", "verbose": True}))["model_info"]
    assert (odd["odd.nan"], odd["odd.many_floats"]) == (None, [None] * 1000)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("+90s", 90),
        ("250ms", 0.25),
        ("30", 30),
        (30, 30),
        (1.5, 1.5),
        (-1, -1),
        ("-1m", -1),
        (-0.5, -1),
        (1e308, -1),
        ("9999999h", -1),
        (10**300, -1),
    ],
)
def test_durations_as_its_clients_write_them(client: httpx.Client, given: Json, kept: float) -> None:
    """Seconds or Go's durations; what is negative, or longer than thirty years, is for ever."""
    answer(client.post("/api/generate", json={"model": TINY_ID, "keep_alive": given, "options": {"num_gpu": 0}}))

    assert answer(client.get("/v1/jobs?limit=1"))["data"][0]["kind"] == "load"
    if kept >= 1 or kept == -1:  # else it may be unloaded already
        assert state(client, TINY)[2] == kept


@pytest.mark.parametrize("given", ["0", "0s", "0h0m", 0, 0.0, "-0", "0.0"])
def test_every_zero_unloads(client: httpx.Client, given: Json) -> None:
    """However it is written, and loaded or not."""
    load(client, TINY, n_gpu_layers=1)

    for _ in range(2):
        body = {"model": TINY_ID, "keep_alive": given, "prompt": ""}
        assert answer(client.post("/api/generate", json=body))["done_reason"] == "unload"
        assert state(client, TINY)[0] == "available"


@pytest.mark.parametrize(
    "body",
    [
        {"keep_alive": "10 parsecs"},
        {"keep_alive": "1" * 100_000},
        {"keep_alive": ""},
        {"keep_alive": "m"},
        {"keep_alive": True},
        {"keep_alive": []},
        {"options": {"num_gpu": "12"}},
        {"options": {"num_gpu": 1.5}},
        {"options": {"num_gpu": True}},
        {"options": {"main_gpu": 2}},
        {"options": {"main_gpu": 10**300}},
        {"options": {"num_ctx": 0}},
        {"options": {"num_ctx": 2**31}},
        {"options": {"use_mmap": "no"}},
        {"options": []},
        {"prompt": "why is the sky blue?"},
        {"prompt": ["a"]},
        {"model": None},
        {"model": ""},
    ],
    ids=lambda body: str(body)[:40],
)
def test_what_cannot_be_is_refused_in_one_sentence(client: httpx.Client, body: Json) -> None:
    """422 that names the model, and nothing is loaded; numbers beyond all machines are no exception."""
    error = refused(client, 422, **{"model": TINY_ID, **body})

    assert 0 < len(error) < 400
    assert TINY_ID in error or "model" in body
    assert state(client, TINY)[0] == "available"


def test_errors_reach_the_client_as_sentences(api: ollama.Client) -> None:
    """What is unknown, does not fit or cannot be done names the model, and the numbers that say why."""
    with pytest.raises(ollama.ResponseError, match="no model 'org/nope:1b'") as unknown:
        api.generate("org/nope:1b")
    with pytest.raises(ollama.ResponseError, match="generates no text") as no_engine:
        api.generate(DEMO_ID, "Hello!")
    with pytest.raises(ollama.ResponseError, match=f"^{DEMO_ID}: does not fit: sim:0 needs") as too_large:
        api.generate(DEMO_ID, options={"num_gpu": 30, "main_gpu": 0})
    with pytest.raises(ollama.ResponseError, match="Not Found"):
        api.pull("llama3")

    assert (unknown.value.status_code, no_engine.value.status_code, too_large.value.status_code) == (404, 422, 507)


def test_a_body_need_not_say_that_it_is_json(client: httpx.Client) -> None:
    """Ollama's documentation has curl send it as a form; a stream's one line is the same answer."""
    for kind in ({}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "text/plain"}):
        content = b'{"model": "org/tiny", "stream": true, "nobody": {"knows": "this"}}'
        found = answer(client.post("/api/generate", content=content, headers=kind))
        assert found["done_reason"] == "load"


def test_it_is_asked_whether_anybody_is_there(api: ollama.Client, client: httpx.Client) -> None:
    """HEAD / answers, a browser is still led on, and the version is one that can be compared."""
    for path in ("/", "/api/version", "/api/tags"):
        assert client.head(path).status_code == 200
    assert client.get("/").status_code in (200, 307)
    version = answer(client.get("/api/version"))["version"]
    assert all(part.isdigit() for part in version.split("."))


def test_callers_wait_for_each_other(tmp_path: Path, built_models: Path) -> None:
    """Two that want different layers of one model both succeed, one after the other: they know of no jobs."""
    with serving(tmp_path, devices=SLOW, models=(built_models,)) as client, ThreadPoolExecutor(4) as callers:

        def call(num_gpu: int) -> Json:
            body = {"model": DEMO_ID, "options": {"num_gpu": num_gpu}}
            return answer(client.post("/api/generate", json=body))["done_reason"]

        assert list(callers.map(call, (1, 2, 3, 1))) == ["load"] * 4
        assert state(client)[0] == "loaded"
