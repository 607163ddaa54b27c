"""Clients that never come to an end, by sockets: a request has a size around its body, and a time to be whole."""

import contextlib
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.cli.connections import BoundedProtocol
from tests.api.server import DEADLINE_SECONDS, DEMO, answer, serving, until

POST = f"POST {DEMO}/plan HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n".encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
KIB = 1024


class Impatient(BoundedProtocol):
    """As it ships, but for the time."""

    seconds = 0.5


class Narrow(BoundedProtocol):
    """As it ships, but for the room."""

    most = 3


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that waits half a second for a request."""
    with serving(tmp_path_factory.mktemp("impatient"), devices="none", http=Impatient) as client:
        yield client


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    """A connection of its own."""
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=DEADLINE_SECONDS) as connection:
        yield connection


def last_words(connection: socket.socket) -> bytes:
    """All that the service sends until it closes."""
    words = b""
    with contextlib.suppress(ConnectionResetError):  # it has closed with bytes of ours unread
        while received := connection.recv(64 * KIB):
            words += received
    return words


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /v1/memory HT", POST, POST + b"Content-Length: 100\r\n\r\n{", CHUNKED + b"1\r\n{\r\n"],
    ids=["nothing", "a request line", "headers", "a body", "a chunk"],
)
def test_a_request_that_never_ends_is_ended(impatient: httpx.Client, begun: bytes) -> None:
    """By a 408 in the error shape, wherever it stands still."""
    with connected(impatient) as connection:
        connection.sendall(begun)
        words = last_words(connection)

    assert words.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in words
    assert b"\r\ncontent-security-policy: default-src 'none'" in words


def test_a_kept_connection_is_no_excuse(impatient: httpx.Client) -> None:
    """What comes after a whole request has its own time, also where it came with the one before."""
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for more in (b"GET", POST + b"Content-Length: 100\r\n\r\n{"):
        with connected(impatient) as connection:
            connection.sendall(whole + more)
            connection.sendall(b" ")
            words = last_words(connection)

        assert words.startswith(b"HTTP/1.1 200 ")
        assert words.count(b"HTTP/1.1 408 ") == 1


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (b"GET /", b"a" * KIB),
        (b"GET / HTTP/1.1\r\nX: ", b"a" * KIB),
        (b"GET / HTTP/1.1\r\n", b"X: a\r\n" * 200),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: a\r\n" * 200),
        (CHUNKED + b"2\r\n{}\r\n0\r\nX: ", b"a" * KIB),
        (CHUNKED + b"2;", b"a" * KIB),
    ],
    ids=["an address", "a header", "headers", "trailers", "a trailer", "an extension of a chunk"],
)
def test_what_is_around_a_body_has_an_end(client: httpx.Client, begun: bytes, more: bytes) -> None:
    """By a 431, long before 64 MiB of it."""
    with connected(client) as connection:
        connection.sendall(begun)
        for _ in range(64 * KIB):
            if select.select([connection], [], [], 0)[0]:
                break
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # there are words all the same
                connection.sendall(more)
        else:
            pytest.fail("it took all of it")

        assert last_words(connection).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"), 400),
        (POST + b"Content-Length: 2\r\nContent-Length: 4\r\n\r\n{}  ", 400),
        (POST + b"Content-Length: -1\r\n\r\n{}", 400),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}", 400),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n{}", 400),
        (b"GET /healthz HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n", 400),
        (b"GET /v1/memory HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n", 403),
        (b"GET /v1/memory HTTP/1.1\r\n\r\n", 403),
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
    ],
)
def test_what_a_proxy_may_read_otherwise_is_refused(client: httpx.Client, request_: bytes, status: int) -> None:
    """Two lengths, a folded line, two names: where a request ends and whom it calls is never for each to guess."""
    with connected(client) as connection:
        connection.sendall(request_)
        assert connection.recv(KIB).startswith(b"HTTP/1.1 %d " % status)


def test_a_stream_may_last_though_its_client_would_rather_speak_another_protocol(impatient: httpx.Client) -> None:
    """Java's client offers HTTP/2 with every request; the request is whole all the same."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"
    with connected(impatient) as stream, connected(impatient) as other:
        stream.sendall(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n" + upgrade + b"\r\n")
        heard = stream.makefile("rb")
        assert next(line for line in heard if line.startswith(b"event:")) == b"event: snapshot\n"
        assert b" 408 " in last_words(other)  # so much time has passed

        answer(impatient.post("/v1/models/rescan"))

        assert next(line for line in heard if line.startswith(b"event:")) == b"event: snapshot\n"


def test_there_is_an_end_to_the_connections(tmp_path: Path) -> None:
    """Those who are there go on; one more is closed, and let in when another has gone."""

    def asked(connection: socket.socket) -> bool:
        words = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            while not words.endswith(b"}") and (received := connection.recv(KIB)):
                words += received
        return words.startswith(b"HTTP/1.1 200 ")

    def let_in() -> bool:
        with connected(client) as another:
            return asked(another)

    with serving(tmp_path, devices="none", http=Narrow) as client, connected(client) as one, connected(client) as two:
        with connected(client) as three:
            assert [asked(connection) for connection in (one, two, three)] == [True] * 3
            assert not let_in()
            assert asked(one)
        until(let_in)
