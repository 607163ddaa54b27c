"""A thin, honest client: one method for each thing that can be asked, one exception for each refusal."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

JSON = dict[str, Any]

_WORDS = frozenset({"message", "type", "code", "param"})


class RequestFailed(Exception):
    """The service refused or failed. `numbers` holds what it told beside its sentence, in bytes where it is memory."""

    def __init__(self, status: int, error: JSON) -> None:
        super().__init__(error.get("message", f"HTTP status {status}"))
        self.status = status
        self.code: str | None = error.get("code")
        self.param: str | None = error.get("param")
        self.numbers = {name: value for name, value in error.items() if name not in _WORDS}


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: `snapshot`, `job`, `model` or `memory`, and its body."""

    id: str
    name: str
    data: JSON


class Client:
    """A connection to one service. Blocking; close it, or use it in a `with` block.

    Placements are given as keyword arguments named like the body's fields: `n_gpu_layers`, `strategy`, `devices`,
    `split`, `margin_bytes`, `host`, `rebalance`. Every method raises RequestFailed where the service says no, and
    httpx.TransportError where it is not there.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:8288", *, timeout: float | None = 30.0) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=timeout)

    def models(self) -> list[JSON]:
        """All models."""
        listed: list[JSON] = self._ask("GET", "/v1/models")["data"]
        return listed

    def model(self, model: str) -> JSON:
        """One model with its details."""
        return self._ask("GET", _path(model))

    def plan(self, model: str, **placement: Any) -> JSON:
        """What a load would do; look at `fits`."""
        return self._ask("POST", _path(model, "plan"), placement)

    def load(self, model: str, *, wait: bool = True, **placement: Any) -> JSON:
        """Load a model, or move a loaded one; returns the job, which has ended if `wait`."""
        return self._ask("POST", _path(model, "load"), {**placement, "wait": wait}, patient=wait)

    def offload(self, model: str, *, generation: int | None = None, wait: bool = True, **placement: Any) -> JSON:
        """Change where a loaded model's layers are; with `generation`, only if that is the present one."""
        headers = {} if generation is None else {"If-Match": f'"{generation}"'}
        return self._ask("PATCH", _path(model, "offload"), {**placement, "wait": wait}, headers, patient=wait)

    def unload(self, model: str, *, wait: bool = True) -> JSON:
        """Give a model's memory back."""
        return self._ask("POST", _path(model, "unload"), {"wait": wait}, patient=wait)

    def memory(self) -> JSON:
        """All memory: devices, host, models."""
        return self._ask("GET", "/v1/memory")

    def job(self, job: str) -> JSON:
        """One job by its id."""
        return self._ask("GET", f"/v1/jobs/{quote(job, safe='')}")

    def cancel(self, job: str) -> JSON:
        """Call a job off."""
        return self._ask("DELETE", f"/v1/jobs/{quote(job, safe='')}")

    def events(self, last_event_id: str | None = None) -> Iterator[Event]:
        """Events as they come: a snapshot of the present first, or what came after `last_event_id`. Endless."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        with self._http.stream("GET", "/v1/events", headers=headers, timeout=httpx.Timeout(30.0)) as response:
            if response.is_error:
                response.read()
                raise _refusal(response)
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name:  # a line that starts with a colon is a comment
                    fields[name] = value
                elif "data" in fields and not line:
                    yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
                    fields = {}

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(
        self,
        method: str,
        path: str,
        body: JSON | None = None,
        headers: dict[str, str] | None = None,
        *,
        patient: bool = False,
    ) -> JSON:
        """One request; a patient one waits as long as the work takes."""
        timeout = httpx.USE_CLIENT_DEFAULT if not patient else httpx.Timeout(None, connect=10.0)
        response = self._http.request(method, path, json=body, headers=headers, timeout=timeout)
        if response.is_error:
            raise _refusal(response)
        answer: JSON = response.json()
        return answer


def _path(model: str, action: str | None = None) -> str:
    path = f"/v1/models/{quote(model, safe='/')}"
    return f"{path}/{action}" if action else path


def _refusal(response: httpx.Response) -> RequestFailed:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):  # not from the service itself: a proxy's page, say
        error = {"message": f"HTTP status {response.status_code}: {response.text[:200]}"}
    return RequestFailed(response.status_code, error)
