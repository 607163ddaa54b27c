"""Idle models: unloaded once nobody has used them for as long as they were to be kept."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Final

from app.errors import LoadmasterError, Unavailable
from app.residency.neighbours import Neighbours
from app.residency.orders import Orders
from app.residency.records import Cause
from app.residency.residents import Resident
from app.residency.wishes import Wishes

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""How late an unload may be where somebody held the model when its time came, or it could not be unloaded then."""


class Idleness:
    """Watches when residents were last used."""

    def __init__(
        self, residents: Mapping[str, Resident], wishes: Wishes, neighbours: Neighbours, orders: Orders
    ) -> None:
        self._residents = residents
        self._wishes = wishes
        self._neighbours = neighbours
        self._orders = orders
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """A model was loaded, used, or is to be kept for another time: look again."""
        self._changed.set()

    async def watch(self) -> None:
        """Unload what has expired, for ever."""
        while True:
            self._changed.clear()
            due = {model: at for model in self._residents if (at := self._expires_at(model)) is not None}
            for model in [model for model, at in due.items() if at <= time.monotonic()]:
                await self._unload(model)
            left = min(due.values(), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if left is None else _pause(left)):
                    await self._changed.wait()

    def _expires_at(self, model: str) -> float | None:
        return self._wishes.retention(model).expires_at(self._residents[model].used_at)

    async def _unload(self, model: str) -> None:
        if model not in self._residents or self._neighbours.in_use(model):
            return
        try:
            await self._orders.unload(model, Cause.IDLENESS)
        except Unavailable:  # it stops, and unloads everything
            return
        except LoadmasterError:
            log.exception("%s is idle, and cannot be unloaded", model)


def _pause(due: float) -> float:
    left = due - time.monotonic()
    return min(left, LOOK_SECONDS) if left > 0 else LOOK_SECONDS
