"""`loadmaster load`, `offload`, `unload` and `verify`: changes, watched until they are done."""

from collections.abc import Callable
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from app.cli.asking import (
    CANNOT_BE,
    INTERRUPTED,
    REFUSED,
    ApiKey,
    AsJson,
    ModelName,
    Url,
    asking,
    fail,
    id_of,
)
from app.cli.models import layers_of
from app.cli.terminal import print_json, printable
from app.devices.settings import parse_size
from app.errors import InvalidValue
from app.sizes import size
from loadmaster import Client, Job, Placement
from loadmaster.exchange import DEFAULT_URL
from loadmaster.records import Verification

Detach = Annotated[bool, typer.Option("--detach", "-d", help="Begin, print the job, and do not wait for it.")]
EVICT = {"yes": True, "layers": "layers", "no": False}


def placing(kind: str, sentence: str) -> Callable[..., None]:
    """The command that loads, or the one that offloads: they take the same, and leave out what is not given."""

    def command(  # noqa: PLR0917 - typer makes options of them
        model: ModelName,
        n_gpu_layers: Annotated[str | None, typer.Option("--n-gpu-layers", "-n", help="Number, all or auto.")] = None,
        strategy: Annotated[str | None, typer.Option(help="first, last, ends, llama.cpp or best.")] = None,
        device: Annotated[list[str] | None, typer.Option(help="A device to use; once for each, in order.")] = None,
        split: Annotated[str | None, typer.Option(help="layer, row or none.")] = None,
        weights: Annotated[str | None, typer.Option(help="free, equal, or numbers joined by commas.")] = None,
        override: Annotated[list[str] | None, typer.Option(help="PATTERN=DEVICE: where such tensors go.")] = None,
        n_cpu_moe: Annotated[int | None, typer.Option(help="Blocks whose experts stay on the host.")] = None,
        ctx: Annotated[int | None, typer.Option("--ctx", "-c", help="Plan a context of so many tokens.")] = None,
        margin: Annotated[str | None, typer.Option(help="What to keep free on every device: 512MiB.")] = None,
        host: Annotated[str | None, typer.Option(help="mmap, mlock or buffered.")] = None,
        evict: Annotated[str | None, typer.Option(help="Idle models make room: yes, layers or no.")] = None,
        pin: Annotated[bool | None, typer.Option(help="Never evict it.")] = None,
        keep_alive: Annotated[float | None, typer.Option(help="Seconds without use; -1 for ever.")] = None,
        rebalance: Annotated[bool | None, typer.Option("--rebalance", help="Deal all layers out anew.")] = None,
        detach: Detach = False,
        url: Url = DEFAULT_URL,
        api_key: ApiKey = None,
        as_json: AsJson = False,
    ) -> None:
        parts = {"mode": split, "weights": None if weights is None else numbers_or_word(weights)}
        asked = {
            "n_gpu_layers": None if n_gpu_layers is None else number_or_word(n_gpu_layers),
            "strategy": strategy,
            "devices": device or None,
            "split": {name: part for name, part in parts.items() if part is not None} or None,
            "overrides": [_override(one) for one in override] if override else None,
            "n_cpu_moe": n_cpu_moe,
            "context": None if ctx is None else {"n_ctx": ctx},
            "margin_bytes": None if margin is None else _bytes(margin),
            "host": host,
            "evict": None if evict is None else _eviction(evict),
            "pinned": pin,
            "keep_alive": keep_alive,
            "rebalance": rebalance,
        }
        placement = cast("Placement", {name: value for name, value in asked.items() if value is not None})
        with asking(url, api_key) as client:
            ask = client.load if kind == "load" else client.offload
            _finish(client, ask(id_of(client, model), wait=False, **placement), detach=detach, as_json=as_json)

    command.__doc__ = f"{sentence}\n\nCtrl-C calls the job off: everything is as it was before. --detach leaves it."
    return command


load = placing("load", "Load a model, or bring a loaded one to where this says.")
offload = placing("offload", "Move layers of a loaded model while it is in use; what is not given stays as it is.")


