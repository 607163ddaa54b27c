"""The event stream: snapshot first, exact replay, bounded queues, and nobody who makes the service wait."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from app.errors import TooManyClients, Unavailable
from app.placement import PlacementRequest
from app.residency.events import AT_ONCE, MAX_LISTENERS, PING, QUEUE, RING, Broadcast, Event, Listener, Payload
from app.residency.jobs import SAMPLE_SECONDS, STAGES
from app.residency.records import HostMemoryRecord, JobKind, MemoryRecord, Snapshot
from tests.residency.deck import ALL, at, fields, listening, service, slow_device

MEMORY = MemoryRecord(0.0, (), HostMemoryRecord(0, 0, 0, 0, None, 0, 0, 0, 0), ())


def broadcast() -> Broadcast:
    """A stream of which the ids matter, and not the data."""

    def encode(payload: Payload) -> str:
        return type(payload).__name__

    return Broadcast("boot", encode)


async def nobody_is_behind() -> Event:
    """The snapshot that is not wanted."""
    raise AssertionError("somebody is")


def send(stream: Broadcast, count: int) -> None:
    """Send `count` events."""
    for _ in range(count):
        stream.send(MEMORY)


async def numbers(stream: Broadcast, last_event_id: str | None, count: int) -> list[str]:
    """The first `count` events of a new listener, as name and number."""

    async def snapshot() -> Event:
        return stream.snapshot(Snapshot((), (), MEMORY))

    listener = stream.listen(last_event_id)
    async with aclosing(listener.events(snapshot)) as events:
        return [
            f"{event.name} {event.id.removeprefix('boot-')}" for event in [await anext(events) for _ in range(count)]
        ]


def test_a_stream_opens_with_the_present() -> None:
    """A snapshot with the number of the last event, so that what comes next is what comes after it."""

    async def main() -> None:
        stream = broadcast()
        send(stream, 3)
        hearing = asyncio.create_task(numbers(stream, None, 3))
        await asyncio.sleep(0)
        send(stream, 2)
        assert await hearing == ["snapshot 3", "memory 4", "memory 5"]

    asyncio.run(main())


def test_a_replay_goes_on_exactly_where_it_was_cut_off() -> None:
    """After a known id comes the very next event, without a snapshot; also after the last one, and the oldest."""

    async def main() -> None:
        stream = broadcast()
        send(stream, RING + 10)
        assert await numbers(stream, f"boot-{RING + 7}", 3) == [f"memory {RING + n}" for n in (8, 9, 10)]
        assert (await numbers(stream, "boot-10", 2)) == ["memory 11", "memory 12"]
        hearing = asyncio.create_task(numbers(stream, f"boot-{RING + 10}", 1))
        await asyncio.sleep(0)
        send(stream, 1)
        assert await hearing == [f"memory {RING + 11}"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "last_event_id",
    [
        "boot-9",
        f"boot-{RING + 11}",
        "other-20",
        "20",
        "boot-",
        "boot--1",
        "boot-1e3",
        "boot-²",
        "boot-" + "9" * 5000,
        "",
    ],
)
def test_an_id_that_is_too_old_foreign_or_garbage_gets_a_snapshot(last_event_id: str) -> None:
    """What cannot be replayed whole is not replayed in part."""

    async def main() -> None:
        stream = broadcast()
        send(stream, RING + 10)
        assert await numbers(stream, last_event_id, 1) == [f"snapshot {RING + 10}"]

    asyncio.run(main())


def test_a_slow_reader_is_given_the_present_instead_of_its_backlog() -> None:
    """Its queue is bounded: what it has missed is dropped, and it goes on from a fresh snapshot."""

    async def main() -> None:
        stream = broadcast()

        async def snapshot() -> Event:
            return stream.snapshot(Snapshot((), (), MEMORY))

        listener = stream.listen()
        async with aclosing(listener.events(snapshot)) as events:
            assert (await anext(events)).name == "snapshot"
            send(stream, QUEUE)
            assert not listener.behind
            send(stream, 1000)
            assert listener.behind
            assert not listener._queue
            heard = [await anext(events)]
            send(stream, 1)
            heard.append(await anext(events))
            assert [event.id for event in heard] == [f"boot-{QUEUE + 1000}", f"boot-{QUEUE + 1001}"]

    asyncio.run(main())


def test_listeners_are_counted_and_capped() -> None:
    """One more than the cap is refused with the number; one that leaves makes room."""
    stream = broadcast()
    listeners = [stream.listen() for _ in range(MAX_LISTENERS)]
    with pytest.raises(TooManyClients) as caught:
        stream.listen()
    assert caught.value.facts == {"limit": MAX_LISTENERS}
    listeners[0].close()
    listeners[0].close()
    assert stream.listeners == MAX_LISTENERS - 1
    stream.listen()


def test_close_ends_streams_after_what_is_queued() -> None:
    """Nobody hangs, nothing queued is lost, and nobody new is let in."""

    async def main() -> None:
        stream = broadcast()
        send(stream, 2)
        listener = stream.listen("boot-0")
        stream.close()

        assert [event.id async for event in listener.events(nobody_is_behind)] == ["boot-1", "boot-2"]
        assert stream.listeners == 0
        with pytest.raises(Unavailable):
            stream.listen()

    asyncio.run(main())


def test_a_load_tells_every_stage_and_only_ever_more_progress(place: Path) -> None:
    """Stages in their order, none left out; bytes and progress never go back; 1.0 at the end and only there."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster, listening(loadmaster) as events:
            job = await loadmaster.load("tiny", ALL)
            seen = []
            async for event in events:
                if event.about == job.id:
                    seen.append(fields(event))
                    if seen[-1]["finished_at"]:
                        break
            stages = [one["stage"] for one in seen if one["stage"]]
            assert list(dict.fromkeys(stages)) == list(STAGES[JobKind.LOAD])
            for field in ("bytes_done", "progress"):
                assert [one[field] for one in seen] == sorted(one[field] for one in seen)
            assert {one["bytes_total"] for one in seen} == {job.bytes_total}
            assert [one["progress"] == 1.0 for one in seen] == [one["state"] == "succeeded" for one in seen]
            assert list(dict.fromkeys(one["state"] for one in seen)) == ["queued", "running", "succeeded"]
            assert any(0 < one["bytes_done"] < one["bytes_total"] for one in seen)

    asyncio.run(main())


