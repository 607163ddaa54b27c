"""The least that could answer: bare routes in a process of their own, beside which ours are measured."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import uvicorn
from fastapi import FastAPI, Response
from starlette.types import Receive, Scope, Send

from tests.api.process import ROOT, free_port
from tests.api.server import DEADLINE_SECONDS, until

ASGI, BYTES, DICT = "/asgi", "/bytes", "/dict"
Answer = dict[str, list[dict[str, str | int]]]
ANSWER: Final[Answer] = {"devices": [{"id": f"sim:{number}", "total_bytes": 1 << 33} for number in range(20)]}
BODY: Final = json.dumps(ANSWER).encode()
"""Of the size of our own answer with two devices and a model."""

fastapi = FastAPI()


@fastapi.get(BYTES)
async def prepared() -> Response:
    """Answer what is prepared."""
    return Response(BODY, media_type="application/json")


@fastapi.get(DICT)
async def encoded() -> Answer:
    """Have the framework encode it."""
    return ANSWER


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without any framework, or pass it on to one."""
    if scope["type"] != "http" or scope["path"] != ASGI:
        await fastapi(scope, receive, send)
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


@contextmanager
def bare() -> Iterator[int]:
    """Serve the bare routes until the block ends; yields the port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks._bare", str(port)], cwd=ROOT)
    try:
        until(lambda: _answers(port))
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{BYTES}", timeout=DEADLINE_SECONDS).is_success
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False)
