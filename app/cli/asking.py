"""How a command reaches the service, and how it ends where the service says no or is not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final, NoReturn

import typer

from app.cli.terminal import printable
from loadmaster import Client, InvalidRequest, LoadmasterError, NotAllowed, NotFound, Unreachable
from loadmaster.exchange import KEY_VARIABLE, URL_VARIABLE

REFUSED: Final = 1
CANNOT_BE: Final = 2
NOT_THERE: Final = 3
INTERRUPTED: Final = 130

COMPLETION_SECONDS: Final = 1.0

Url = Annotated[str, typer.Option("--url", envvar=URL_VARIABLE, help="Where the service is.")]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar=KEY_VARIABLE, show_envvar=True, help="A key of the service, if any.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the service answers.")]


def _ids(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of models, for a shell that completes one; none where they cannot be had at once."""
    url, key = context.params.get("url"), context.params.get("api_key")
    try:
        with Client(url, api_key=key, timeout=COMPLETION_SECONDS) as client:
            return [model.id for model in client.models() if model.id.startswith(incomplete)]
    except LoadmasterError:  # a shell that waits for a word has no use for a complaint
        return []


ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", autocompletion=_ids, help="A model's id, or its last part if that is unique.")
]


@contextmanager
def asking(url: str, api_key: str | None) -> Iterator[Client]:
    """A client; what it raises becomes a sentence and an exit code."""
    try:
        with Client(url, api_key=api_key) as client:
            yield client
    except Unreachable as error:
        start = "start one with `loadmaster serve`, or say where it is: --url or LOADMASTER_URL"
        fail(NOT_THERE, f"no service answers at {error}; {start}")
    except NotAllowed as error:
        fail(REFUSED, f"{error}; give a key with --api-key or LOADMASTER_API_KEY")
    except InvalidRequest as error:
        fail(CANNOT_BE, str(error))
    except LoadmasterError as error:
        fail(REFUSED, str(error))


def fail(code: int, sentence: str) -> NoReturn:
    """End with a sentence and an exit code."""
    typer.echo(f"loadmaster: {printable(sentence)}", err=True)
    raise typer.Exit(code) from None


def id_of(client: Client, name: str) -> str:
    """The id of the model that is meant: the id itself, or the one id that ends in `/name`. Raises NotFound."""
    try:
        return client.model(name).id
    except NotFound:
        ends = [model.id for model in client.models() if model.id.endswith(f"/{name.lower()}")]
        if len(ends) != 1:
            raise
        return ends[0]
