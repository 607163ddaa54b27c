"""Server-sent events: a snapshot of the present, then everything that changes."""

import json
from collections.abc import AsyncIterable, AsyncIterator
from functools import lru_cache
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from app.api.deps import ListenerDep, LoadmasterDep
from app.api.refusals import refusals
from app.residency import Loadmaster
from app.residency.events import PING, Event, Listener
from app.residency.jobs import Job

UNBUFFERED: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the latter for nginx
MEDIA_TYPE: Final = "text/event-stream"
FIELDS: Final = {name: {"type": "string"} for name in ("id", "event", "data")}
STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {MEDIA_TYPE: {"itemSchema": {"type": "object", "properties": FIELDS}}}}
}
"""Routes have this beside a plain `Response`: of a class that has a media type OpenAPI would say that the stream is one
string, and that errors are streams, too.
"""

router = APIRouter(prefix="/v1", tags=["events"], responses={**STREAM, **refusals(422, 429, 503)})


@router.get("/events", response_class=Response)
async def events(listener: ListenerDep, loadmaster: LoadmasterDep) -> StreamingResponse:
    """`snapshot` first, or what came after a `Last-Event-ID` that is known; then `job`, `model`, `memory`."""
    return stream(listener.events(loadmaster.snapshot))


def _job(id: str, loadmaster: LoadmasterDep) -> Job:  # noqa: A002 - the path's own name for it
    return loadmaster.jobs.get(id)


@router.get("/jobs/{id}/events", response_class=Response, responses=refusals(404))
async def job_events(
    job: Annotated[Job, Depends(_job)], listener: ListenerDep, loadmaster: LoadmasterDep
) -> StreamingResponse:
    """The same for one job; the stream ends with it."""
    if job.ended:
        listener.fall_behind()  # a replay would wait for an end that has been
    return stream(_of_one(job, listener, loadmaster))


async def _of_one(job: Job, listener: Listener, loadmaster: Loadmaster) -> AsyncIterator[Event]:
    async for event in listener.events(loadmaster.snapshot):
        if event.name == "snapshot":
            yield _only(event, job)
        elif event is PING or event.about == job.id:
            yield event
        else:
            continue
        if job.ended and (event.name == "snapshot" or (event is not PING and json.loads(event.data)["finished_at"])):
            return


def stream(events: AsyncIterable[Event]) -> StreamingResponse:
    """Events as they come, each encoded once for all streams; the framework's own way costs ten times as much."""
    return StreamingResponse(_frames(events), media_type=MEDIA_TYPE, headers=UNBUFFERED)


async def _frames(events: AsyncIterable[Event]) -> AsyncIterator[bytes]:
    async for event in events:
        yield KEEPALIVE_COMMENT if event is PING else _frame(event)


@lru_cache(maxsize=16)  # events are new when they are read, by all but the slowest
def _frame(event: Event) -> bytes:
    return format_sse_event(data_str=event.data, event=event.name, id=event.id)


def _only(snapshot: Event, job: Job) -> Event:
    """The snapshot with this job and its model alone."""
    present = json.loads(snapshot.data)
    present["jobs"] = [one for one in present["jobs"] if one["id"] == job.id]
    present["models"] = [one for one in present["models"] if one["id"] == job.model]
    return Event(snapshot.id, snapshot.name, json.dumps(present), job.id)
