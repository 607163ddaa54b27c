"""A stream of events that outlives its connections, without any I/O.

The service gives every event an id of its boot and a number. Whoever comes back with the last id that was seen gets
what came after it, or, where that is gone or the service was restarted, a fresh snapshot: either way nothing that
counts is missed.
"""

import json
import random
from collections.abc import Callable
from typing import Final

from loadmaster.errors import LoadmasterError, Unavailable, UnexpectedAnswer, Unreachable
from loadmaster.records import Event, Job, Memory, Model, Record, Snapshot, read

SILENCE_SECONDS: Final = 40.0
"""A connection on which nothing comes for so long is dead: the service sends at least a comment every 15 seconds."""

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
DOUBLINGS: Final = 6
"""After so many tries in vain the pause is the longest."""

_KINDS: Final[dict[str, type[Record]]] = {"snapshot": Snapshot, "job": Job, "model": Model, "memory": Memory}

Lost = Callable[[LoadmasterError], object]


class Listening:
    """Where a listener stands: the last event that it saw, and how often it has tried in vain since then.

    `lost` is told each time that the connection is lost or cannot be had again.
    """

    def __init__(self, path: str, last_event_id: str | None, *, reconnect: bool, lost: Lost | None) -> None:
        self.path = path
        self._last = last_event_id
        self._reconnect = reconnect
        self._lost = lost
        self._attempts = 0
        self._connected = False

    @property
    def headers(self) -> dict[str, str]:
        """What the next connection asks with."""
        return {"Last-Event-ID": self._last} if self._last else {}

    def connected(self) -> None:
        """The service has begun to answer."""
        self._connected = True

    def take(self, id: str, name: str, data: str) -> Event | None:  # noqa: A002 - the format's own name for it
        """Read an event; None for one without data. Raises UnexpectedAnswer."""
        if not data:
            return None
        try:
            record = read(_KINDS.get(name, Record), json.loads(data))
        except ValueError:
            raise UnexpectedAnswer(f"an event that is no JSON: {data[:100]!r}") from None
        self._last = id
        self._attempts = 0
        return Event(id, name, record)

    def pause(self, error: LoadmasterError) -> float:
        """How many seconds to wait before the next try; raises the error where there is to be none.

        A stream that never came about is an error at once: the address may be wrong. One that has been there, and
        whose service is gone or busy stopping or starting, will be again.
        """
        if not (self._connected and self._reconnect and isinstance(error, Unreachable | Unavailable)):
            raise error
        if self._lost is not None:
            self._lost(error)
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**self._attempts)
        self._attempts = min(self._attempts + 1, DOUBLINGS)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - so that not all listeners come back at once


def job_in(event: Event) -> Job | None:
    """The job in an event of a job's stream, whose snapshot holds that job alone."""
    match event.data:
        case Job() as job:
            return job
        case Snapshot(jobs=(job, *_)):
            return job
        case _:
            return None
