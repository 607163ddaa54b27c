"""Jobs: what is on its way, and calling it off."""

from fastapi import APIRouter, Response, status

from app.api.deps import Limit, LoadmasterDep, Offset
from app.api.refusals import refusals
from app.api.schemas import JobOut, ListOut

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=refusals(422))


@router.get("")
async def jobs(loadmaster: LoadmasterDep, offset: Offset = 0, limit: Limit = 1000) -> ListOut[JobOut]:
    """All jobs that run and the last that ended, newest first."""
    found = loadmaster.jobs.newest_first()
    page = [JobOut.model_validate(job.record()) for job in found[offset : offset + limit]]
    return ListOut(data=page, total=len(found))


@router.get("/{id}", responses=refusals(404))
async def job(id: str, loadmaster: LoadmasterDep) -> JobOut:  # noqa: A002 - the path's own name for it
    """One job."""
    return JobOut.model_validate(loadmaster.jobs.get(id).record())


@router.delete(
    "/{id}",
    status_code=status.HTTP_202_ACCEPTED,
    responses={200: {"model": JobOut, "description": "It has ended already."}, **refusals(404)},
)
async def cancel(id: str, loadmaster: LoadmasterDep, response: Response) -> JobOut:  # noqa: A002 - see above
    """Call a job off: everything that it staged is undone, and the former wish is put back."""
    found = loadmaster.cancel(id)
    if found.ended:
        response.status_code = status.HTTP_200_OK
    return JobOut.model_validate(found.record())