def unload(
    model: ModelName,
    detach: Detach = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Give a model's memory back; a load that is under way is called off."""
    with asking(url, api_key) as client:
        _finish(client, client.unload(id_of(client, model), wait=False), detach=detach, as_json=as_json)


def verify(
    model: ModelName,
    deep: Annotated[bool, typer.Option("--deep", help="Look at every byte, on the devices, too.")] = False,
    detach: Detach = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Check a model's structure, and with --deep its data. Exits with 1 where there are problems."""
    with asking(url, api_key) as client:
        _finish(client, client.verify(id_of(client, model), deep=deep, wait=False), detach=detach, as_json=as_json)


def number_or_word(text: str) -> Any:
    """A number as one; the service says what is wrong with any other word."""
    return int(text) if text.removeprefix("-").isdecimal() else text


def numbers_or_word(text: str) -> Any:
    """Numbers joined by commas as a list; the service says what is wrong with any other word."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text


def _bytes(text: str) -> int:
    try:
        return parse_size(text, text)
    except InvalidValue:
        fail(CANNOT_BE, f"--margin {text}: must be an integer and B, KiB, MiB, GiB or TiB, such as 512MiB")


def _override(text: str) -> Any:
    pattern, _, device = text.rpartition("=")
    if not pattern or not device:
        fail(CANNOT_BE, f"--override {text}: must be PATTERN=DEVICE, such as ffn_.*_exps=cpu")
    return {"pattern": pattern, "device": device}


def _eviction(text: str) -> Any:
    if text not in EVICT:
        fail(CANNOT_BE, f"--evict {text}: must be {', '.join(EVICT)}")
    return EVICT[text]


def _finish(client: Client, job: Job, *, detach: bool, as_json: bool) -> None:
    """Watch a job to its end, say how it ended, and exit accordingly."""
    interrupted = False
    if not detach:
        try:
            job = _watch(client, job)
        except KeyboardInterrupt:
            interrupted = True
            client.cancel(job.id)
            job = _watch(client, job)
    if as_json:
        print_json(job.body)
    else:
        typer.echo(printable(_sentence(client, job)), err=job.state in ("failed", "cancelled"))
        for problem in job.result.problems if isinstance(job.result, Verification) else ():
            typer.echo(f"  {printable(problem.message)}")
    if interrupted and job.state == "cancelled":
        raise typer.Exit(INTERRUPTED)
    sound = not isinstance(job.result, Verification) or job.result.ok
    raise typer.Exit(0 if sound and job.state not in ("failed", "cancelled") else REFUSED)


def _watch(client: Client, job: Job) -> Job:
    """Follow a job with a bar on standard error, if that is a terminal."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(job.kind, total=1.0, pace="")
        for present in client.follow(job):
            job = present
            progress.update(bar, completed=job.progress, description=f"{job.kind}: {_stage(job)}", pace=_pace(job))
    return job


def _stage(job: Job) -> str:
    return printable(job.stage or job.state)


def _pace(job: Job) -> str:
    parts = [f"{size(job.bytes_done)} of {size(job.bytes_total)}"] if job.bytes_total else []
    if job.bytes_per_second is not None:
        parts.append(f"{size(int(job.bytes_per_second))}/s")
    if job.eta_seconds is not None:
        parts.append(f"{job.eta_seconds:.0f} s left")
    return ", ".join(parts)


def _sentence(client: Client, job: Job) -> str:
    """How it stands with a job, in a line."""
    told = (job.error or {}).get("message")
    match job.state:
        case "succeeded" if isinstance(job.result, Verification):
            return f"{job.model}: {job.result.summary}"
        case "succeeded" if job.kind == "unload":
            return f"{job.model}: unloaded"
        case "succeeded":
            model = client.model(job.model)
            copied = size(job.bytes_total) if job.bytes_total else "nothing"
            return f"{job.model}: {layers_of(model)} layers on devices, {copied} copied, generation {job.generation}"
        case "failed" | "cancelled":
            return f"loadmaster: {job.kind} of {job.model} {job.state}" + (f": {told}" if told else "")
        case _:
            return f"{job.model}: {job.kind} is {job.state}, job {job.id}"
