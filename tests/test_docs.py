"""The pages under docs/ are true: their examples run, and what they list is what there is."""

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from app.cli import COMMANDS as MODULES
from app.cli import main
from tests.api.server import serving

ROOT = Path(__file__).parents[1]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
GROUP: Any = typer.main.get_command(main)
COMMANDS = {name: GROUP.get_command(None, name) for name in MODULES}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A service such as `make run` starts, but faster."""
    with serving(tmp_path / "state") as http:
        yield str(http.base_url)


def test_the_readme_links_every_page() -> None:
    """And every page that it links is there."""
    linked = set(re.findall(r"\(docs/([\w-]+)\.md", (ROOT / "README.md").read_text(encoding="utf-8")))

    assert linked == set(PAGES)


def test_the_command_line_page_lists_every_command() -> None:
    """One row for each, with its arguments, in the order of `loadmaster --help`."""
    rows = re.findall(r"^\| `([a-z]+)([^`]*)` \|", PAGES["cli"], re.MULTILINE)

    assert [name for name, _ in rows] == list(COMMANDS)
    for name, words in rows:
        arguments = [one for one in COMMANDS[name].params if one.param_type_name == "argument"]
        shown = [str(one.metavar or one.name.upper()) for one in arguments]
        assert words.replace("\\", "").split() == shown, name


def test_the_options_of_the_command_line_page_are_there() -> None:
    """Whatever it calls by `--name` some command takes."""
    known = {name for command in COMMANDS.values() for one in command.params for name in one.opts}
    known |= {"--help", "--install-completion"}

    assert set(re.findall(r"--[a-z][a-z-]+", PAGES["cli"])) - known == set()


def test_the_command_line_session_runs(url: str) -> None:
    """Command by command, with the output that the page shows."""
    (session,) = re.findall(r"```console\n(.*?)```", PAGES["cli"], re.DOTALL)
    steps = re.findall(r"^\$ loadmaster (.*)\n((?:[^$].*\n)*)", session, re.MULTILINE)

    assert len(steps) > 4
    for command, output in steps:
        result = CliRunner().invoke(main, shlex.split(command), env={"LOADMASTER_URL": url, "COLUMNS": "80"})
        shown = [line.rstrip() for line in result.stdout.splitlines()]
        assert (result.exit_code, shown) == (0, output.splitlines()), command


def test_the_examples_in_python_run(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, with what they print."""
    monkeypatch.setenv("LOADMASTER_URL", url)
    said: list[str] = []
    page = doctest.DocTestParser().get_doctest(PAGES["python"], {}, "python.md", "python.md", 0)

    result = doctest.DocTestRunner().run(page, out=said.append)

    assert result.attempted > 10
    assert result.failed == 0, "".join(said)


def test_the_metrics_of_the_dashboards_page_are_there(url: str) -> None:
    """By the names that the service gives them; counters of what has not happened yet are described all the same."""
    served = set(re.findall(r"loadmaster_\w+", httpx.get(f"{url}/metrics").text))
    named = set(re.findall(r"loadmaster_\w+", PAGES["dashboards"]))

    assert {name.removesuffix("_total") for name in named} - {name.removesuffix("_total") for name in served} == set()
