"""What both clients do with httpx: where the service is, how a request goes out, how its answer is read."""

import os
from collections.abc import Callable
from functools import update_wrapper
from inspect import Parameter, signature
from types import TracebackType
from typing import Any, Final, TypeVar, get_args

import httpx
from httpx_sse import SSEError

from loadmaster.errors import NotAllowed, Refused, UnexpectedAnswer, Unreachable, refusal
from loadmaster.listening import SILENCE_SECONDS, Listening
from loadmaster.questions import Request

DEFAULT_URL: Final = "http://127.0.0.1:8288"
URL_VARIABLE: Final = "LOADMASTER_URL"
KEY_VARIABLE: Final = "LOADMASTER_API_KEY"
CONNECT_SECONDS: Final = 10.0

M = TypeVar("M", bound=Callable[..., Any])


def named_after(ask: Callable[..., Any], method: M) -> M:
    """Give a method its question's name, docstring and signature, for `help` and editors."""
    own = signature(ask)
    update_wrapper(method, ask)
    *_, result = get_args(own.return_annotation)
    me = Parameter("self", Parameter.POSITIONAL_ONLY)
    method.__signature__ = own.replace(parameters=[me, *own.parameters.values()], return_annotation=result)  # type: ignore[attr-defined]
    return method


def url_of(url: str | None) -> str:
    """Where the service is: as given, by LOADMASTER_URL, or on this machine; `host:port` is taken for HTTP."""
    found = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    return found if "://" in found else f"http://{found}"


class Translation:
    """httpx's own errors become ours."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        match error:
            case httpx.TransportError() | httpx.InvalidURL():
                raise Unreachable(f"{self._url}: {str(error) or type(error).__name__}") from error
            case SSEError():
                raise UnexpectedAnswer(f"{self._url}: no stream of events: {error}") from error


def headers(api_key: str | None) -> dict[str, str]:
    """What every request says of who asks; LOADMASTER_API_KEY unless a key is given. Raises NotAllowed."""
    key = (api_key or os.environ.get(KEY_VARIABLE) or "").strip()
    if not (key.isascii() and key.isprintable()):  # httpx would show the key in its complaint
        raise NotAllowed(None, {"message": "a key has visible ASCII characters alone, and this one has others"})
    return {"Authorization": f"Bearer {key}"} if key else {}


def arguments(request: Request) -> dict[str, Any]:
    """A request in httpx's words."""
    return {
        "method": request.method,
        "url": request.path,
        "json": request.body,
        "params": request.params or None,
        "headers": request.headers,
        "timeout": httpx.Timeout(None, connect=CONNECT_SECONDS) if request.patient else httpx.USE_CLIENT_DEFAULT,
    }


def stream(listening: Listening) -> dict[str, Any]:
    """A stream in httpx's words."""
    headers = {"Accept": "text/event-stream", **listening.headers}
    return {"headers": headers, "timeout": httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)}


def answer(request: Request, response: httpx.Response) -> Any:
    """What a question is sent: JSON or bytes. Raises Refused, or UnexpectedAnswer for what is no JSON."""
    if response.is_error:
        raise refusal_in(response)
    if request.raw:
        return response.content
    try:
        return response.json()
    except ValueError:
        raise UnexpectedAnswer(f"{response.url}: expected JSON, got {response.text[:100]!r}") from None


def refusal_in(response: httpx.Response) -> Refused:
    """The error that an answer tells of."""
    try:
        error = dict(response.json()["error"])
    except (ValueError, KeyError, TypeError):  # not from the service itself: a proxy's page, say
        error = {"message": f"HTTP status {response.status_code}: {response.text[:200]}"}
    return refusal(response.status_code, error)
