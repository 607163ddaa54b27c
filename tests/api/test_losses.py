"""A device is lost while the service runs: it says so, serves from the host, and answers all that is asked."""

from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.api.server import DEMO, DEMO_ID, answer, devices_of, listening, load, refusal, serving, unload

NAME = "blk.0.attn_q.weight"


def lost_in_metrics(client: httpx.Client) -> dict[str, float]:
    """The gauge, by device."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {s.labels["device"]: s.value for f in families for s in f.samples if s.name == "loadmaster_device_lost"}


def test_a_lost_device_is_told_and_done_without(tmp_path: Path) -> None:
    """In the middle of an offload: 503 with the reason, the model falls back and stays loaded, the rest goes on."""
    with serving(tmp_path / "state", devices="sim:64MiB:lose=10,sim:64MiB") as client:
        load(client, n_gpu_layers=12, split={"weights": "equal"})
        assert {device["lost"] for device in answer(client.get("/v1/devices"))["data"]} == {None}
        assert lost_in_metrics(client) == {"sim:0": 0, "sim:1": 0}
        original = client.get(f"{DEMO}/tensors/{NAME}/data").content
        before = answer(client.get(DEMO))

        with listening(client) as events:
            error = refusal(client.patch(f"{DEMO}/offload", json={"n_gpu_layers": 30, "wait": True}), 503)
            heard = next(e.data for e in events if e.name == "model" and e.data["n_gpu_layers"] != 12)
            told = next(e.data for e in events if e.name == "memory" and e.data["devices"][0]["lost"])

        why = "copy 10 loses it half-way, as ordered"
        assert (error["code"], error["reason"], error["device"]) == ("device_error", "lost", "sim:0")
        assert error["message"] == f"sim:0 is lost: {why}"
        assert (heard["id"], heard["generation"]) == (DEMO_ID, before["generation"] + 1)
        assert heard["n_gpu_layers"] == 6
        first, second = answer(client.get("/v1/memory"))["devices"]
        assert (first["lost"], first["free_bytes"], first["used_bytes"], first["reserved_bytes"]) == (why, None, 0, 0)
        assert (told["devices"][0]["lost"], second["lost"]) == (why, None)
        assert second["used_bytes"] > 0
        assert answer(client.get("/v1/devices"))["data"][0]["lost"] == why
        assert lost_in_metrics(client) == {"sim:0": 1, "sim:1": 0}
        assert answer(client.get("/healthz")) == {"status": "ok"}
        assert answer(client.get("/readyz")) == {"status": "ready"}

        assert answer(client.get(DEMO))["state"] == "loaded"
        assert "sim:0" not in devices_of(client).values()
        assert client.get(f"{DEMO}/tensors/{NAME}/data").content == original
        assert answer(client.post(f"{DEMO}/verify", json={"deep": True, "wait": True}))["result"]["ok"]
        for ask in ("plan", "load"):
            refused = refusal(client.post(f"{DEMO}/{ask}", json={"n_gpu_layers": 1, "devices": ["sim:0"]}), 503)
            assert (refused["reason"], refused["param"]) == ("lost", "devices")
        load(client, n_gpu_layers=15)
        assert set(devices_of(client).values()) == {"cpu", "sim:1"}
        unload(client)


def test_without_any_device_models_load_to_the_host(tmp_path: Path) -> None:
    """The load that loses the last one fails; the next one stays on the host, unless it insists on layers elsewhere."""
    with serving(tmp_path / "state", devices="sim:64MiB:lose=5") as client:
        error = refusal(client.post(f"{DEMO}/load", json={"n_gpu_layers": 12, "wait": True}), 503)
        assert error["reason"] == "lost"
        model = answer(client.get(DEMO))
        assert (model["state"], model["error"]["reason"]) == ("failed", "lost")
        assert refusal(client.post(f"{DEMO}/load", json={"n_gpu_layers": 12}), 503)["param"] == "n_gpu_layers"
        load(client)
        assert set(devices_of(client).values()) == {"cpu"}
        unload(client)
