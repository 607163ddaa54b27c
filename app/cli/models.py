"""`loadmaster ls`, `ps`, `show` and `tokenize`: what there is, and what it is doing."""

from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.cli.asking import ApiKey, AsJson, ModelName, Url, asking, id_of
from app.cli.terminal import out, pairs, print_json, printable, table
from app.sizes import size
from loadmaster import Job, Memory, Model, ModelDetail, Snapshot
from loadmaster.exchange import DEFAULT_URL
from loadmaster.records import VocabularyFacts


def ls(
    state: Annotated[str | None, typer.Option(help="Only models in this state: available, loaded, invalid, …")] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the models."""
    with asking(url, api_key) as client:
        found = client.models(state=state)
    if as_json:
        print_json([model.body for model in found])
        return
    page = table("model", "state", "architecture", "type", "size", "layers", right=("size", "layers"))
    for model in found:
        page.add_row(
            printable(model.id),
            printable(model.state),
            printable(model.architecture or ""),
            printable(model.quantization or ""),
            size(model.size_bytes),
            layers_of(model),
        )
    out().print(page if found else Text("no models"))


def ps(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show what is loaded, where, and the jobs that are on their way."""
    with asking(url, api_key) as client:
        present = next(client.events()).data
    if not isinstance(present, Snapshot):
        raise TypeError(f"a stream of events begins with a snapshot, not with a {type(present).__name__}")
    jobs = [job for job in present.jobs if not job.ended]
    if as_json:
        models = [model.body for model in present.models if model.generation is not None]
        print_json({"models": models, "jobs": [job.body for job in jobs], "memory": present.memory.body})
        return
    parts: list[RenderableType] = [loaded(present.models, present.memory)]
    if jobs:
        parts += [Text(), under_way(jobs)]
    out().print(Group(*parts))


def show(model: ModelName, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one model: what its files say, and where its layers are."""
    with asking(url, api_key) as client:
        found = client.model(id_of(client, model))
        layers = client.layers(found.id) if found.generation is not None else ()
    if as_json:
        print_json(found.body)
        return
    parts: list[RenderableType] = [Text(printable(found.id), style="bold"), pairs(_facts(found))]
    held: dict[str, int] = {}
    for layer in layers:
        for device, nbytes in layer.devices.items():
            held[device] = held.get(device, 0) + nbytes
    if held:
        parts += [Text("\nWhere it is", style="bold"), pairs({name: size(count) for name, count in held.items()})]
    for title, problems in (("Problems", found.problems), ("Notes", found.notes)):
        if problems:
            parts += [Text(f"\n{title}", style="bold"), *(Text(f"  {printable(one.message)}") for one in problems)]
    out().print(Group(*parts))


def tokenize(
    model: ModelName,
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    add_special: Annotated[bool, typer.Option(help="Add the tokens that the model wants around a text.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print the token ids of a text, loaded model or not."""
    text = typer.get_text_stream("stdin").read() if text == "-" else text
    with asking(url, api_key) as client:
        tokens = client.tokenize(id_of(client, model), text, add_special=add_special)
    if as_json:
        print_json({"tokens": tokens})
    else:
        typer.echo(" ".join(map(str, tokens)))


def layers_of(model: Model) -> str:
    """`12/30`: how many layers are on devices, of how many; of a model that is not loaded only how many."""
    if model.n_layer is None:
        return ""
    return str(model.n_layer) if model.n_gpu_layers is None else f"{model.n_gpu_layers}/{model.n_layer}"


def loaded(models: tuple[Model, ...], memory: Memory) -> Table | Text:
    """The models that have something loaded, and their bytes by device."""
    held = {model.id: model for model in memory.models}
    page = table("model", "state", "layers", "on devices", "on the host", right=("layers", "on devices", "on the host"))
    for model in models:
        if model.id in held:
            bytes_ = held[model.id]
            gpu = f"{size(bytes_.gpu_bytes)} {bytes_.gpu_percent:5.1f}%"
            page.add_row(printable(model.id), printable(model.state), layers_of(model), gpu, size(bytes_.cpu_bytes))
    return page if page.row_count else Text("nothing is loaded")


def under_way(jobs: list[Job]) -> Table:
    """Jobs that have not ended."""
    page = table("job of", "kind", "state", "stage", "done", "rate", right=("done", "rate"))
    for job in jobs:
        rate = "" if job.bytes_per_second is None else f"{size(int(job.bytes_per_second))}/s"
        stage = printable(job.stage or "")
        page.add_row(printable(job.model), printable(job.kind), job.state, stage, f"{job.progress:.0%}", rate)
    return page


def _facts(model: ModelDetail) -> dict[str, Any]:
    words = model.vocabulary
    return {
        "name": model.name,
        "state": model.state,
        "error": None if model.error is None else model.error.get("message"),
        "architecture": model.architecture,
        "quantisation": model.quantization,
        "parameters": None if model.parameters is None else f"{model.parameters:,}",
        "size": size(model.size_bytes),
        "files": len(model.files),
        "context": model.context_length,
        "layers": model.n_layer,
        "vocabulary": None if words is None else _vocabulary(words),
        "on devices": None if model.n_gpu_layers is None else f"{model.n_gpu_layers} layers, by {model.strategy}",
        "generation": model.generation,
        "job": model.job,
    }


def _vocabulary(words: VocabularyFacts) -> str:
    kinds = "/".join(kind for kind in (words.model, words.pre) if kind)
    return kinds if words.n_tokens is None else f"{words.n_tokens:,} tokens, {kinds}"
