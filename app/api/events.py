"""Server-sent events: a snapshot of the present, then everything that changes."""

import json
from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.api.deps import ListenerDep, LoadmasterDep
from app.api.refusals import stream_refusals
from app.residency.events import Event
from app.residency.jobs import Job

router = APIRouter(prefix="/v1", tags=["events"], responses=stream_refusals(422, 429, 503))


def _sse(event: Event) -> ServerSentEvent:
    return ServerSentEvent(raw_data=event.data, event=event.name, id=event.id)


@router.get("/events", response_class=EventSourceResponse)
async def events(listener: ListenerDep, loadmaster: LoadmasterDep) -> AsyncIterable[ServerSentEvent]:
    """`snapshot` first, or what came after a `Last-Event-ID` that is known; then `job`, `model`, `memory`."""
    async for event in listener.events(loadmaster.snapshot):
        yield _sse(event)


def _job(id: str, loadmaster: LoadmasterDep) -> Job:  # noqa: A002 - the path's own name for it
    return loadmaster.jobs.get(id)


@router.get("/jobs/{id}/events", response_class=EventSourceResponse, responses=stream_refusals(404))
async def job_events(
    job: Annotated[Job, Depends(_job)], listener: ListenerDep, loadmaster: LoadmasterDep
) -> AsyncIterable[ServerSentEvent]:
    """The same for one job; the stream ends with it."""
    if job.ended:
        listener.fall_behind()  # a replay would wait for an end that has been
    async for event in listener.events(loadmaster.snapshot):
        if event.name == "snapshot":
            yield _sse(_only(event, job))
        elif event.about == job.id:
            yield _sse(event)
        else:
            continue
        if job.ended and (event.name == "snapshot" or json.loads(event.data)["finished_at"] is not None):
            return


def _only(snapshot: Event, job: Job) -> Event:
    """The snapshot with this job and its model alone."""
    present = json.loads(snapshot.data)
    present["jobs"] = [one for one in present["jobs"] if one["id"] == job.id]
    present["models"] = [one for one in present["models"] if one["id"] == job.model]
    return Event(snapshot.id, snapshot.name, json.dumps(present), job.id)
