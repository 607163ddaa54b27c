"""Server-sent events: the present first, then every stage and byte, and whoever was cut off goes on where it was."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx

from tests.api.server import DEMO, DEMO_ID, SLOW, Event, Json, answer, listening, load, refusal, serving, unload, until


def test_a_load_is_watched_from_stage_to_stage(tmp_path: Path) -> None:
    """202 at once; all stages in order, bytes that only grow; probes and memory answer while it copies."""
    with serving(tmp_path, devices=SLOW) as client, listening(client) as everything:
        assert next(everything).name == "snapshot"

        job = answer(client.post(f"{DEMO}/load", json={"n_gpu_layers": 12}), 202)
        assert job["state"] in ("queued", "running")
        reserved = []
        with listening(client, f"/v1/jobs/{job['id']}/events") as events:
            followed = []
            for event in events:
                followed.append(event.data["jobs"][0] if event.name == "snapshot" else event.data)
                if followed[-1]["stage"] == "transfer":
                    assert answer(client.get("/healthz")) == {"status": "ok"}
                    memory = answer(client.get("/v1/memory"))
                    reserved.append(sum(row["reserved_bytes"] for row in memory["devices"]))

        told = [job_until_its_end(everything), followed]

    assert max(reserved) >= job["bytes_total"] > 0
    for records in told:
        for before, after in pairwise(records):
            assert before["bytes_done"] <= after["bytes_done"]
            assert before["progress"] <= after["progress"]
        assert (records[-1]["state"], records[-1]["progress"]) == ("succeeded", 1.0)
        assert records[-1]["bytes_done"] == records[-1]["bytes_total"] == job["bytes_total"]
        assert {record["id"] for record in records} == {job["id"]}
        assert len([record for record in records if record["stage"] == "transfer"]) > 2
    assert list(dict.fromkeys(record["stage"] for record in told[0] if record["stage"])) == job["stages"]


def job_until_its_end(events: Iterator[Event]) -> list[Json]:
    """What is told of the one job there is, to its end."""
    records = []
    for event in events:
        if event.name == "job":
            records.append(event.data)
            if event.data["finished_at"]:
                break
    return records


def test_a_stream_opens_with_the_present(client: httpx.Client) -> None:
    """The snapshot's parts are what the routes of those names answer."""
    load(client, n_gpu_layers=2)

    with listening(client) as events:
        snapshot = next(events)

    assert snapshot.name == "snapshot"
    assert snapshot.data["models"] == answer(client.get("/v1/models"))["data"]
    assert snapshot.data["jobs"] == answer(client.get("/v1/jobs"))["data"]
    assert snapshot.data["memory"]["models"] == answer(client.get("/v1/memory"))["models"]


def test_whoever_was_cut_off_goes_on_where_it_was(client: httpx.Client) -> None:
    """With a known Last-Event-ID the events after it come, in order, none twice and none left out."""
    with listening(client) as events:
        start = next(events)
        load(client, n_gpu_layers=1)
        unload(client)
        whole = []
        for event in events:
            whole.append(event)
            if event.name == "job" and event.data["kind"] == "unload" and event.data["finished_at"]:
                break

    with listening(client, **{"Last-Event-ID": whole[2].id}) as events:
        again = [next(events) for _ in whole[3:]]

    assert again == whole[3:]
    assert start.id not in {event.id for event in whole}
    numbers = [int(event.id.rpartition("-")[2]) for event in whole]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_an_unknown_last_event_id_is_answered_with_the_present(client: httpx.Client) -> None:
    """Foreign, garbled and future ids: a snapshot, which is always right."""
    with listening(client) as events:
        boot, _, number = next(events).id.rpartition("-")

    for foreign in ("x", "", "-", f"{boot}-", f"{boot}-{int(number) + 10**6}", f"other-{number}", "9" * 5000):
        with listening(client, **{"Last-Event-ID": foreign}) as events:
            assert next(events).name == "snapshot"


def test_the_stream_of_a_job_that_has_ended_ends(client: httpx.Client) -> None:
    """One snapshot of that job and its model, and no more; also where a replay was asked for."""
    job = load(client, n_gpu_layers=1)

    for headers in ({}, {"Last-Event-ID": "x-1"}):
        with listening(client, f"/v1/jobs/{job['id']}/events", **headers) as events:
            (snapshot,) = events
        assert [one["id"] for one in snapshot.data["jobs"]] == [job["id"]]
        assert [one["id"] for one in snapshot.data["models"]] == [DEMO_ID]


def test_the_stream_of_an_unknown_job_is_refused(client: httpx.Client) -> None:
    """404 in the error shape, before any stream begins."""
    assert refusal(client.get("/v1/jobs/nope/events"), 404)["code"] == "not_found"


def test_a_listener_that_leaves_is_counted_no_more(client: httpx.Client) -> None:
    """The metric of listeners goes up with a stream and down with its end."""
    with listening(client) as events:
        next(events)
        assert "loadmaster_event_listeners 1.0" in client.get("/metrics").text

    until(lambda: "loadmaster_event_listeners 0.0" in client.get("/metrics").text)
