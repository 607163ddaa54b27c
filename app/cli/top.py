"""`loadmaster top`: devices, loaded models and jobs, as they change."""

import sys
from dataclasses import dataclass, field

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app.cli.asking import ApiKey, AsJson, Url, asking
from app.cli.models import loaded, under_way
from app.cli.terminal import out, print_json, printable, table
from app.sizes import size
from loadmaster import Event, Job, LoadmasterError, Memory, Model, Snapshot
from loadmaster.exchange import DEFAULT_URL

FRAMES_PER_SECOND = 8
BAR = 20


@dataclass(slots=True)
class Present:
    """What the events so far add up to. `lost` says why it may be old."""

    models: dict[str, Model] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    memory: Memory | None = None
    lost: str | None = None

    def take(self, event: Event) -> None:
        """Bring it up to date: a snapshot replaces all of it."""
        self.lost = None
        match event.data:
            case Snapshot(models=models, jobs=jobs, memory=memory):
                self.models = {model.id: model for model in models}
                self.jobs = {job.id: job for job in jobs if not job.ended}
                self.memory = memory
            case Model() as model:
                self.models[model.id] = model
            case Job() as job if job.ended:
                self.jobs.pop(job.id, None)
            case Job() as job:
                self.jobs[job.id] = job
            case Memory() as memory:
                self.memory = memory

    def lose(self, error: LoadmasterError) -> None:
        """The connection is gone: what is shown is the past."""
        self.lost = str(error)

    def __rich__(self) -> RenderableType:
        if self.memory is None:
            return Text()
        parts: list[RenderableType] = [_devices(self.memory), Text()]
        parts.append(loaded(tuple(self.models.values()), self.memory))
        if self.jobs:
            parts += [Text(), under_way(list(self.jobs.values()))]
        if self.lost is not None:
            parts += [Text(), Text(f"connection lost, trying again: {printable(self.lost)}", style="red")]
        return Group(*parts)


def top(
    once: bool = typer.Option(False, "--once", help="Print it once; so does a pipe."),
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show devices, loaded models and jobs, as they change. Ctrl-C ends it.

    It goes on by itself after the connection was lost or the service was restarted. With --json it prints the present
    as one document.
    """
    present = Present()
    console = out()
    with asking(url, api_key) as client:
        events = client.events(lost=present.lose)
        first = next(events)
        present.take(first)
        if as_json:
            print_json(first.data.body)
        elif once or not sys.stdout.isatty():
            console.print(present)
        else:
            try:
                with Live(present, console=console, screen=True, refresh_per_second=FRAMES_PER_SECOND):
                    for event in events:
                        present.take(event)
            except KeyboardInterrupt:
                raise typer.Exit from None


def _devices(memory: Memory) -> Table:
    numbers = ("used", "reserved", "retired", "others", "limit")
    page = table("device", "", *numbers, right=numbers)
    for device in memory.devices:
        held = device.used_bytes + device.reserved_bytes + device.retired_bytes
        page.add_row(
            printable(device.id),
            Text("lost", style="red") if device.lost else ProgressBar(max(1, device.limit_bytes), held, width=BAR),
            size(device.used_bytes),
            size(device.reserved_bytes),
            size(device.retired_bytes),
            "unknown" if device.others_bytes is None else size(device.others_bytes),
            size(device.limit_bytes),
        )
    host = memory.host
    used = host.total_bytes - host.available_bytes
    bar = ProgressBar(max(1, host.total_bytes), used, width=BAR)
    cells = ("", "", size(used - host.process_rss_bytes), size(host.total_bytes))
    page.add_row("host", bar, size(host.process_rss_bytes), *cells)
    return page
