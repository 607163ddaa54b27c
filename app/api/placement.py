"""Where a model's layers should be, and whether they are sound: plan, load, offload, unload, verify."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Response, status

from app.api.bodies import PlacementBody, PlanBody, VerifyBody, WaitBody, generation_of
from app.api.deps import LoadmasterDep, ModelId
from app.api.refusals import refusals
from app.api.schemas import JobOut, ModelOut, PlanOut
from app.api.strict import StrictRoute
from app.residency.jobs import Job

router = APIRouter(
    prefix="/v1/models", tags=["placement"], route_class=StrictRoute, responses=refusals(400, 404, 413, 422)
)

OptionalBody = Annotated[PlacementBody | None, Body()]

DONE: dict[int | str, dict[str, Any]] = {
    200: {"model": JobOut, "description": "It is so already, or, with `wait`, it is done."}
}


async def _answer(job: Job, response: Response, *, wait: bool) -> JobOut:
    """202 and the job as it is now; 200 where it has ended, which `wait` waits for."""
    if wait:
        await job.wait()
    if job.ended:
        response.status_code = status.HTTP_200_OK
    return JobOut.model_validate(job.record())


@router.post("/{id:model}/plan", responses=refusals(503))
async def plan(model: ModelId, loadmaster: LoadmasterDep, body: Annotated[PlanBody | None, Body()] = None) -> PlanOut:
    """What a load with this body would do, and whether it fits. Changes nothing."""
    body = body or PlanBody()
    allow_unknown = body.allow_unknown_architecture
    found = await loadmaster.plan(model, body.request(), allow_unknown=allow_unknown, table=body.table)
    return PlanOut.model_validate(found)


@router.post(
    "/{id:model}/load", status_code=status.HTTP_202_ACCEPTED, responses={**DONE, **refusals(409, 429, 503, 507)}
)
async def load(model: ModelId, loadmaster: LoadmasterDep, response: Response, body: OptionalBody = None) -> JobOut:
    """Load a model, or bring a loaded one to where this body says."""
    body = body or PlacementBody()
    job = await loadmaster.load(
        model,
        body.request(),
        body.retention(),
        rebalance=body.rebalance,
        evict=body.eviction(),
        allow_unknown=body.allow_unknown_architecture,
    )
    return await _answer(job, response, wait=body.wait)


@router.patch(
    "/{id:model}/offload",
    status_code=status.HTTP_202_ACCEPTED,
    responses={**DONE, **refusals(409, 412, 429, 503, 507)},
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
    job = await loadmaster.offload(
        model,
        body.changed if body.names_a_place else None,
        body.retained,
        generation=generation_of(if_match),
        rebalance=body.rebalance,
        evict=body.eviction(),
    )
    return await _answer(job, response, wait=body.wait)


@router.post("/{id:model}/unload", status_code=status.HTTP_202_ACCEPTED, responses={**DONE, **refusals(409, 503)})
async def unload(
    model: ModelId, loadmaster: LoadmasterDep, response: Response, body: Annotated[WaitBody | None, Body()] = None
) -> JobOut:
    """Give the model's memory back; a load or offload that is under way is cancelled."""
    job = await loadmaster.unload(model)
    return await _answer(job, response, wait=body is not None and body.wait)


@router.post("/{id:model}/touch", responses=refusals(409))
async def touch(model: ModelId, loadmaster: LoadmasterDep) -> ModelOut:
    """Count as a use of a loaded model: it is idle from now on, and evicted after those that were used before."""
    return ModelOut.model_validate(loadmaster.touch(model))


@router.post("/{id:model}/verify", status_code=status.HTTP_202_ACCEPTED, responses={**DONE, **refusals(409, 429, 503)})
async def verify(
    model: ModelId, loadmaster: LoadmasterDep, response: Response, body: Annotated[VerifyBody | None, Body()] = None
) -> JobOut:
    """Check a model's structure, and with `deep` its data and the devices' copies. Loaded or not; changes nothing."""
    body = body or VerifyBody()
    job = await loadmaster.verify(model, deep=body.deep)
    return await _answer(job, response, wait=body.wait)
