"""`loadmaster jobs` and `cancel`: what is under way, and calling it off."""

from typing import Annotated

import typer
from rich.text import Text

from app.cli.asking import REFUSED, ApiKey, AsJson, Url, asking
from app.cli.terminal import out, print_json, printable, table
from loadmaster.exchange import DEFAULT_URL


def jobs(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the jobs that are under way and the last that have ended, newest first."""
    with asking(url, api_key) as client:
        found = client.jobs()
    if as_json:
        print_json([job.body for job in found])
        return
    page = table("job", "kind", "model", "state", "done", right=("done",))
    for job in found:
        cells = (job.id, job.kind, job.model, job.state)
        page.add_row(*map(printable, cells), f"{job.progress:.0%}")
    out().print(page if found else Text("no jobs"))


def cancel(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job's id, as `jobs` and --detach print it.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Call a job off and wait for its end: everything that it staged is undone. Exits with 0 once it is cancelled."""
    with asking(url, api_key) as client:
        ended = list(client.follow(client.cancel(job)))[-1]
    if as_json:
        print_json(ended.body)
    else:
        typer.echo(printable(f"{ended.model}: {ended.kind} {ended.state}"))
    raise typer.Exit(0 if ended.state == "cancelled" else REFUSED)
