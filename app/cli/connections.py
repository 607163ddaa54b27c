"""HTTP connections as uvicorn has them, but with an end to what a client may send, and to how long it may take.

uvicorn itself keeps headers, trailers and connections that never end for as long as there is memory. What arrives of a
body is counted elsewhere, by the route that reads it (`app.api.middleware.BodyLimit`).
"""

import asyncio
from http import HTTPStatus
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.errors import raw_error_response
from app.api.headers import FRESH

MAX_HEAD_BYTES: Final = 128 << 10


class BoundedProtocol(HttpToolsProtocol):
    """Ends a connection whose request is not whole after `seconds`, or has more around its body than MAX_HEAD_BYTES."""

    seconds: ClassVar = 30.0
    """From the first byte of a request, or from the connection's start, to the last byte of its body."""

    most: ClassVar = 4096
    """Connections at once: models and slabs need descriptors, too."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Take one more, unless there are too many: those who are there come first."""
        super().connection_made(transport)
        self._around = 0
        self._open = True
        self._too_slow: asyncio.TimerHandle | None = self.loop.call_later(self.seconds, self._end_slow)
        if len(self.connections) > self.most:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, then look at what has come beside a body: request line, headers, trailers, the frames of chunks."""
        self._around += len(data)
        super().data_received(data)
        if self._around > MAX_HEAD_BYTES:
            self._end(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {MAX_HEAD_BYTES} bytes beside the body")
        elif self._open and self._too_slow is None and not self.transport.is_closing():
            self._too_slow = self.loop.call_later(self.seconds, self._end_slow)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._open = True
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._around -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole of a request is here; what comes next is the next one's."""
        self._around = 0
        self._open = False
        self._in_time()
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """No word in the log: Java's client offers another protocol with each request, and is answered all the same."""

    def _in_time(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def _end_slow(self) -> None:
        self._end(HTTPStatus.REQUEST_TIMEOUT, f"the request took more than {self.seconds:g} seconds")

    def _end(self, status: HTTPStatus, message: str) -> None:
        """Say why, where no answer has begun, and close."""
        if self.transport.is_closing():
            return
        begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not begun:
            response = raw_error_response(status, message, None, {"Connection": "close"})
            head = b"".join(b"%b: %b\r\n" % header for header in (*response.raw_headers, *FRESH))
            line = f"HTTP/1.1 {status} {status.phrase}\r\n".encode()
            self.transport.write(line + head + b"\r\n" + bytes(response.body))
        self.transport.close()
