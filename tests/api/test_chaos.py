"""Three models that need half as much again as there is, and eight clients that do what they like with them."""

import faulthandler
import threading
from pathlib import Path

import httpx
import pytest

from tests.api.chaos import DEVICES, LAYERS, MODELS, Client, Watch
from tests.api.server import Json, answer, load, open_files, serving, unload, until

CLIENTS = 8
ANSWERS = {200, 202, 409}  # already so or waited for, begun, and refused for another's sake


def path(model: str) -> str:
    """Where a model is."""
    return f"/v1/models/{model}"


def models(client: httpx.Client) -> dict[str, Json]:
    """The models at this moment."""
    return {model: answer(client.get(path(model))) for model in MODELS}


def at_rest(client: httpx.Client) -> bool:
    """Whether no job is under way, and nothing is about to expire."""
    found = models(client).values()
    return not any(model["job"] or (model["keep_alive"] or -1) >= 0 for model in found)


def placements(client: httpx.Client) -> Json:
    """What is loaded, and where each layer is."""
    loaded = {id_: model for id_, model in models(client).items() if model["state"] == "loaded"}
    return {
        id_: (model["n_gpu_layers"], model["strategy"], answer(client.get(f"{path(id_)}/layers"))["data"])
        for id_, model in loaded.items()
    }


def let_loose(client: httpx.Client, watch: Watch, seconds: float, evictions: int) -> None:
    """Have the crowd do what it likes for so long, and for as long as it takes until all was seen that there is."""
    stop = threading.Event()
    crowd = [Client(client.base_url, seed, watch) for seed in range(CLIENTS)]
    threads = [threading.Thread(target=one.work, args=[stop]) for one in crowd]
    for thread in threads:
        thread.start()

    def all_seen() -> object:
        answered = {status for one in crowd for _, status in list(one.answers)}
        evicted = sum(job["cause"] == "eviction" for job in list(watch.jobs.values()))
        return watch.faults or (answered >= ANSWERS and evicted >= evictions)

    try:
        stop.wait(seconds)
        until(all_seen)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def check_wishes(client: httpx.Client, watch: Watch) -> None:
    """Each model is as the last job that changed it has left it."""
    for id_, model in models(client).items():
        last = watch.last_change(id_)
        if last is None or last["kind"] == "unload":
            assert (model["state"], model["generation"]) == ("available", None), (model, last)
            continue
        assert (model["state"], model["generation"]) == ("loaded", last["generation"]), (model, last)
        asked = watch.asked.get(last["id"], {"n_gpu_layers": "auto"})
        n, llama_cpp = asked["n_gpu_layers"], asked.get("strategy") == "llama.cpp"  # which counts the output, too
        if last["state"] == "succeeded" and n != "auto":
            assert model["n_gpu_layers"] == (LAYERS[id_] + llama_cpp if n == "all" else n), (model, last)


RUNS = [pytest.param(0.8, 0, id="quick"), pytest.param(120, 20, id="slow", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("seconds", "evictions"), RUNS)
def test_eight_clients_do_what_they_like(tmp_path: Path, seconds: float, evictions: int) -> None:
    """Each is answered, as documented; no byte over a limit or astray, no wish lost, not even over a restart."""
    faulthandler.cancel_dump_traceback_later()  # every answer has a deadline of its own
    directory = tmp_path / "models"
    directory.mkdir()
    for model, file in MODELS.items():
        (directory / f"{model}.gguf").write_bytes(file)
    before = open_files().keys()
    watch = Watch()
    with serving(tmp_path / "state", devices=DEVICES, models=(directory,)) as client:
        listener = threading.Thread(target=watch.listen, args=[client.base_url])
        listener.start()
        let_loose(client, watch, seconds, evictions)
        until(lambda: at_rest(client))
        unload(client, path("small"))
        watch.last_job = load(client, path("small"), n_gpu_layers=2, pinned=True)["id"]
        listener.join()
        assert watch.faults == []
        check_wishes(client, watch)
        wished = placements(client)
    with serving(tmp_path / "state", devices=DEVICES, models=(directory,)) as client:
        until(lambda: client.get("/readyz").is_success)
        assert placements(client) == wished
        for model in MODELS:
            unload(client, path(model))
        for device in answer(client.get("/v1/memory"))["devices"]:
            assert (device["used_bytes"], device["reserved_bytes"], device["retired_bytes"]) == (0, 0, 0)
        assert open_files().keys() == before
