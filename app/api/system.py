"""The service itself: devices, all memory, probes, metrics."""

from pathlib import Path
from typing import Final, Literal

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from app.api.conditional import CONDITIONAL, IF_NONE_MATCH
from app.api.deps import AnswersDep, LoadmasterDep, TrafficDep
from app.api.metrics import exposition
from app.api.refusals import refusals
from app.api.schemas import DeviceOut, HealthOut, ListOut
from app.placement import HOST
from app.residency.records import MemoryRecord

DASHBOARD: Final = Path(__file__).parents[1] / "static" / "dashboard" / "index.html"

router = APIRouter(tags=["system"])


@router.get("/v1/devices")
async def devices(loadmaster: LoadmasterDep) -> ListOut[DeviceOut]:
    """The accelerators, and the host, with what they can do."""
    record = await loadmaster.memory.look()
    found = [
        DeviceOut(
            id=memory.id,
            kind=memory.kind,
            name=memory.name,
            uuid=memory.uuid,
            lost=memory.lost,
            total_bytes=memory.total_bytes,
            free_bytes=memory.free_bytes,
            others_bytes=memory.others_bytes,
            limit_bytes=memory.limit_bytes,
            capabilities=loadmaster.devices[memory.id].capabilities,
        )
        for memory in record.devices
    ]
    host = loadmaster.devices[HOST]
    found.append(
        DeviceOut(
            id=host.id,
            kind=host.kind,
            name=host.name,
            uuid=host.uuid,
            lost=None,
            total_bytes=record.host.total_bytes,
            free_bytes=record.host.available_bytes,
            others_bytes=None,
            limit_bytes=record.host.limit_bytes,
            capabilities=host.capabilities,
        )
    )
    return ListOut(data=found, total=len(found))


@router.get(
    "/v1/memory",
    response_model=MemoryRecord,
    responses={**CONDITIONAL, **refusals(503)},
    openapi_extra=IF_NONE_MATCH,
)
async def memory(answers: AnswersDep) -> Response:
    """All memory in one answer: what we hold now, and what the system reported at most a second ago.

    `time` says since when all of it is so.
    """
    return await answers.memory()


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> HealthOut:
    """The process is alive."""
    return HealthOut(status="ok")


@router.head("/readyz", include_in_schema=False)  # probes like `wget --spider` ask by HEAD
@router.get("/readyz", responses={503: {"model": HealthOut, "description": "Models are being loaded again."}})
async def readyz(loadmaster: LoadmasterDep, response: Response) -> HealthOut:
    """The service has what it had before it was restarted, as far as that can be had."""
    status: Literal["ready", "restoring"] = "restoring" if loadmaster.restoring else "ready"
    response.status_code = 503 if loadmaster.restoring else 200
    return HealthOut(status=status)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(loadmaster: LoadmasterDep, traffic: TrafficDep) -> Response:
    """The same numbers for Prometheus, with what jobs and requests have come to."""
    await loadmaster.memory.look()
    return Response(exposition(loadmaster, traffic), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/", include_in_schema=False)
async def dashboard() -> FileResponse:
    """The dashboard: no data in it, for it is a client of the API like any other."""
    return FileResponse(DASHBOARD)
