"""What every answer tells a browser: run nothing foreign, guess no types, keep no data, and whose pages may read it."""

from collections.abc import Collection
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # Swagger UI's icons
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

ALWAYS: Final = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
OUR_HEADERS: Final = ("X-Loadmaster-Device", "X-Loadmaster-Generation", "X-Request-Id")
FRESH: Final = (*ALWAYS, (b"cache-control", b"no-store"))
ASKED_ABOUT: Final = (*ALWAYS, (b"cache-control", b"private, no-cache"))


class SafeHeaders:
    """Adds them. What has an ETag may be kept, if it is asked about each time; nothing else is kept by anybody."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; the start of a response with more headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                names = [name for name, _ in headers]
                more = ALWAYS if b"cache-control" in names else ASKED_ABOUT if b"etag" in names else FRESH
                message["headers"] = [*headers, *more]
            await send(message)

        await self.app(scope, receive, safely)


class NamedOrigins(CORSMiddleware):
    """Lets pages of the origins that were named call us, and read all that the API sends in headers. No cookies."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "PATCH", "DELETE"),
            allow_headers=("Authorization", "X-Api-Key", "If-Match", "If-None-Match", "Last-Event-ID", "Range"),
            expose_headers=("ETag", "Retry-After", "Content-Range", *OUR_HEADERS),
        )
