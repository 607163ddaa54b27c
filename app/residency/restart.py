"""A restart: what an earlier process was asked for is loaded again, in the background."""

import logging
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import replace

from app.errors import InvalidModel, LoadmasterError
from app.residency.admission import Admission
from app.residency.jobs import Job, Jobs
from app.residency.library import Library
from app.residency.orders import Orders
from app.residency.records import Cause
from app.residency.residents import Resident
from app.residency.wishes import Wish

log = logging.getLogger(__name__)


class Restart:
    """Loads what is wished for; what cannot be loaded is failed, still wished for, and in nobody's way."""

    def __init__(
        self,
        admission: Admission,
        orders: Orders,
        library: Library,
        jobs: Jobs,
        residents: Mapping[str, Resident],
        told: Callable[[str], None],
    ) -> None:
        self._admission = admission
        self._orders = orders
        self._library = library
        self._jobs = jobs
        self._residents = residents
        self._told = told
        self.under_way = False
        """Whether wishes of an earlier process are still being loaded."""

    async def run(self, wishes: Mapping[str, Wish | None]) -> None:
        """Load them all, side by side, each when it is its `turn`. Returns when all have ended."""
        began = time.monotonic()
        try:
            in_turn = sorted(wishes.items(), key=lambda item: turn(item[1]))
            jobs = [await self._load(model, wish) for model, wish in in_turn]
            for job in jobs:
                if job is not None:
                    await job.wait_ended()
        finally:
            self.under_way = False
        if wishes:
            self._sum_up(wishes.keys(), time.monotonic() - began)

    def _sum_up(self, models: Set[str], seconds: float) -> None:
        """One line: what is back, and what is not."""
        missing = sorted(models - self._residents.keys())
        back = len(models) - len(missing)
        facts = {"event": "restore", "restored": back, "missing": missing, "seconds": round(seconds, 3)}
        level = logging.WARNING if missing else logging.INFO
        more = f"; not: {', '.join(missing)}" if missing else ""
        text = "%d of %d models of the process before this one are loaded again, after %.3f s%s"
        log.log(level, text, back, len(models), seconds, more, extra={"facts": facts})

    async def _load(self, model: str, wish: Wish | None) -> Job | None:
        if self._jobs.active(model) is not None or model in self._residents:
            return None  # somebody was faster, and knows better
        try:
            entry = self._admission.loadable(model, allow_unknown=True)
            if wish is None:
                raise InvalidModel(f"{model}: its wish was written by another version", model=model)
            wish = replace(wish, request=self._admission.resolved(wish.request))
            if wish.placement is None:
                await self._admission.rehearse(entry, wish.request)
            decision = self._admission.decide_again(entry, wish)
            return await self._orders.place(entry, wish, decision, None, Cause.RESTART)
        except LoadmasterError as error:
            facts = {"event": "restore_failed", "model": model, "code": error.code}
            log.warning("%s cannot be loaded again: %s", model, error, extra={"facts": facts})
            self._library.failures[model] = error
            self._told(model)
            return None


def turn(wish: Wish | None) -> tuple[bool, bool, bool]:
    """When a wish is to be had: those with lower values first.

    What is planned again and takes all that is left comes last, or it would take what others had. Of the rest the
    pinned ones have first choice, and of each kind those that go exactly where they were.
    """
    if wish is None:
        return False, False, False
    planned_again = wish.placement is None
    return planned_again and wish.request.n_gpu_layers == "auto", not wish.retention.pinned, planned_again
