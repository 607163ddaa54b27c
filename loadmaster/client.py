"""A thin, honest client: one method for each thing that can be asked, one exception for each refusal."""

import json
from collections.abc import Generator
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
        return self._list("/v1/models")

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

    def touch(self, model: str) -> JSON:
        """Count as a use of a loaded model: of idle ones, those that were used longest ago make room first."""
        return self._ask("POST", _path(model, "touch"))

    def verify(self, model: str, *, deep: bool = False, wait: bool = True) -> JSON:
        """Check a model; the job's `result` says what is wrong with it, layer by layer."""
        return self._ask("POST", _path(model, "verify"), {"deep": deep, "wait": wait}, patient=wait)

    def layers(self, model: str) -> list[JSON]:
        """The model's layers, and where their bytes are."""
        return self._list(_path(model, "layers"))

    def tensors(self, model: str) -> list[JSON]:
        """The model's tensors in file order, and where their bytes are."""
        found: list[JSON] = []
        while part := self._list(f"{_path(model, 'tensors')}?limit=10000&offset={len(found)}"):
            found += part
        return found

    def tensor(self, model: str, name: str) -> bytes:
        """A tensor's bytes, from where they are now."""
        response = self._http.get(f"{_path(model, 'tensors')}/{quote(name, safe='')}/data")
        if response.is_error:
            raise _refusal(response)
        return response.content

    def metadata(self, model: str, key: str | None = None) -> JSON:
        """The file's key/value pairs, long arrays in short; with `key` that one, whole."""
        query = "" if key is None else f"?key={quote(key, safe='')}"
        return self._ask("GET", _path(model, "metadata") + query)

    def statistics(self, model: str) -> JSON:
        """What the model's tensors add up to."""
        return self._ask("GET", _path(model, "statistics"))

    def devices(self) -> list[JSON]:
        """The accelerators, and the host."""
        return self._list("/v1/devices")

    def jobs(self) -> list[JSON]:
        """All jobs that run and the last that ended, newest first."""
        return self._list("/v1/jobs")

    def rescan(self) -> list[JSON]:
        """Look at the models directories again; returns the models."""
        found: list[JSON] = self._ask("POST", "/v1/models/rescan")["data"]
        return found

    def memory(self) -> JSON:
        """All memory: devices, host, models."""
        return self._ask("GET", "/v1/memory")

    def job(self, job: str) -> JSON:
        """One job by its id."""
        return self._ask("GET", f"/v1/jobs/{quote(job, safe='')}")

    def cancel(self, job: str) -> JSON:
        """Call a job off."""
        return self._ask("DELETE", f"/v1/jobs/{quote(job, safe='')}")

    def events(self, last_event_id: str | None = None) -> Generator[Event, None, None]:
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

    def _list(self, path: str) -> list[JSON]:
        found: list[JSON] = self._ask("GET", path)["data"]
        return found

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
