"""The event stream: everybody hears everything, in order, and nobody can make the service wait.

An event has a number that only grows. The last `RING` events are kept, so that a listener that was cut off can go on
where it was; one that asks for more, or reads too slowly, gets the present as a snapshot, which is always correct.
All of it lives on the event loop.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from app.errors import TooManyClients, Unavailable
from app.residency.records import JobRecord, MemoryRecord, ModelRecord, Snapshot

RING: Final = 1024
QUEUE: Final = 256
MAX_LISTENERS: Final = 1024
AT_ONCE: Final = 16
"""Listeners that are woken in one turn of the event loop: whoever asks for something waits for that many at most."""
PING_SECONDS: Final = 15.0

Payload = JobRecord | ModelRecord | MemoryRecord | Snapshot


@dataclass(frozen=True, slots=True)
class Event:
    """`data` is one line of JSON, encoded once for all listeners."""

    id: str
    name: str
    data: str
    about: str | None
    """The job's or the model's id."""


PING: Final = Event("", "ping", "", None)
"""Says nothing but that the stream is alive: it has no number, and is not replayed."""


class Broadcast:
    """Sends events to listeners, each with a bounded queue of its own."""

    def __init__(self, boot: str, encode: Callable[[Payload], str]) -> None:
        self.boot = boot
        self._encode = encode
        self.number = 0
        """The last event's; only grows."""
        self._ring: deque[Event] = deque(maxlen=RING)
        self._listeners: set[Listener] = set()
        self._to_wake: dict[Listener, None] = {}
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    def send(self, payload: JobRecord | ModelRecord | MemoryRecord) -> None:
        """Tell everybody. Never waits: a full queue is dropped, and its listener gets a snapshot instead."""
        name, about = _topic(payload)
        self.number += 1
        event = Event(f"{self.boot}-{self.number}", name, self._encode(payload), about)
        self._ring.append(event)
        self._put(event)

    def snapshot(self, present: Snapshot) -> Event:
        """The present as an event; its id is the last one's, so that what comes next is what comes after it."""
        return Event(f"{self.boot}-{self.number}", "snapshot", self._encode(present), None)

    def listen(self, last_event_id: str | None = None) -> "Listener":
        """A new listener: it replays what came after `last_event_id` if that is still known, else wants a snapshot.

        Raises TooManyClients over the cap, Unavailable once the stream is closed.
        """
        if self._closed:
            raise Unavailable("the service is stopping")
        if len(self._listeners) >= MAX_LISTENERS:
            raise TooManyClients(f"there are {MAX_LISTENERS} listeners already", limit=MAX_LISTENERS)
        missed = self._missed(last_event_id)
        listener = Listener(self._listeners.discard, missed or ())
        listener.behind = missed is None
        self._listeners.add(listener)
        return listener

    def resync(self) -> None:
        """Have every listener start over with a snapshot: for changes that no event describes.

        Nobody can replay across such a change either.
        """
        self.number += 1
        self._ring.clear()
        for listener in self._listeners:
            listener.fall_behind()
        self._wake_all()

    async def keep_alive(self) -> None:
        """Ping every PING_SECONDS, for ever: what stands between closes connections that seem to be dead."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            self.ping()

    def ping(self) -> None:
        """Show every listener that its stream is alive."""
        self._put(PING)

    def close(self) -> None:
        """End all streams, and refuse new ones. Idempotent."""
        self._closed = True
        for listener in list(self._listeners):
            listener.close()

    def _put(self, event: Event) -> None:
        for listener in self._listeners:
            listener.put(event)
        self._wake_all()

    def _wake_all(self) -> None:
        """Have every listener read, some in each turn of the event loop, those that have waited longest first."""
        waking = bool(self._to_wake)
        self._to_wake.update(dict.fromkeys(self._listeners))
        if self._to_wake and not waking:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _wake_some(self) -> None:
        for listener in list(islice(self._to_wake, AT_ONCE)):
            del self._to_wake[listener]
            listener.wake()
        if self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _missed(self, last_event_id: str | None) -> list[Event] | None:
        """The events after `last_event_id`, or None where it is unknown, foreign or too old."""
        boot, _, number = (last_event_id or "").rpartition("-")
        if boot != self.boot or not (number.isascii() and number.isdigit()) or len(number) > 18:
            return None
        behind = self.number - int(number)
        if not 0 <= behind <= len(self._ring):
            return None
        return list(self._ring)[len(self._ring) - behind :]


def _topic(payload: JobRecord | ModelRecord | MemoryRecord) -> tuple[str, str | None]:
    match payload:
        case JobRecord():
            return "job", payload.id
        case ModelRecord():
            return "model", payload.id
        case MemoryRecord():
            return "memory", None


class Listener:
    """One reader's queue. `behind` says that it must be given a snapshot before anything else."""

    def __init__(self, leave: Callable[["Listener"], None], first: list[Event] | tuple[()]) -> None:
        self.behind = False
        self._leave = leave
        self._queue: deque[Event] = deque(first)
        self._ready = asyncio.Event()
        self._ready.set()
        self._closed = False

    def put(self, event: Event) -> None:
        """Queue an event, or, where the reader is too slow, drop its backlog and mark it as behind. Wakes nobody."""
        if self.behind:
            return
        if len(self._queue) >= QUEUE:
            self.fall_behind()
        else:
            self._queue.append(event)

    def fall_behind(self) -> None:
        """Drop the backlog; a snapshot comes next."""
        self._queue.clear()
        self.behind = True

    def wake(self) -> None:
        """Have what is queued read."""
        self._ready.set()

    def close(self) -> None:
        """End the stream after what is queued, and be counted no more. Idempotent."""
        self._closed = True
        self._ready.set()
        self._leave(self)

    async def events(self, snapshot: Callable[[], Awaitable[Event]]) -> AsyncGenerator[Event, None]:
        """The events for this listener, until it is closed; `snapshot` makes the present where it is behind."""
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                if self.behind:
                    # Whatever is sent while the snapshot is being made is in it, and `put` leaves it out.
                    event = await snapshot()
                    self.behind = False
                    yield event
                while self._queue and not self.behind:
                    yield self._queue.popleft()
                if self.behind:
                    self._ready.set()
                elif self._closed:
                    return
        finally:
            self.close()
