"""What stands around all routes: who may call, how large a body may be, and why the service does not start."""

import sys
from collections.abc import Collection, Iterable
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import raw_error_response
from app.api.traffic import SAFE
from app.errors import LoadmasterError

PROBES: Final = frozenset({"/healthz", "/readyz"})


class Door:
    """Refuses calls that a web page of somebody else's makes through the user's browser, as a 403 in our error shape.

    By the Host header, which a rebound DNS name cannot fake to be ours; and, where something would be changed, by the
    Origin header, which a browser sends with every call to another site. Probes are let in by any name, and so are
    pages of the `origins` that were named.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = frozenset(host.lower().encode() for host in ("localhost", "127.0.0.1", "[::1]", *hosts))
        self.origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the headers, then pass the call on."""
        if scope["type"] == "http" and scope["path"] not in PROBES:
            fault = self._fault(scope["method"], scope["headers"])
            if fault is not None:
                await raw_error_response(HTTPStatus.FORBIDDEN, *fault)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _fault(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str] | None:
        """The sentence and the header at fault. On bytes, and in one go: every request comes by here."""
        host = origin = b""
        for header, value in headers:
            if header == b"host":
                if host:
                    return "Host: it is there twice", "Host"
                host = value.lower()
            elif header == b"origin":
                origin = value.lower()
        if host not in self.hosts and host.rpartition(b":")[0] not in self.hosts:
            called = host[:100].decode("latin-1")
            return f"Host: this service is not called {called!r}; LOADMASTER_ALLOWED_HOSTS names what it is", "Host"
        if method in SAFE or not origin or origin in self.origins or origin.partition(b"://")[2] == host:
            return None
        return f"Origin: pages of {origin[:100].decode('latin-1')!r} may not change anything here", "Origin"


class BodyLimit:
    """Refuses a body above `max_bytes` while it is read: by a 413 in our one error shape, unlike the framework's.

    No route reads a body that comes with a GET. Once a response has begun it is too late for words, and the client is
    treated as one that has gone.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what comes in."""
        if scope["type"] != "http" or scope["method"] in SAFE:
            await self.app(scope, receive, send)
            return
        left = self.max_bytes
        begun = False

        async def limited() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left >= 0:
                return message
            if begun:
                return {"type": "http.disconnect"}
            raise HTTPException(413, f"the body is larger than {self.max_bytes} bytes", {"Connection": "close"})

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        await self.app(scope, limited, watched)


class StartRefusal:
    """Says in a sentence why the service does not start, where the framework would send the server a traceback.

    The error itself is kept as `app.state.refusal`, for the command's exit code.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but that one message."""
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            error = sys.exc_info()[1]
            if message["type"] == "lifespan.startup.failed" and isinstance(error, LoadmasterError):
                message = {**message, "message": str(error)}
                scope["app"].state.refusal = error
            await send(message)

        await self.app(scope, receive, told)
