"""`loadmaster plan`: where a model's layers would go; of a file without a service, of a served model by its id."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.api.bodies import PlanBody
from app.api.schemas import PlanOut
from app.cli.asking import CANNOT_BE, ApiKey, Url, asking, fail, id_of
from app.cli.changes import number_or_word, numbers_or_word
from app.cli.terminal import out, print_json, printable
from app.devices.settings import parse_size
from app.errors import InvalidValue, LoadmasterError
from app.placement import HOST, DevicePlan, Plan
from app.residency.reconcile import propose
from app.residency.registry import entry_at
from app.sizes import size
from loadmaster import Placement, records
from loadmaster.exchange import DEFAULT_URL

COLUMNS = ("device", "weights", "context", "compute", "needs", "has", "")


def plan(  # noqa: PLR0917 - typer makes options of them
    target: Annotated[str, typer.Argument(metavar="FILE|MODEL", help="A GGUF file or a shard; or a served model.")],
    device: Annotated[
        list[str] | None, typer.Option(help="Memory of a device, 24GiB; of a served model, a device's id.")
    ] = None,
    n_gpu_layers: Annotated[str, typer.Option("--n-gpu-layers", "-n", help="A number, all, or auto.")] = "auto",
    strategy: Annotated[str, typer.Option(help="first, last, ends, llama.cpp or best.")] = "first",
    split: Annotated[str, typer.Option(help="layer, row or none.")] = "layer",
    weights: Annotated[str, typer.Option(help="free, equal, or numbers joined by commas.")] = "free",
    margin: Annotated[str, typer.Option(help="What to keep free on every device.")] = "0B",
    n_cpu_moe: Annotated[int, typer.Option(help="Blocks whose experts stay on the host.")] = 0,
    ctx: Annotated[int | None, typer.Option("--ctx", "-c", help="Plan a context of so many tokens, too.")] = None,
    n_seq: Annotated[int, typer.Option(help="Sequences in the context.")] = 1,
    cache_type: Annotated[str, typer.Option(help="The type of keys and values: f16, q8_0, …")] = "f16",
    table: Annotated[bool, typer.Option("--table", help="Show every number of layers.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as the service would answer.")] = False,
) -> None:
    """Plan a file on devices that need not be there, or a served model on those of its service.

    What is a file, or ends in .gguf, is planned as a file. Exits with 1 where it does not fit, and with 2 for a file
    or a value that cannot be.
    """
    cache = {"n_ctx": ctx, "n_seq": n_seq, "cache_type_k": cache_type, "cache_type_v": cache_type}
    asked: dict[str, Any] = {
        "n_gpu_layers": number_or_word(n_gpu_layers),
        "strategy": strategy,
        "split": {"mode": split, "weights": numbers_or_word(weights)},
        "n_cpu_moe": n_cpu_moe,
        "context": None if ctx is None else cache,
    }
    try:
        asked["margin_bytes"] = _bytes(margin, "--margin")
    except InvalidValue as error:
        _refuse(str(error))
    found: Plan | records.Plan
    document: Any
    if Path(target).is_file() or target.lower().endswith(".gguf"):
        name, found = _of_file(Path(target), device or (), asked, table=table)
        document = PlanOut.model_validate(found).model_dump(mode="json")
    else:
        name, served = _of_service(url, api_key, target, asked | ({"devices": device} if device else {}), table=table)
        found, document = served, served.body
    if as_json:
        print_json(document)
    else:
        out().print(_page(printable(name), found))
    raise typer.Exit(0 if found.fits else 1)


def _of_file(file: Path, sizes: Sequence[str], asked: Mapping[str, Any], *, table: bool) -> tuple[str, Plan]:
    """The model's name, and a plan for devices of these sizes."""
    try:
        body = PlanBody.model_validate({**asked, "table": table})
        room = {f"gpu:{number}": _bytes(text, "--device") for number, text in enumerate(sizes)}
        model = entry_at(file).require_model()
        found = propose(model, body.request(), None, {**room, HOST: 1 << 62}, table=table)
    except ValidationError as error:
        _refuse(_first_fault(error))
    except LoadmasterError as error:
        _refuse(str(error))
    return model.name or file.name, found


def _of_service(
    url: str, api_key: str | None, model: str, asked: dict[str, Any], *, table: bool
) -> tuple[str, records.Plan]:
    """The model's id, and the service's own plan."""
    with asking(url, api_key) as client:
        model = id_of(client, model)
        return model, client.plan(model, table=table, **cast("Placement", asked))


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"


def _refuse(sentence: str) -> NoReturn:
    fail(CANNOT_BE, sentence)


def _bytes(text: str, option: str) -> int:
    try:
        return parse_size(text, text) if text != "0B" else 0
    except InvalidValue:
        raise InvalidValue(
            f"{option} {text}: must be an integer and B, KiB, MiB, GiB or TiB, such as 24GiB", param=option
        ) from None


def _page(name: str, found: Plan | records.Plan) -> RenderableType:
    apart = f", the experts of the first {found.n_cpu_moe} blocks on the host" if found.n_cpu_moe else ""
    parts: list[RenderableType] = [
        Text.assemble((name, "bold"), f": {found.n_gpu_layers} layers on the devices by {found.strategy}{apart}"),
        _devices(found),
        Text(f"layers on the devices: {_where(found)}"),
    ]
    if not found.fits:
        largest = found.largest_n_gpu_layers
        parts.append(Text(f"does not fit; {'nothing' if largest is None else largest} would", style="red"))
    parts += [Text(f"· {printable(advice.message)}", style="dim") for advice in found.advice]
    if found.llama_server_args is not None:
        parts.append(Text(f"llama-server {' '.join(found.llama_server_args)}"))
    if found.table is not None:
        parts.append(_table(found))
    return Group(*parts)


def _devices(found: Plan | records.Plan) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("device", "") else "right", no_wrap=True)
    for row in found.devices:
        table.add_row(*_cells(row))
    return table


def _cells(row: DevicePlan | records.DevicePlan) -> list[str]:
    sizes = (row.weights_bytes + row.padding_bytes, row.context_bytes, row.compute_bytes, row.required_bytes)
    available = "" if row.id == HOST or row.available_bytes is None else size(row.available_bytes)
    return [row.id, *map(size, sizes), available, "" if row.fits else "too small"]


def _where(found: Plan | records.Plan) -> str:
    """The layers of each device, in short."""
    held: dict[str, list[str]] = {}
    for layer in found.layers:
        for device in layer.devices:
            if device != HOST:
                held.setdefault(device, []).append(str(layer.layer))
    runs = (f"{device} {keys[0]} … {keys[-1]} ({len(keys)})" for device, keys in held.items())
    return "; ".join(runs) or "none"


def _table(found: Plan | records.Plan) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("n_gpu_layers", justify="right")
    for row in found.devices:
        table.add_column(row.id, justify="right")
    table.add_column("")
    for choice in found.table or ():
        sizes = [size(row.required_bytes) for row in choice.devices]
        table.add_row(str(choice.n_gpu_layers), *sizes, "" if choice.fits else "does not fit")
    return table
