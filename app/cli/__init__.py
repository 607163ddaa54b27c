"""The `loadmaster` command: each module holds commands, and is imported when one of them is wanted.

Whoever lists models, or completes a word, does not wait for what only `serve` and `inspect` need.
"""

from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from app import __version__

COMMANDS: Final = {
    "ls": "models",
    "ps": "models",
    "show": "models",
    "plan": "plan",
    "load": "changes",
    "offload": "changes",
    "unload": "changes",
    "verify": "changes",
    "jobs": "jobs",
    "cancel": "jobs",
    "tokenize": "models",
    "watch": "watch",
    "top": "top",
    "inspect": "inspect",
    "serve": "serve",
}
"""Which module a command is in, in the order of `--help`."""


class Commands(TyperGroup):
    """The commands, by name."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All of them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of them, from its module."""
        if cmd_name not in COMMANDS:
            return None
        alone = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
        alone.command(cmd_name)(getattr(import_module(f"app.cli.{COMMANDS[cmd_name]}"), cmd_name))
        return typer.main.get_command(alone)


main = typer.Typer(
    name="loadmaster",
    cls=Commands,
    help="Loads, places and rebalances GGUF weights across host memory and GPUs, while they are in use.",
    epilog="Exit codes: 0 done; 1 refused, failed, or problems found; 2 a value that cannot be; 3 no service answers, "
    "or it does not start; 130 called off by Ctrl-C.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@main.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
