"""Changes for clients that know of no jobs: begun when the model is free, answered when all is done."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from app.errors import LoadmasterError, ModelBusy, NotFound
from app.residency import Loadmaster
from app.residency.jobs import Job


async def done(loadmaster: Loadmaster, begin: Callable[[], Awaitable[Job]]) -> None:
    """Begin a change, after the one that is under way for its model, and return at its end; raises its error."""
    while True:
        try:
            job = await begin()
        except ModelBusy as busy:
            with contextlib.suppress(NotFound):  # it has ended, and is forgotten
                await loadmaster.jobs.get(busy.job).wait_ended()
        else:
            return await job.wait()


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Have every error that is raised in here name the model."""
    try:
        yield
    except LoadmasterError as error:
        error.facts.setdefault("model", model)
        raise
