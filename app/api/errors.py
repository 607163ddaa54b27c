"""One table from error to status, and one body for every error: OpenAI's, with our numbers beside it.

Below the prefixes of other dialects the same errors come in those dialects' shapes; `SHAPES` is the one place for that.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeGuard

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from app import errors
from app.api.headers import FRESH
from app.api.traffic import REQUEST_ID, request_id
from app.errors import LoadmasterError

STATUS: Final[dict[type[LoadmasterError], HTTPStatus]] = {
    errors.GGUFError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.InvalidVocabulary: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.InvalidValue: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.MalformedJSON: HTTPStatus.BAD_REQUEST,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.ModelNotFound: HTTPStatus.NOT_FOUND,
    errors.ModelError: HTTPStatus.CONFLICT,
    errors.InvalidModel: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.StaleGeneration: HTTPStatus.PRECONDITION_FAILED,
    errors.DoesNotFit: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.DeviceError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.HostError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Cancelled: HTTPStatus.CONFLICT,
    errors.TooManyClients: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TooManyJobs: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The nearest class along an error's ancestry decides."""

RETRY_AFTER_SECONDS: Final = "5"
LATER: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})

TYPE: Final = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.CONFLICT: "conflict_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.INTERNAL_SERVER_ERROR: "server_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "server_error",
    HTTPStatus.INSUFFICIENT_STORAGE: "insufficient_memory_error",
}

CODE: Final = {
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "route_not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "requested_range_not_satisfiable",
}
"""Of refusals that are HTTP's own; one that is not foreseen here has its status's phrase."""


def _in_words(error: Mapping[str, Any]) -> str:
    """One sentence that names the model, where one is at fault."""
    message, model = str(error["message"]), error.get("model")
    return f"{model}: {message}" if model and model not in message else message


SHAPES: Final[dict[str, Callable[[Mapping[str, Any]], Any]]] = {"api": _in_words, "v2": _in_words}
"""By the first segment of a path, what its clients understand under `error`; elsewhere it is the whole object."""


class ErrorResponse(JSONResponse):
    """An error, whoever refuses: its shape is chosen when it is sent, for only then its path is known.

    It leaves its code in the request's state, for the log and for the count of refusals.
    """

    def __init__(self, error: Mapping[str, Any], status: HTTPStatus, headers: Mapping[str, str] | None = None) -> None:
        super().__init__({"error": error}, status, headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it in the shape of the path's dialect."""
        scope.setdefault("state", {})["code"] = self._error["code"]
        _, _, path = scope["path"].partition("/")
        shape = SHAPES.get(path.partition("/")[0])
        if shape is not None:
            self.body = self.render({"error": shape(self._error)})
            self.headers["Content-Length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def status_of(error: type[LoadmasterError]) -> HTTPStatus:
    """The status of an error class."""
    return next((STATUS[base] for base in error.__mro__ if base in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)


def codes() -> list[str]:
    """Every code that an error of ours can have, in alphabetical order."""
    return sorted({error.code for error in vars(errors).values() if _is_ours(error)})


def _is_ours(error: object) -> TypeGuard[type[LoadmasterError]]:
    return isinstance(error, type) and issubclass(error, LoadmasterError)


def error_object(error: LoadmasterError) -> dict[str, Any]:
    """What stands under `error` in a body, in a job and in a model: message, type, code, param and the numbers."""
    kind = TYPE.get(status_of(type(error)), "invalid_request_error")
    return {**error.facts, "message": str(error), "type": kind, "code": error.code, "param": error.param}


def error_response(error: LoadmasterError) -> JSONResponse:
    """The whole answer."""
    status = status_of(type(error))
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if status in LATER else None
    return ErrorResponse(error_object(error), status, headers)


def raw_error_response(
    status: HTTPStatus, message: str, param: str | None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The body of an error that is HTTP's own and has no class of ours."""
    code = CODE.get(status, status.phrase.lower().replace(" ", "_"))
    kind = TYPE.get(status, "invalid_request_error")
    return ErrorResponse({"message": message, "type": kind, "code": code, "param": param}, status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Give every error, ours and the framework's, the one body."""

    @app.exception_handler(LoadmasterError)
    async def ours(_: Request, error: LoadmasterError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return await ours(request, translated(error.errors()))

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        status = HTTPStatus(error.status_code)
        headers = {"Allow": _allowed(request)} if status is HTTPStatus.METHOD_NOT_ALLOWED else error.headers
        return raw_error_response(status, message, None, headers)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, __: Exception) -> JSONResponse:
        response = error_response(LoadmasterError("internal error; the log has more"))
        # Made outside of whoever gives the others theirs.
        response.raw_headers += [*FRESH, (REQUEST_ID.lower().encode(), (request_id.get() or "").encode())]
        return response


def _allowed(request: Request) -> str:
    """Every method that the path takes: the framework names those of the first one alone, and of files none."""
    path = request.scope["path"]
    routes = [route for route in iter_route_contexts(request.app.routes) if route.path_regex.match(path)]
    return ", ".join(sorted({method for route in routes for method in route.methods or ("GET", "HEAD")}))


def translated(found: Sequence[Any]) -> LoadmasterError:
    """Pydantic's first complaint in our words: which field, and what is wrong with it."""
    first = found[0]
    where = [part for part in first["loc"][1:] if isinstance(part, str | int)]
    if first["type"] == "json_invalid":
        return errors.MalformedJSON(f"the body is not JSON: {first['ctx']['error']}")
    if not where and isinstance(first["input"], bytes):
        return errors.MalformedJSON("the body must be JSON and say so: Content-Type: application/json")
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    param = path.removeprefix(".") or first["loc"][0]
    message = first["msg"].removeprefix("Value error, ")
    return errors.InvalidValue(f"{param}: {message}; got {_shown(first['input'])}", param=param)


def _shown(value: object) -> str:
    """A value as it was sent, if it is short. Python refuses to print integers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 100 else text[:100] + "…"
