"""What jobs have come to: counts by kind, cause and end, and how long they took."""

import asyncio
from pathlib import Path

from app.placement import PlacementRequest
from app.residency.records import Cause, JobKind, JobState
from app.residency.tally import Histogram
from tests.gguf_builder import tiny_llama
from tests.residency.deck import ended, service, two_devices


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
