"""What jobs have come to: counts by kind, cause and end, and how long they took."""

import asyncio
import logging
from pathlib import Path

import pytest

from app.placement import PlacementRequest
from app.residency.reading import Reading
from app.residency.records import Cause, JobKind, JobState
from app.residency.tally import Histogram
from tests.gguf_builder import tiny_llama
from tests.residency.deck import ended, service, two_devices, until


def test_a_histogram_counts_up_to_each_bound() -> None:
    """A value counts for its own bound and all above it, and what is above all bounds for infinity."""
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)

    assert histogram.cumulative() == [("0.1", 2), ("1.0", 3), ("+Inf", 4)]
    assert histogram.sum == 0.05 + 0.1 + 0.5 + 7.0


def test_jobs_are_counted_once_each(tmp_path: Path) -> None:
    """Those that copy, those that look, and those that find nothing to do; bytes only grow."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf").write_bytes(tiny_llama())

    async def life() -> None:
        async with service(tmp_path, *two_devices()) as loadmaster:
            request = PlacementRequest(n_gpu_layers="all")
            job = await loadmaster.load("tiny", request)
            assert await ended(job) is None
            copied = loadmaster.jobs.copied_bytes
            assert copied == job.bytes_done > 0
            assert await ended(await loadmaster.load("tiny", request)) is None
            assert await ended(await loadmaster.verify("tiny", deep=True)) is None
            assert await ended(await loadmaster.unload("tiny")) is None

            tally = loadmaster.jobs.tally
            done = (Cause.REQUEST, JobState.SUCCEEDED)
            assert tally.ended == {(kind, *done): 1 for kind in JobKind}
            assert {kind for kind, _ in tally.seconds} == set(JobKind)
            assert loadmaster.jobs.copied_bytes == copied
            assert tally.failures == {}

    asyncio.run(life())


def test_a_stop_says_whom_it_waits_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A reader that has not let go yet is named, by its model; the last line says what was given back."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf").write_bytes(tiny_llama())

    def told(event: str) -> list[dict[str, object]]:
        facts = [getattr(record, "facts", {}) for record in caplog.records]
        return [fact for fact in facts if fact.get("event") == event]

    async def let_go(reading: Reading) -> None:
        await until(lambda: bool(told("waiting")))
        assert told("stopped") == []
        await asyncio.to_thread(reading.close)

    async def life() -> None:
        async with service(tmp_path, *two_devices()) as loadmaster:
            assert await ended(await loadmaster.load("tiny", PlacementRequest(n_gpu_layers="all"))) is None
            reader = asyncio.create_task(let_go(await loadmaster.read("tiny", "token_embd.weight")))
        await reader

    with caplog.at_level(logging.INFO, "app"):
        asyncio.run(life())

    assert told("waiting") == [{"event": "waiting", "models": ["tiny"]}]
    assert [fact["models"] for fact in told("stopping")] == [1]
    assert told("stopped")[0]["models"] == 1
