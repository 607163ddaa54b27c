"""Answers that whoever has seen them need not be sent again: strong ETags and 304 (RFC 9110, sections 8.8 and 13)."""

from hashlib import blake2b
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CONDITIONAL: Final[dict[int | str, dict[str, Any]]] = {
    200: {"headers": {"ETag": {"description": "Of just these bytes.", "schema": {"type": "string"}}}},
    304: {"description": "`If-None-Match` names what the answer would be: nothing has changed."},
}
"""The `responses` of such a route, for OpenAPI."""

IF_NONE_MATCH: Final = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "description": "ETags of answers that were seen.",
            "schema": {"type": "string"},
        }
    ]
}
"""The `openapi_extra` of such a route: the response looks for the header by itself."""


class ConditionalJSON(Response):
    """A 200 with these bytes and their ETag, or a 304 where the request names it. May be sent any number of times."""

    media_type = "application/json"

    def __init__(self, body: bytes) -> None:
        self.etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
        headers = {"ETag": self.etag, "Cache-Control": "no-cache"}  # it may be kept, but is to be asked for each time
        super().__init__(body, headers=headers)
        self._unchanged = [(name, value) for name, value in self.raw_headers if name in (b"etag", b"cache-control")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Each time with headers of its own: what stands around may add some."""
        if self._is_named(scope):
            await send({"type": "http.response.start", "status": 304, "headers": list(self._unchanged)})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.start", "status": self.status_code, "headers": list(self.raw_headers)})
            await send({"type": "http.response.body", "body": self.body})

    def _is_named(self, scope: Scope) -> bool:
        """Whether If-None-Match has this tag, a weak form of it, or `*`."""
        named = [value for name, value in scope["headers"] if name == b"if-none-match"]
        tags = [tag.strip().removeprefix("W/") for value in named for tag in value.decode("latin-1").split(",")]
        return self.etag in tags or "*" in tags
