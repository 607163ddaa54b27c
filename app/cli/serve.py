"""`loadmaster serve`."""

import contextlib
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from pydantic import ValidationError

from app.cli.connections import BoundedProtocol
from app.cli.logs import configuration
from app.config import Settings
from app.errors import InvalidValue
from app.main import create_app

STOP_SECONDS = 10
CANNOT_BE = 2
NO_START = 3


def serve(  # noqa: PLR0917 - each option is an argument
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on.")] = None,
    models_dir: Annotated[str | None, typer.Option(help="Where the GGUF files are; several joined by `:`.")] = None,
    devices: Annotated[str | None, typer.Option(help="auto, none, cuda, or a list such as sim:8GiB.")] = None,
    memory_limit: Annotated[str | None, typer.Option(help="all, 20GiB, 80%, or each by device: cuda:0=20GiB.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where wishes are kept over a restart.")] = None,
    api_keys_file: Annotated[Path | None, typer.Option(help="A file of keys, one name:role:key a line.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text, or json: one object a line.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug (polls, too), info, warning or error.")] = None,
) -> None:
    """Start the service. Options override the LOADMASTER_ environment variables.

    Exits with 2 for a setting that cannot be, and with 3 where the service cannot start.
    """
    given = {
        "host": host,
        "port": port,
        "models_dir": models_dir,
        "devices": devices,
        "memory_limit": memory_limit,
        "state_dir": state_dir,
        "api_keys_file": api_keys_file,
        "log_format": log_format,
        "log_level": log_level,
    }
    try:
        settings = Settings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"]) or "settings"
            typer.echo(f"loadmaster: {name}: {problem['msg'].removeprefix('Value error, ')}", err=True)
        raise typer.Exit(CANNOT_BE) from None
    with contextlib.suppress(KeyboardInterrupt):
        _run(settings)


def _run(settings: Settings) -> None:
    # After a stop in good order uvicorn raises the signal again, which would be the exit code of a crash.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=STOP_SECONDS,
        server_header=False,
        http=BoundedProtocol,
        log_config=configuration(settings.log_format, settings.log_level),
        access_log=False,  # ours has no query strings in it
        ws="none",  # there are no websockets, and its log has
    )
    address = _bound(config)  # before the start: a second service must not begin to load models
    server = uvicorn.Server(config)
    with contextlib.suppress(SystemExit):  # by which it ends where it has not started, and has logged why
        server.run(sockets=[address])
    if not server.started:
        refusal = getattr(app.state, "refusal", None)  # of a setting, perhaps, that only the devices show to be wrong
        raise typer.Exit(CANNOT_BE if isinstance(refusal, InvalidValue) else NO_START)


def _bound(config: uvicorn.Config) -> socket.socket:
    try:
        return config.bind_socket()
    except SystemExit:  # uvicorn has logged why
        raise typer.Exit(NO_START) from None
