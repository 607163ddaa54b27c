"""Where a model's layers should be: plan, load, offload, unload."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Response, status

from app.api.deps import LoadmasterDep, ModelId
from app.api.schemas import ErrorBody, JobOut, PlacementBody, PlanOut, WaitBody, generation_of
from app.api.strict import StrictRoute
from app.residency.jobs import Job

router = APIRouter(prefix="/v1/models", tags=["placement"], route_class=StrictRoute)

OptionalBody = Annotated[PlacementBody | None, Body()]

REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON."},
    404: {"model": ErrorBody, "description": "There is no such model."},
    422: {"model": ErrorBody, "description": "A value that cannot be, or a model that cannot be loaded."},
}
CHANGED: dict[int | str, dict[str, Any]] = {
    **REFUSED,
    200: {"model": JobOut, "description": "It is so already, or, with `wait`, it is done."},
    409: {"model": ErrorBody, "description": "Another change of the model is under way, or it is not loaded."},
    503: {"model": ErrorBody, "description": "A device failed (under `wait`), or the service is stopping."},
    507: {"model": ErrorBody, "description": "It does not fit; the numbers say by how much, and what would."},
}


async def _answer(job: Job, response: Response, *, wait: bool) -> JobOut:
    """202 and the job as it is now; 200 where it has ended, which `wait` waits for."""
    if wait:
        await job.wait()
    if job.ended:
        response.status_code = status.HTTP_200_OK
    return JobOut.model_validate(job.record())


@router.post("/{id:path}/plan", responses=REFUSED)
async def plan(model: ModelId, loadmaster: LoadmasterDep, body: OptionalBody = None) -> PlanOut:
    """What a load with this body would do, and whether it fits. Changes nothing."""
    body = body or PlacementBody()
    found = await loadmaster.plan(model, body.request(), allow_unknown=body.allow_unknown_architecture)
    return PlanOut.of(found)


@router.post("/{id:path}/load", status_code=status.HTTP_202_ACCEPTED, responses=CHANGED)
async def load(model: ModelId, loadmaster: LoadmasterDep, response: Response, body: OptionalBody = None) -> JobOut:
    """Load a model, or bring a loaded one to where this body says."""
    body = body or PlacementBody()
    job = await loadmaster.load(
        model, body.request(), rebalance=body.rebalance, allow_unknown=body.allow_unknown_architecture
    )
    return await _answer(job, response, wait=body.wait)


@router.patch(
    "/{id:path}/offload",
    status_code=status.HTTP_202_ACCEPTED,
    responses={**CHANGED, 412: {"model": ErrorBody, "description": "`If-Match` names another generation."}},
)
async def offload(
    model: ModelId,
    loadmaster: LoadmasterDep,
    response: Response,
    body: OptionalBody = None,
    if_match: Annotated[str | None, Header(description='The generation that this is meant for: `"3"`.')] = None,
) -> JobOut:
    """Move layers of a loaded model while it is in use. Fields that are left out stay as they are."""
    body = body or PlacementBody()
    job = await loadmaster.offload(model, body.changed, generation=generation_of(if_match), rebalance=body.rebalance)
    return await _answer(job, response, wait=body.wait)


@router.post("/{id:path}/unload", status_code=status.HTTP_202_ACCEPTED, responses=CHANGED)
async def unload(
    model: ModelId, loadmaster: LoadmasterDep, response: Response, body: Annotated[WaitBody | None, Body()] = None
) -> JobOut:
    """Give the model's memory back; a load or offload that is under way is cancelled."""
    job = await loadmaster.unload(model)
    return await _answer(job, response, wait=body is not None and body.wait)
