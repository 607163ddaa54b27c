"""A thousand readers of the event stream at once."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.api.process import environment, running
from tests.api.server import DEMO, answer, load, until
from tests.api.subscribers import all_told, own_bytes, subscribed

SUBSCRIBERS = 1000
GROWTH_BYTES = 64 << 20  # 64 KiB for each, all in all


@pytest.mark.slow
def test_a_thousand_subscribers_see_a_load_to_its_end(tmp_path: Path) -> None:
    """Each is told how it ended; the service stays bounded and answers others meanwhile; then they are gone."""
    settings = environment(tmp_path / "state", DEVICES="sim:128MiB@50MiB/s")
    with running(tmp_path / "log", settings) as (process, client):
        asyncio.run(_watch(client, process.pid))
        until(lambda: "loadmaster_event_listeners 0.0" in client.get("/metrics").text)


async def _watch(client: httpx.Client, pid: int) -> None:
    port = client.base_url.port
    assert port
    async with subscribed(port, SUBSCRIBERS) as subscribers:
        before = own_bytes(pid)
        loading = asyncio.create_task(asyncio.to_thread(load, client, n_gpu_layers="all"))
        while not loading.done():
            answer(await asyncio.to_thread(client.get, "/v1/memory"))
        job = loading.result()
        await all_told(subscribers, job["id"])
        assert {subscriber.ends[job["id"]][0] for subscriber in subscribers} == {"succeeded"}
        assert min(subscriber.events for subscriber in subscribers) > len(job["stages"])
        assert own_bytes(pid) - before < GROWTH_BYTES
        assert answer(await asyncio.to_thread(client.get, DEMO))["state"] == "loaded"
