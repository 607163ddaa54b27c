"""Every public call of the client library has an example, and every example runs, against a live service."""

import asyncio
import doctest
from contextlib import aclosing
from typing import Any

import pytest

from loadmaster import AsyncClient, Client, questions
from loadmaster.errors import DoesNotFit
from tests.api.server import DEMO_ID

CALLS: dict[str, Any] = {
    **{name: getattr(questions, name) for name in vars(Client) if name in vars(questions) and name[0] != "_"},
    "Client": Client,
    "AsyncClient": AsyncClient,
    **{f"Client.{name}": getattr(Client, name) for name in ("events", "follow", "wait")},
    **{f"AsyncClient.{name}": getattr(AsyncClient, name) for name in ("events", "follow", "wait")},
}


def test_there_is_an_example_for_every_call() -> None:
    """Whoever reads a docstring finds one to start from."""
    assert [name for name, call in CALLS.items() if ">>>" not in (call.__doc__ or "")] == []
    assert len(CALLS) > 25


@pytest.mark.parametrize("name", CALLS)
def test_the_example_runs(name: str, service: str, client: Client) -> None:
    """As it is printed, with what it prints."""
    globs = {
        "client": client,
        "Client": Client,
        "AsyncClient": AsyncClient,
        "DoesNotFit": DoesNotFit,
        "MODEL": DEMO_ID,
        "URL": service,
        "asyncio": asyncio,
        "aclosing": aclosing,
    }
    parsed = doctest.DocTestParser().get_doctest(CALLS[name].__doc__, globs, name, None, None)
    said: list[str] = []

    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(parsed, out=said.append)

    assert result.attempted > 0
    assert result.failed == 0, "".join(said)
