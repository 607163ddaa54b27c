"""The service itself: devices, all memory, probes, metrics."""

from typing import Literal

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import RedirectResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from app.api.deps import LoadmasterDep, TrafficDep
from app.api.metrics import exposition
from app.api.schemas import DeviceOut, HealthOut, ListOut
from app.placement import HOST
from app.residency.records import MemoryRecord

router = APIRouter(tags=["system"])


@router.get("/v1/devices")
async def devices(loadmaster: LoadmasterDep) -> ListOut[DeviceOut]:
    """The accelerators, and the host, with what they can do."""
    await loadmaster.memory.ask()
    record = loadmaster.memory.record()
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


@router.get("/v1/memory")
async def memory(loadmaster: LoadmasterDep) -> MemoryRecord:
    """All memory in one answer: what we hold, and what the system reports."""
    await loadmaster.memory.ask()
    return loadmaster.memory.record()


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
    await loadmaster.memory.ask()
    return Response(exposition(loadmaster, traffic), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The API, to be read and tried, from our own files: it works offline, and no other site's script runs here."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Loadmaster",
        swagger_js_url="/static/swagger-ui/swagger-ui-bundle.js",
        swagger_css_url="/static/swagger-ui/swagger-ui.css",
        swagger_favicon_url="/static/swagger-ui/favicon-32x32.png",
    )


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """A browser that comes by is shown the API."""
    return RedirectResponse("/docs")
