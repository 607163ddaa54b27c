"""The answers that are asked for most, ahead of all routing.

Memory and models are kept as bytes: made when something has changed, and not for each request.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Generic, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.conditional import ConditionalJSON
from app.api.errors import error_response
from app.api.schemas import encode_memory, encode_models
from app.errors import LoadmasterError
from app.residency import Loadmaster

T = TypeVar("T")


class Answers:
    """What GET /v1/memory and GET /v1/models answer, as a route and ahead of it alike."""

    def __init__(self, loadmaster: Loadmaster) -> None:
        self._loadmaster = loadmaster
        self._memory = _Kept(encode_memory)
        self._models = _Kept(encode_models)

    async def memory(self) -> ConditionalJSON:
        """All memory; HostError where the kernel does not say."""
        return self._memory.of(await self._loadmaster.memory.look())

    async def models(self) -> ConditionalJSON:
        """All models."""
        return self._models.of(self._loadmaster.library.records())

    async def health(self) -> Response:
        """The process is alive."""
        return JSONResponse({"status": "ok"})


class _Kept(Generic[T]):
    """The answer for the last value, for as long as that very object is asked for."""

    def __init__(self, encode: Callable[[T], bytes]) -> None:
        self._encode = encode
        self._last: tuple[T, ConditionalJSON] | None = None

    def of(self, value: T) -> ConditionalJSON:
        if self._last is None or self._last[0] is not value:
            self._last = value, ConditionalJSON(self._encode(value))
        return self._last[1]


KEPT: Final[Mapping[str, Callable[[Answers], Awaitable[Response]]]] = {
    "/healthz": Answers.health,
    "/v1/memory": Answers.memory,
    "/v1/models": Answers.models,
}


class Shortcut:
    """Answers a plain GET of one of these without routing it, which would take several times as long as the answer.

    The innermost of what stands around the routes, so that it is behind the same doors. The routes are there, too:
    for a query, for other methods, and for OpenAPI.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the call on."""
        answer = KEPT.get(scope["path"]) if scope["type"] == "http" else None
        if answer is None or scope["method"] != "GET" or scope["query_string"]:
            await self.app(scope, receive, send)
            return
        try:
            response = await answer(scope["state"]["answers"])
        except LoadmasterError as error:
            await error_response(error)(scope, receive, send)
        else:
            await response(scope, receive, send)
