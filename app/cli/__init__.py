"""The `loadmaster` command: one module a command, joined here."""

from typing import Annotated

import typer

from app import __version__
from app.cli.inspect import inspect
from app.cli.plan import plan
from app.cli.serve import serve

main = typer.Typer(
    name="loadmaster",
    help="Loads, places and rebalances GGUF weights across host memory and GPUs, while they are in use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
main.command()(serve)
main.command()(inspect)
main.command()(plan)


@main.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
