"""`loadmaster inspect FILE`: what a GGUF file says, on a page for a person, without a service."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.errors import LoadmasterError
from app.model import Model, Problem, Statistics, statistics
from app.residency.registry import Entry, entry_at

LEFT = ("layers", "type", "types", "where", "what")
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def inspect(
    file: Annotated[Path, typer.Argument(help="A GGUF file, or one of its shards.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a GGUF file says: model, hyperparameters, layers, quantisation, vocabulary, problems.

    Exits with 1 where the model has problems, and with 2 where the file cannot be read.
    """
    try:
        entry = entry_at(file)
        model = entry.require_model()
    except LoadmasterError as error:
        typer.echo(f"loadmaster: {error}", err=True)
        raise typer.Exit(2) from None
    numbers = statistics(model)
    if as_json:
        json.dump(_facts(entry, model, numbers), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        Console().print(_page(entry, model, numbers))
    raise typer.Exit(1 if model.problems else 0)


def _facts(entry: Entry, model: Model, numbers: Statistics) -> dict[str, Any]:
    """Everything, for programs. Sizes are in bytes."""
    vocabulary = model.vocabulary
    return {
        "name": model.name,
        "type": model.type,
        "architecture": model.architecture,
        "architecture_known": model.architecture_known,
        "quantization": model.quantization,
        "parameters": model.parameters,
        "tensor_bytes": model.size_bytes,
        "files": [{"name": file.name, "size_bytes": file.size_bytes} for file in entry.files],
        "hyperparameters": model.hyperparameters.as_facts(),
        "layers": [
            {"layer": row.layer, "role": row.role, "tensors": row.tensors, "size_bytes": row.size_bytes}
            | {"parameters": row.parameters, "types": list(row.types)}
            for row in numbers.by_layer
        ],
        "types": [
            {"type": row.type, "tensors": row.tensors, "parameters": row.parameters, "size_bytes": row.size_bytes}
            | {"bits_per_weight": row.bits_per_weight}
            for row in numbers.by_type
        ],
        "vocabulary": None
        if vocabulary is None
        else {"model": vocabulary.model, "pre": vocabulary.pre, "n_tokens": vocabulary.n_tokens}
        | {"special": dict(vocabulary.special), "chat_template": vocabulary.chat_template},
        "problems": [_problem(problem) for problem in model.problems],
        "notes": [_problem(note) for note in model.notes],
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return {"kind": problem.kind, "message": problem.message, "tensor": problem.tensor, "key": problem.key}


def _page(entry: Entry, model: Model, numbers: Statistics) -> RenderableType:
    return Group(*(part for part in _parts(entry, model, numbers) if part is not None))


def _parts(entry: Entry, model: Model, numbers: Statistics) -> Iterator[RenderableType | None]:
    known = "" if model.architecture_known else " (unknown here)"
    yield Text(model.name or entry.id, style="bold")
    yield _pairs(
        {
            "architecture": f"{model.architecture or 'none'}{known}",
            "type": model.type,
            "quantisation": model.quantization,
            "parameters": f"{model.parameters:,}",
            "size": f"{size(entry.size_bytes)} in {len(entry.files)} file{'s'[: len(entry.files) > 1]}",
            "bits per weight": None if numbers.bits_per_weight is None else f"{numbers.bits_per_weight:.2f}",
            "in experts": size(numbers.expert_bytes) if numbers.expert_bytes else None,
        }
    )
    yield Text("\nHyperparameters", style="bold")
    yield _pairs({name: _shown(value) for name, value in model.hyperparameters.as_facts().items()})
    if model.layers:
        yield _layers(numbers)
        yield _types(numbers)
    if model.vocabulary is not None:
        words = model.vocabulary
        yield Text("\nVocabulary", style="bold")
        tokens = None if words.n_tokens is None else f"{words.n_tokens:,}"
        facts = {"tokenizer": words.model, "pre-tokenizer": words.pre, "tokens": tokens}
        special = {name: str(number) for name, number in words.special.items()}
        yield _pairs({**facts, **special, "chat template": "yes" if words.chat_template else "no"})
    yield _problems(model)


def _layers(numbers: Statistics) -> RenderableType:
    """One row for each run of layers that are alike."""
    table = _table("Layers", "layers", "tensors", "size of each", "parameters", "types")
    rows = list(numbers.by_layer)
    start = 0
    for index, row in enumerate(rows):
        following = rows[index + 1] if index + 1 < len(rows) else None
        alike = following is not None and (following.role, following.size_bytes, following.types) == (
            row.role,
            row.size_bytes,
            row.types,
        )
        if alike:
            continue
        first = rows[start].layer
        name = str(first) if start == index else f"{first} … {row.layer}"
        table.add_row(name, str(row.tensors), size(row.size_bytes), f"{row.parameters:,}", ", ".join(row.types))
        start = index + 1
    return table


def _types(numbers: Statistics) -> RenderableType:
    table = _table("Quantisation", "type", "tensors", "size", "parameters", "bits per weight")
    for row in numbers.by_type:
        bits = "" if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}"
        table.add_row(row.type, str(row.tensors), size(row.size_bytes), f"{row.parameters:,}", bits)
    return table


def _problems(model: Model) -> RenderableType:
    sound = Text(f"\nStructure: all {len(model.layers)} layers ok", style="green")
    if not model.problems and not model.notes:
        return sound
    table = _table("Problems" if model.problems else "Notes", "where", "what")
    for problem in (*model.problems, *model.notes):
        where = problem.tensor or problem.key or ("" if problem.layer is None else f"layer {problem.layer}")
        table.add_row(Text(where), Text(problem.message, style="red" if problem in model.problems else ""))
    return table if model.problems else Group(sound, table)


def _pairs(facts: dict[str, str | None]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value is not None:
            table.add_row(Text(f"  {name}", style="dim"), Text(value))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right")
    return table


def _shown(value: object) -> str | None:
    """A fact as text; a long list by its beginning."""
    if isinstance(value, list):
        shown = ", ".join(str(one) for one in value[:8])
        return f"{shown}, …" if len(value) > 8 else shown
    return None if value is None else str(value)


def size(nbytes: int) -> str:
    """Bytes for people: `93.8 MiB`."""
    amount = float(nbytes)
    for unit in UNITS:
        if amount < 1024 or unit == UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.1f} {unit}" if unit != "B" else f"{nbytes} B"
