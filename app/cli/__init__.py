"""The `loadmaster` command: one module a command, joined here."""

from typing import Annotated

import typer

from app import __version__
from app.cli.changes import load, offload, unload, verify
from app.cli.inspect import inspect
from app.cli.models import ls, ps, show, tokenize
from app.cli.plan import plan
from app.cli.serve import serve
from app.cli.top import top
from app.cli.watch import watch

main = typer.Typer(
    name="loadmaster",
    help="Loads, places and rebalances GGUF weights across host memory and GPUs, while they are in use.",
    epilog="Exit codes: 0 done; 1 refused, failed, or problems found; 2 a value that cannot be; 3 no service answers, "
    "or it does not start; 130 called off by Ctrl-C.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
main.command()(ls)
main.command()(ps)
main.command()(show)
main.command()(plan)
main.command("load")(load)
main.command("offload")(offload)
main.command()(unload)
main.command()(verify)
main.command()(tokenize)
main.command()(watch)
main.command()(top)
main.command()(inspect)
main.command()(serve)


@main.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
