"""Bodies as these clients send them: JSON that does not say so, or says that it is a form."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from app.api.dialects.changes import naming
from app.api.errors import translated
from app.api.strict import StrictRoute


class LenientRoute(StrictRoute):
    """A route whose body is JSON whatever its Content-Type: tritonclient sends none, and curl's `-d` that of a form.

    Where the body is not as it should be, the error names the model like every other.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The strict route's handler, given a request that says what its body is."""
        handle = super().get_route_handler()

        async def leniently(request: Request) -> Response:
            others = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
            scope = {**request.scope, "headers": [*others, (b"content-type", b"application/json")]}
            try:
                return await handle(Request(scope, request.receive))
            except RequestValidationError as error:
                with naming(_model(request, error.body)):
                    raise translated(error.errors()) from None

        return leniently


def _model(request: Request, body: object) -> str:
    """Which model a call is about, by its path or its body; empty where neither says so."""
    named = request.path_params.get("model") or (body.get("model") if isinstance(body, dict) else None)
    return named[:200] if isinstance(named, str) else ""
