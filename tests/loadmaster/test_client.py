"""The client library against a real service."""

from collections.abc import Iterator

import httpx
import pytest

from loadmaster import Client, RequestFailed
from tests.api.server import serving

MODEL = "smollm2-135m-instruct.q4_1"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a service with the demo model and two simulated devices."""
    with serving(tmp_path_factory.mktemp("state")) as http, Client(str(http.base_url)) as found:
        yield found


def test_a_model_is_loaded_moved_checked_and_unloaded(client: Client) -> None:
    """Each call returns when the work is done, with the service's own answer."""
    assert [model["id"] for model in client.models()] == [MODEL]
    assert client.plan(MODEL, n_gpu_layers=12)["fits"]
    assert client.load(MODEL, n_gpu_layers=12)["state"] == "succeeded"
    generation = client.model(MODEL)["generation"]

    assert client.touch(MODEL)["used_at"] is not None
    assert client.offload(MODEL, n_gpu_layers=24, generation=generation)["generation"] == generation + 1
    assert sum(layer["device"] != "cpu" for layer in client.layers(MODEL)) == 26
    assert client.verify(MODEL, deep=True)["result"]["ok"]
    assert client.memory()["models"][0]["gpu_bytes"] > 0
    norm = next(tensor for tensor in client.tensors(MODEL) if tensor["name"] == "output_norm.weight")
    assert len(client.tensor(MODEL, norm["name"])) == norm["size_bytes"]
    assert client.unload(MODEL)["state"] == "succeeded"
    assert {job["kind"] for job in client.jobs()} == {"load", "offload", "verify", "unload"}


def test_what_the_file_says(client: Client) -> None:
    """Metadata in short or one key whole, and the sums."""
    assert client.metadata(MODEL)["data"]["general.architecture"] == "llama"
    assert len(client.metadata(MODEL, "tokenizer.ggml.tokens")["value"]) == 49_152
    assert client.statistics(MODEL)["parameters"] == 134_515_008
    assert [device["kind"] for device in client.devices()] == ["simulated", "simulated", "host"]
    assert [model["id"] for model in client.rescan()] == [MODEL]


def test_a_refusal_carries_its_numbers(client: Client) -> None:
    """Status, code, field and the bytes."""
    with pytest.raises(RequestFailed, match="does not fit") as caught:
        client.load(MODEL, n_gpu_layers=30, devices=["sim:0"])

    error = caught.value
    assert (error.status, error.code, error.param) == (507, "does_not_fit", "n_gpu_layers")
    assert error.numbers["required_bytes"] > error.numbers["available_bytes"]


def test_a_job_can_be_called_off(client: Client) -> None:
    """One that has ended stays as it ended."""
    job = client.load(MODEL, n_gpu_layers=1)

    assert client.cancel(job["id"]) == client.job(job["id"]) == job
    client.unload(MODEL)


def test_events_begin_with_the_present(client: Client) -> None:
    """A snapshot, then what changes; with the last event's id they go on after it."""
    events = client.events()
    snapshot = next(events)
    assert snapshot.name == "snapshot"
    job = client.load(MODEL, n_gpu_layers=2)
    seen = [next(events) for _ in range(3)]
    events.close()

    again = client.events(last_event_id=seen[0].id)
    assert next(again).id == seen[1].id
    again.close()
    assert job["model"] == MODEL
    client.unload(MODEL)


def test_a_service_that_is_not_there() -> None:
    """The transport's own error says so."""
    with Client("http://127.0.0.1:9") as nobody, pytest.raises(httpx.TransportError):
        nobody.models()
