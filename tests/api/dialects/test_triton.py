"""Triton's own client against the service: probes, index, load by a config, statistics, unload, on the demo model."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.api.server import DEMO, DEMO_ID, SLOW, TINY, Json, answer, devices_of, serving, until

TINY_ID = "org/tiny"


@pytest.fixture
def api(client: httpx.Client) -> Iterator[InferenceServerClient]:
    """Triton's client of the shared service."""
    with InferenceServerClient(client.base_url.netloc.decode()) as api:
        yield api


def config(**fields: Json) -> str:
    """A model configuration: our fields, and what one of Triton's has beside them."""
    return json.dumps({"name": "any", "backend": "gguf", "max_batch_size": 0, "parameters": {}, **fields})


def usage(statistics: Json) -> dict[tuple[str, int], int]:
    """Bytes by kind and number of a device."""
    (found,) = statistics["model_stats"]
    assert found["version"] == "1"
    return {(one["type"], one["id"]): one["byte_size"] for one in found["memory_usage"]}


def test_the_server_is_there(api: InferenceServerClient) -> None:
    """Live, ready, and with the two extensions that it has."""
    assert (api.is_server_live(), api.is_server_ready()) == (True, True)
    metadata = api.get_server_metadata()
    assert (metadata["name"], metadata["extensions"]) == ("loadmaster", ["model_repository", "statistics"])


def test_a_model_is_loaded_by_a_config_moved_and_unloaded(api: InferenceServerClient, client: httpx.Client) -> None:
    """The answer comes when it is done; the statistics count the bytes of every device; the index says READY."""
    assert not api.is_model_ready(DEMO_ID)

    for n_gpu_layers in (12, 24):
        api.load_model(DEMO_ID, config=config(n_gpu_layers=n_gpu_layers))

        model = answer(client.get(DEMO))
        assert (model["state"], model["n_gpu_layers"]) == ("loaded", n_gpu_layers)
        assert api.is_model_ready(DEMO_ID)
        assert api.is_model_ready(DEMO_ID, "1")
        devices = answer(client.get(f"{DEMO}/memory"))["devices"]
        numbered = {("CPU", 0): devices["cpu"], ("GPU", 0): devices["sim:0"], ("GPU", 1): devices["sim:1"]}
        assert usage(api.get_inference_statistics(DEMO_ID)) == numbered
        assert usage(api.get_inference_statistics()) == numbered

    api.unload_model(DEMO_ID)
    assert not api.is_model_ready(DEMO_ID)
    assert api.get_inference_statistics()["model_stats"] == []
    assert answer(client.get("/v1/memory"))["devices"][0]["used_bytes"] == 0


def test_the_index_says_what_every_model_does(api: InferenceServerClient, client: httpx.Client) -> None:
    """What cannot be loaded says why; `ready` leaves only what is loaded."""
    api.load_model(TINY_ID)

    index = {row["name"]: row for row in api.get_model_repository_index()}
    assert index[TINY_ID] == {"name": TINY_ID, "version": "1", "state": "READY", "reason": ""}
    assert (index[DEMO_ID]["state"], index[DEMO_ID]["reason"]) == ("UNAVAILABLE", "")
    assert "truncated.gguf" in index["truncated"]["reason"]
    assert [row["name"] for row in answer(client.post("/v2/repository/index", json={"ready": True}))] == [TINY_ID]


