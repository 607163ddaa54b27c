"""What commands print: pages for people, JSON for programs. Nothing that a service or a file says plays tricks here."""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNFOLDED = 10_000
"""The width of a pipe, in columns: rows stay whole there, and programs cut them as they like."""


def out() -> Console:
    """Where pages go. A terminal's width, or that of COLUMNS; NO_COLOR is honoured, and a pipe gets text alone."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else UNFOLDED
    return Console(highlight=False, markup=False, emoji=False, width=width)


def print_json(document: Any) -> None:
    """One JSON document, in ASCII: what is no plain character is escaped."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A plain table; the columns named in `right` hold numbers."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, column in enumerate(columns):
        # Ids are folded, never cut; everything else stays on its line.
        made.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=number > 0)
    return made


def pairs(facts: Mapping[str, object]) -> Table:
    """Names and values, without those that are not known."""
    made = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value is not None:
            made.add_row(Text(f"  {printable(name)}", style="dim"), Text(printable(str(value)), overflow="fold"))
    return made


def printable(text: str) -> str:
    """Text that cannot play tricks with a terminal: what is no visible character is shown as its escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
