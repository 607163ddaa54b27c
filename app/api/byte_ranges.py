"""Raw bytes over HTTP: one range of them (RFC 9110, section 14), and a response that lets go at its end."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import ClassVar, Self

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.errors import LoadmasterError
from app.residency.reading import Reading

log = logging.getLogger(__name__)


class RangeNotSatisfiable(Exception):
    """A range that holds none of the bytes there are."""


def byte_range(header: str | None, nbytes: int) -> tuple[int, int] | None:
    """Start and stop of the one range that a Range header asks for, in bytes; None where all of it is to be sent.

    Other units, several ranges and what is no range at all are ignored, as the RFC has it. Raises RangeNotSatisfiable.
    """
    asked = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", header or "", re.ASCII | re.IGNORECASE)
    if asked is None or asked.groups() == ("", ""):
        return None
    first, last = asked.groups()
    if not first:
        start, stop = max(0, nbytes - int(last)), nbytes
    else:
        start, stop = int(first), min(int(last) + 1 if last else nbytes, nbytes)
        if last and int(last) < int(first):
            return None
    if start >= stop:
        raise RangeNotSatisfiable
    return start, stop


class TensorResponse(StreamingResponse):
    """Streams a tensor's bytes. Whatever becomes of the client, the hold ends with the response.

    What fails later than at the first piece is too late for words: the response ends early, which its length gives
    away. A client that takes nothing for `seconds` is cut off: it would keep replaced slabs in memory for ever.
    """

    seconds: ClassVar = 60.0

    def __init__(self, reading: Reading, pieces: AsyncIterator[bytes], **named: object) -> None:
        super().__init__(pieces, media_type="application/octet-stream", **named)  # type: ignore[arg-type]
        self._reading = reading

    @classmethod
    async def begun(cls, reading: Reading, start: int, stop: int, **named: object) -> Self:
        """The response, its first piece read already, so that what is wrong with it can be answered in words.

        Raises FileChanged, HostError, DeviceError.
        """
        chunks = reading.chunks(start, stop)
        try:
            first = await anext(chunks, b"")
        except BaseException:
            reading.close()
            raise
        return cls(reading, _joined(first, chunks), **named)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, then let go."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self.seconds):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except LoadmasterError as error:
            _leave_incomplete(scope)
            log.warning("%s could be sent in part only: %s", self._reading.tensor.name, error)
        except TimeoutError:
            _leave_incomplete(scope)
            log.warning("%s was cut off: its reader took nothing for %g s", self._reading.tensor.name, self.seconds)
        finally:
            self._reading.close()


def _leave_incomplete(scope: Scope) -> None:
    """Have the request's line in the log say that its answer was cut off, though nothing is raised."""
    scope.setdefault("state", {})["complete"] = False


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