def test_an_id_with_a_slash_is_one_model(api: InferenceServerClient, client: httpx.Client) -> None:
    """In every path, with a version or without; the other fields of a load count as well."""
    api.load_model(TINY_ID, config=config(n_gpu_layers=1, devices=["sim:1"], strategy="last"))

    assert set(devices_of(client, TINY).values()) == {"cpu", "sim:1"}
    for version in ("", "1"):
        assert api.get_model_metadata(TINY_ID, version)["name"] == TINY_ID
        assert api.is_model_ready(TINY_ID, version)
        assert usage(api.get_inference_statistics(TINY_ID, version))["GPU", 1] > 0
    assert not api.is_model_ready(TINY_ID, "2")
    api.unload_model(TINY_ID, unload_dependents=True)
    assert not api.is_model_ready(TINY_ID)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", "parameters.config is not JSON"),
        ("[]", "parameters.config: "),
        ('{"n_gpu_layers": NaN}', "parameters.config is not JSON"),
        (config(n_gpu_layers="12"), 'parameters.config.n_gpu_layers: must be an integer .* got "12"'),
        (config(n_gpu_layers=31), "n_gpu_layers"),
        (config(devices=["sim:9"]), "no device 'sim:9'; there are sim:0, sim:1"),
        (config(n_gpu_layers=30, devices=["sim:0"]), "does not fit: sim:0 needs 96576768 bytes and has 67108864"),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_words(api: InferenceServerClient, given: str, said: str) -> None:
    """One sentence, which the client shows, with the model's name and the numbers."""
    with pytest.raises(InferenceServerException, match=f"{DEMO_ID}: .*{said}"):
        api.load_model(DEMO_ID, config=given)

    assert not api.is_model_ready(DEMO_ID)


def test_a_config_can_be_read_changed_and_sent_back(api: InferenceServerClient, client: httpx.Client) -> None:
    """It says where a loaded model is in the words that load it."""
    assert "n_gpu_layers" not in api.get_model_config(TINY_ID)
    api.load_model(TINY_ID, config=config(n_gpu_layers=1, devices=["sim:1"], strategy="last"))

    found = api.get_model_config(TINY_ID)
    assert (found["n_gpu_layers"], found["devices"], found["strategy"]) == (1, ["sim:1"], "last")
    api.load_model(TINY_ID, config=json.dumps({**found, "n_gpu_layers": 2}))
    assert answer(client.get(TINY))["n_gpu_layers"] == 2
    assert "sim:0" not in devices_of(client, TINY).values()


def test_an_unload_calls_off_a_load(tmp_path: Path) -> None:
    """Whoever waits for the load is told so in a sentence; both are answered when nothing is loaded any more."""
    with serving(tmp_path, devices=SLOW) as client, ThreadPoolExecutor(1) as caller:
        loading = caller.submit(client.post, f"/v2/repository/models/{DEMO_ID}/load")
        until(lambda: answer(client.post("/v2/repository/index"))[0]["state"] == "LOADING")
        answer(client.post(f"/v2/repository/models/{DEMO_ID}/unload"))

        error = answer(loading.result(), 409)["error"]
        assert DEMO_ID in error
        assert "was cancelled" in error
        assert answer(client.get(DEMO))["state"] == "available"


def test_files_are_not_taken(api: InferenceServerClient) -> None:
    """A model sent along is refused, not silently left out."""
    with pytest.raises(InferenceServerException, match="models are files of the models directories"):
        api.load_model(DEMO_ID, config="{}", files={"file:1/model.gguf": b"GGUF"})


def test_what_is_not_there_is_said_to_be_so(api: InferenceServerClient) -> None:
    """Unknown models and versions, models that are not loaded, and what nothing here does: inference."""
    for call in (api.load_model, api.unload_model, api.get_model_metadata, api.get_inference_statistics):
        with pytest.raises(InferenceServerException, match=r"no model 'a/\.\./\.\./etc/passwd'"):
            call("a/../../etc/passwd")
    with pytest.raises(InferenceServerException, match="has no version '7', only '1'"):
        api.get_model_metadata(TINY_ID, "7")
    with pytest.raises(InferenceServerException, match="org/tiny is not loaded"):
        api.get_inference_statistics(TINY_ID)
    with pytest.raises(InferenceServerException, match="Method Not Allowed"):
        api.infer(TINY_ID, [])


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b'{"parameters": null}', b'{"parameters": {"config": {}}}'])
def test_a_body_may_be_anything_that_means_nothing(client: httpx.Client, content: bytes) -> None:
    """None at all, with or without a Content-Type; a config as an object and not as a string is understood, too."""
    for headers in ({}, {"Content-Type": "application/octet-stream"}):
        answer(client.post(f"/v2/repository/models/{TINY_ID}/load", content=content, headers=headers))
        answer(client.post(f"/v2/repository/models/{TINY_ID}/unload", content=content, headers=headers))