@pytest.mark.parametrize("kind", [JobKind.OFFLOAD, JobKind.UNLOAD])
def test_the_other_jobs_tell_every_stage(place: Path, kind: JobKind) -> None:
    """Also where nothing has to be copied."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(1))).wait()
            async with listening(loadmaster) as events:
                job = await (loadmaster.unload("tiny") if kind is JobKind.UNLOAD else loadmaster.offload("tiny", at(0)))
                seen = []
                async for event in events:
                    if event.about == job.id:
                        seen.append(fields(event))
                        if seen[-1]["finished_at"]:
                            break
            assert list(dict.fromkeys(one["stage"] for one in seen if one["stage"])) == list(STAGES[kind])
            assert [one["progress"] for one in seen] == sorted(one["progress"] for one in seen)

    asyncio.run(main())


def test_the_last_events_of_a_change_are_the_truth(place: Path) -> None:
    """Whoever has followed the stream knows the model's and the memory's present state."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster, listening(loadmaster) as events:
            await (await loadmaster.load("tiny", PlacementRequest(2))).wait()
            present = loadmaster.memory.record().models[0].gpu_bytes
            last: dict[str, dict[str, Any]] = {"model": {}, "memory": {"models": []}}
            while last["model"].get("state") != "loaded" or not last["memory"]["models"]:
                event = await anext(events)
                last[event.name] = fields(event)
            assert last["memory"]["models"][0]["gpu_bytes"] == present

    asyncio.run(main())


def test_progress_is_told_ten_times_a_second_at_most() -> None:
    """By construction: the sampler sleeps that long."""
    assert SAMPLE_SECONDS == 0.1


def test_many_listeners_are_woken_a_few_at_a_time() -> None:
    """One turn of the event loop reaches AT_ONCE of them, so that others get theirs in between; all of them hear it."""

    async def main() -> None:
        stream = broadcast()
        heard: list[int] = []

        async def hear(number: int, listener: Listener) -> None:
            async for _ in listener.events(nobody_is_behind):
                heard.append(number)
                return

        send(stream, 1)
        hearing = [asyncio.create_task(hear(n, stream.listen("boot-1"))) for n in range(4 * AT_ONCE)]
        await asyncio.sleep(0)  # all of them wait now
        send(stream, 1)
        most = before = 0
        while len(heard) < len(hearing):
            await asyncio.sleep(0)
            most, before = max(most, len(heard) - before), len(heard)
        assert most <= AT_ONCE
        await asyncio.gather(*hearing)
        assert sorted(heard) == list(range(4 * AT_ONCE))

    asyncio.run(main())


def test_a_ping_is_no_event() -> None:
    """Those who listen get it; it has no number, and nobody is replayed one."""

    async def main() -> None:
        stream = broadcast()
        send(stream, 1)
        async with aclosing(stream.listen("boot-1").events(nobody_is_behind)) as events:
            hearing = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            stream.ping()
            send(stream, 1)
            assert [await hearing, (await anext(events)).id] == [PING, "boot-2"]
        assert await numbers(stream, "boot-0", 2) == ["memory 1", "memory 2"]

    asyncio.run(main())
