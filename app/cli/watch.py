"""`loadmaster watch`: everything that happens, a line for each thing."""

import json
import sys
from datetime import datetime

import typer

from app.cli.asking import ApiKey, AsJson, Url, asking
from app.cli.models import layers_of
from app.cli.terminal import printable
from app.sizes import size
from loadmaster import Event, Job, LoadmasterError, Memory, Model, Snapshot
from loadmaster.exchange import DEFAULT_URL


def watch(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Print what happens, as it happens: jobs, models, memory. Ctrl-C ends it.

    Begins with the present, and goes on by itself after the connection was lost or the service was restarted. With
    --json every event is one line: {"id", "event", "data"}.
    """
    with asking(url, api_key) as client:
        try:
            for event in client.events(lost=_say_lost):
                sys.stdout.write((_line_of_json(event) if as_json else _line(event)) + "\n")
                sys.stdout.flush()  # whoever reads a pipe wants it now
        except KeyboardInterrupt:
            raise typer.Exit from None


def _say_lost(error: LoadmasterError) -> None:
    typer.echo(f"loadmaster: {printable(str(error))}; trying again", err=True)


def _line_of_json(event: Event) -> str:
    return json.dumps({"id": event.id, "event": event.name, "data": event.data.body})


def _line(event: Event) -> str:
    return f"{datetime.now().astimezone():%H:%M:%S}  {event.name:8}  {printable(_said(event))}"


def _said(event: Event) -> str:
    match event.data:
        case Snapshot(models=models, jobs=jobs):
            loaded = sum(model.generation is not None for model in models)
            running = sum(not job.ended for job in jobs)
            return f"{len(models)} models, {loaded} of them loaded; {running} jobs under way"
        case Job() as job:
            told = (job.error or {}).get("message")
            stage = f", {job.stage} {job.progress:.0%}" if not job.ended and job.stage else ""
            return f"{job.model}: {job.kind} {job.state}{stage}" + (f": {told}" if told else "")
        case Model() as model:
            loaded_layers = f", {layers_of(model)} layers on devices" if model.generation is not None else ""
            return f"{model.id}: {model.state}{loaded_layers}"
        case Memory(devices=devices):
            return ", ".join(f"{one.id} {size(one.used_bytes)} of {size(one.limit_bytes)}" for one in devices)
        case other:
            return json.dumps(other.body)[:200]
