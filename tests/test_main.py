"""The service as a whole: how it starts, stops, and comes back."""

import signal
from pathlib import Path

import pytest

from tests.api.process import environment, running
from tests.api.server import DEMO, SLOW, answer, devices_of, listening, load, open_files, serving, unload, until
from tests.gguf_builder import tiny_llama

VERY_SLOW = "sim:128MiB@5MiB/s"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_streams_and_jobs_and_the_process(tmp_path: Path, number: signal.Signals) -> None:
    """The exit code is 0, the log is clean, and what was loading is loaded by the next process: a stop is no wish."""
    log, state = tmp_path / "log", tmp_path / "state"
    with (
        running(log, environment(state, DEVICES=VERY_SLOW)) as (process, client),
        listening(client) as events,
    ):
        next(events)
        answer(client.post(f"{DEMO}/load", json={"n_gpu_layers": 3}), 202)
        next(event for event in events if event.name == "job" and event.data["bytes_done"])

        process.send_signal(number)

        assert "succeeded" not in [event.data["state"] for event in events if event.name == "job"]
        assert process.wait(30) == 0
    assert "Traceback" not in log.read_text()

    with serving(state, devices="sim:128MiB") as client:
        until(lambda: client.get("/readyz").status_code == 200)
        model = answer(client.get(DEMO))
        assert (model["state"], model["n_gpu_layers"]) == ("loaded", 3)


@pytest.mark.slow
def test_a_killed_process_comes_back_as_it_was_wished(tmp_path: Path) -> None:
    """Killed in the middle of a rebalance; the next one is not ready at first, then has the placement wished for."""
    state = tmp_path / "state"
    with running(tmp_path / "log", environment(state, DEVICES=SLOW)) as (process, client):
        load(client, n_gpu_layers=1, strategy="last")
        job = answer(client.patch(f"{DEMO}/offload", json={"n_gpu_layers": 6}), 202)
        until(lambda: answer(client.get(f"/v1/jobs/{job['id']}"))["bytes_done"])
        process.kill()

    with serving(state, devices=SLOW) as client:
        restoring = client.get("/readyz")
        assert (restoring.status_code, restoring.json()) == (503, {"status": "restoring"})
        until(lambda: client.get("/readyz").status_code == 200)
        model = answer(client.get(DEMO))
        assert (model["state"], model["strategy"], model["n_gpu_layers"]) == ("loaded", "last", 6)
        offloaded = [layer for layer, device in devices_of(client).items() if device != "cpu"]
        assert offloaded == ["input", *range(24, 30), "output"]
    assert open_files() == {}


def test_a_service_that_ends_gives_everything_back(tmp_path: Path) -> None:
    """A loaded model's slabs and files are closed at the end, and it is loaded again at the next start."""
    with serving(tmp_path) as client:
        load(client, n_gpu_layers=12)
        before = devices_of(client)
    assert open_files() == {}

    with serving(tmp_path) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        assert devices_of(client) == before


def test_an_unload_is_not_forgotten(tmp_path: Path) -> None:
    """What was unloaded is not loaded again."""
    with serving(tmp_path) as client:
        load(client, n_gpu_layers=1)
        unload(client)

    with serving(tmp_path) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        assert answer(client.get("/v1/memory"))["models"] == []


def test_what_can_no_longer_be_had_is_failed_and_the_service_is_ready(tmp_path: Path) -> None:
    """On smaller devices than before: the model is failed with the numbers, and everything else works."""
    with serving(tmp_path, devices="sim:128MiB") as client:
        load(client, n_gpu_layers=30)

    with serving(tmp_path, devices="sim:1MiB") as client:
        until(lambda: client.get("/readyz").status_code == 200)
        model = answer(client.get(DEMO))
        assert (model["state"], model["error"]["code"]) == ("failed", "does_not_fit")
        assert model["error"]["largest_n_gpu_layers"] == 0
        load(client, n_gpu_layers=0)


def test_the_first_of_two_directories_wins(tmp_path: Path) -> None:
    """The same path below both is the first one's."""
    for name, n_layer in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.gguf").write_bytes(tiny_llama(n_layer=n_layer))
    (tmp_path / "b" / "other.gguf").write_bytes(tiny_llama(n_layer=3))

    with serving(tmp_path / "state", models=(tmp_path / "a", tmp_path / "b")) as client:
        layers = {model["id"]: model["n_layer"] for model in answer(client.get("/v1/models"))["data"]}

    assert (layers["same"], layers["other"]) == (1, 3)
