"""What stands around all routes: a limit for bodies, and a sentence where the service cannot start."""

import sys

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import LoadmasterError


class BodyLimit:
    """Refuses a body above `max_bytes` while it is read: by a 413 in our one error shape, unlike the framework's."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what comes in."""
        left = self.max_bytes

        async def limited() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"the body is larger than {self.max_bytes} bytes")
            return message

        await self.app(scope, limited, send)


class StartRefusal:
    """Says in a sentence why the service does not start, where the framework would send the server a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but that one message."""

        async def told(message: Message) -> None:
            error = sys.exc_info()[1]
            if message["type"] == "lifespan.startup.failed" and isinstance(error, LoadmasterError):
                message = {**message, "message": str(error)}
            await send(message)

        await self.app(scope, receive, told)
