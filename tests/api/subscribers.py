"""Many readers of /v1/events in one process, each on a connection of its own and as cheap as a reader can be."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

REQUEST = b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
OPENING = 64  # connections at once: fewer than the server lets wait


class Subscriber(asyncio.Protocol):
    """Remembers how every job ended that it was told of, and by which kind of event."""

    def __init__(self) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ends: dict[str, tuple[str, str]] = {}
        """By the job's id: its state, and `job` or `snapshot`."""
        self.events = 0
        self.received_bytes = 0
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """Take frames as they come; what HTTP puts between them has no blank line and no field of theirs."""
        self.received_bytes += len(data)
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        for frame in frames:
            self._hear(dict(line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line))

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits for the first event waits in vain."""
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"refused: {self._rest!r}"))

    def _hear(self, fields: dict[bytes, bytes]) -> None:
        name, data = fields.get(b"event", b"").decode(), fields.get(b"data", b"")
        self.events += name != ""
        if name == "job" and b'"finished_at":null' not in data:
            self._remember([json.loads(data)], name)
        if name == "snapshot":
            self._remember(json.loads(data)["jobs"], name)
            if not self.opened.done():
                self.opened.set_result(None)

    def _remember(self, jobs: list[dict[str, str]], name: str) -> None:
        self.ends.update({job["id"]: (job["state"], name) for job in jobs if job["finished_at"]})


@asynccontextmanager
async def subscribed(port: int, count: int) -> AsyncIterator[list[Subscriber]]:
    """So many subscribers, all of which have had their first snapshot."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop = asyncio.get_running_loop()
    opening = asyncio.Semaphore(OPENING)
    transports: list[asyncio.Transport] = []

    async def subscribe() -> Subscriber:
        async with opening:
            transport, subscriber = await loop.create_connection(Subscriber, "127.0.0.1", port)
            transports.append(transport)
            transport.write(REQUEST)
            await subscriber.opened
            return subscriber

    try:
        yield await asyncio.gather(*(subscribe() for _ in range(count)))
    finally:
        for transport in transports:
            transport.abort()


async def all_told(subscribers: list[Subscriber], job: str) -> None:
    """Return when each of them knows how the job ended."""
    async with asyncio.timeout(120):
        while not all(job in subscriber.ends for subscriber in subscribers):  # noqa: ASYNC110 - a thousand events are
            await asyncio.sleep(0.01)


def own_bytes(pid: int) -> int:
    """What a process has in memory that is not a file's."""
    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()
    return (int(resident) - int(shared)) * resource.getpagesize()
