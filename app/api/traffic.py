"""Every request: its id, its line in the access log, and what Prometheus is told of all of them.

It stands on the hot path of whoever polls, so it is plain ASGI: one wrapped `send`, two clocks, a dictionary.
"""

import logging
import re
import secrets
import time
from collections import Counter, defaultdict
from contextvars import ContextVar
from itertools import count
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import LoadmasterError
from app.residency.tally import Histogram

log = logging.getLogger(__name__)

REQUEST_ID: Final = "X-Request-Id"
UNMATCHED: Final = "unmatched"
POLLED: Final = frozenset({"/healthz", "/v1/memory", "/v1/models"})
"""Counted by their path even where they are answered, or refused, before they are routed."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""They change nothing."""
CLASS: Final = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx")
MAX_PATH: Final = 200  # characters of a path in the log
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""From a poll to a load that is waited for."""

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that is being answered, or that began the work which goes on: tasks inherit it."""

_HEADER: Final = REQUEST_ID.lower().encode()
_SANE: Final = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")


Answered = tuple[str, str, str]
"""Method, route and class of status: what requests are counted by, a bounded number of each, whatever clients send."""


class Traffic:
    """What was asked for, and how it was answered. Owned by the event loop."""

    def __init__(self) -> None:
        self.seconds: defaultdict[Answered, Histogram] = defaultdict(lambda: Histogram(SECONDS))
        """From the request to the head of its answer: an event stream or a tensor may go on for hours after it."""
        self.refusals: Counter[str] = Counter()
        """Requests that were answered by an error, by its code: whoever refuses leaves it in `scope["state"]`."""
        self._boot = secrets.token_hex(4)
        self._numbers = count(1)

    def new_id(self) -> str:
        """An id for a request that brings none: unlike any other, in the order of arrival."""
        return f"{self._boot}-{next(self._numbers):x}"

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """A request was answered by this status, as far as its head."""
        method = scope["method"]
        self.seconds[method if method in METHODS else "other", route_of(scope), CLASS[status // 100]].observe(seconds)


class Access:
    """Gives each request its id, counts it, and writes its line.

    What changes something or is refused is logged at INFO, and what was merely looked at, polls, probes and scrapes
    among it, at DEBUG. Neither has a query string or a header: those may hold what is secret.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self.app = app
        self.traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status, complete = 0, False
        id_ = _brought(scope) or self.traffic.new_id()
        request_id.set(id_)  # never reset: what the server logs of a failure comes after us, in the same task
        header = (_HEADER, id_.encode())

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.traffic.count(scope, status, time.perf_counter() - began)
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        try:
            await self.app(scope, receive, told)
            complete = scope.get("state", {}).get("complete", True)
        except Exception:
            if not status:  # then the answer is a 500
                scope.setdefault("state", {})["code"] = LoadmasterError.code
            raise
        finally:
            seconds = time.perf_counter() - began
            if not status:  # it failed, or was cut off by a stop, before there was an answer
                status = 500
                self.traffic.count(scope, status, seconds)
            if code := scope.get("state", {}).get("code"):
                self.traffic.refusals[code] += 1
            level = logging.DEBUG if status < 400 and scope["method"] in SAFE and complete else logging.INFO
            if log.isEnabledFor(level):
                _tell(level, scope, status, seconds, complete=complete)


def route_of(scope: Scope) -> str:
    """The template of the route that a request was routed to, or the mount; `unmatched` where it was to none."""
    route: Any = scope.get("route")
    if route is not None:
        return str(getattr(route, "path_format", UNMATCHED))
    mounted: str = scope.get("root_path", "")
    if mounted:
        return f"{mounted}/{{path}}"
    return scope["path"] if scope["path"] in POLLED else UNMATCHED


def _brought(scope: Scope) -> str | None:
    """The id that the client or a proxy gave the request, if it is a sane one."""
    for name, value in scope["headers"]:
        if name == _HEADER:
            return value.decode() if _SANE.fullmatch(value) else None
    return None


def _tell(level: int, scope: Scope, status: int, seconds: float, *, complete: bool) -> None:
    path = scope["path"] if len(scope["path"]) <= MAX_PATH else scope["path"][:MAX_PATH] + "…"
    client = scope.get("client")
    facts = {
        "event": "request",
        "method": scope["method"],
        "path": path,
        "route": route_of(scope),
        "status": status,
        "code": scope.get("state", {}).get("code"),
        "seconds": round(seconds, 6),
        "complete": complete,
        "client": client[0] if client else None,
    }
    what = f"{scope['method']} {path}: {status}{'' if complete else ' (unfinished)'}"
    log.log(level, "%s in %.3f s", what, seconds, extra={"facts": facts})
