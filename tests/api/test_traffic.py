"""Every request has an id and, where something changed or was refused, a line that holds no secret."""

import asyncio
import logging

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from app.api.errors import add_error_handlers
from app.api.traffic import Access, Traffic, request_id
from tests.api.server import DEMO, listening, load


@pytest.mark.parametrize("id_", ["a", "3f2b-77", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "x" * 128])
def test_a_sane_id_is_taken(client: httpx.Client, id_: str) -> None:
    """So that a line of ours can be found by the id of the proxy or the client before us."""
    assert client.get("/healthz", headers={"X-Request-Id": id_}).headers["x-request-id"] == id_


@pytest.mark.parametrize("id_", ["", "x" * 129, "a b", "a\tb", '"', "é", "{}", "a,b"])
def test_any_other_is_replaced(client: httpx.Client, id_: str) -> None:
    """What could forge a line, or fill the log, is not repeated."""
    headers = [(b"X-Request-Id", id_.encode())]
    first, second = (client.get("/healthz", headers=headers).headers["x-request-id"] for _ in range(2))

    assert id_ not in (first, second)
    assert first != second


def test_every_answer_has_an_id(client: httpx.Client) -> None:
    """Refusals, files and streams, too."""
    for path in ("/no/such", "/v1/models/no/such", "/docs", "/static/swagger-ui/swagger-ui.css", "/metrics"):
        assert client.get(path).headers["x-request-id"], path
    assert client.get("/v1/models", headers={"Host": "evil.example"}).headers["x-request-id"]
    with client.stream("GET", "/v1/events") as stream:
        assert stream.headers["x-request-id"]


def test_what_changes_or_is_refused_has_a_line(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """And so has the job that it began, by the same id; a poll has none, and a query string is in none."""
    with caplog.at_level(logging.INFO, "app"):
        load(client, n_gpu_layers=1)
        client.get("/v1/memory?key=s3cret")
        client.get("/v1/models/no/such?key=s3cret", headers={"Authorization": "Bearer s3cret"})
        with listening(client) as events:
            next(events)

    facts = [getattr(record, "facts", {}) for record in caplog.records]
    requests = [fact for fact in facts if fact.get("event") == "request"]
    assert [(fact["method"], fact["path"], fact["status"]) for fact in requests] == [
        ("POST", f"{DEMO}/load", 200),
        ("GET", "/v1/models/no/such", 404),
    ]
    assert requests[1]["code"] == "model_not_found"
    assert [fact["kind"] for fact in facts if fact.get("event") == "job"] == ["load"]
    assert "s3cret" not in caplog.text


def test_a_fault_of_ours_can_be_found() -> None:
    """The answer is a 500 with the request's id, and it is counted as what it is."""
    app, traffic, seen = FastAPI(), Traffic(), []
    add_error_handlers(app)
    app.add_middleware(Access, traffic=traffic)

    @app.get("/broken/{id}")
    async def broken(id: str) -> None:  # noqa: A002 - as our own routes have it
        seen.append(request_id.get())
        raise LookupError(id)

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/broken/1", headers={"X-Request-Id": "r-1"})

    response = asyncio.run(call())

    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert (response.headers["x-request-id"], seen) == ("r-1", ["r-1"])
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert [*traffic.seconds] == [("GET", "/broken/{id}", "5xx")]
    assert traffic.refusals == {"internal_error": 1}


def test_what_a_stop_cuts_off_is_no_fault() -> None:
    """It is counted as unanswered, and rings nobody's alarm."""
    traffic = Traffic()

    async def endless(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    async def nothing(*_: object) -> Message:
        raise AssertionError("nobody sends or receives")

    async def call() -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        request = asyncio.create_task(Access(endless, traffic)(scope, nothing, nothing))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(call())

    assert [*traffic.seconds] == [("GET", "unmatched", "5xx")]
    assert traffic.refusals == {}


def test_a_prepared_answer_is_not_changed() -> None:
    """An application may send the same message to everybody: the id is not written into it."""
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"etag", b"1")]}
    sent: list[Message] = []

    async def prepared(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    async def call() -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}

        async def receive() -> Message:
            raise AssertionError("nobody reads the body")

        async def send(message: Message) -> None:
            sent.append(message)

        await Access(prepared, Traffic())(scope, receive, send)

    asyncio.run(call())

    assert start["headers"] == [(b"etag", b"1")]
    assert [name for name, _ in sent[0]["headers"]] == [b"etag", b"x-request-id"]
