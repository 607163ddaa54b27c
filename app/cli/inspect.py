"""`loadmaster inspect FILE`: what a GGUF file says, on a page for a person, without a service."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Self

import typer
from pydantic import BaseModel
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.api.schemas import FileOut, ProblemOut, StatisticsOut, VocabularyOut
from app.cli.terminal import printable
from app.errors import LoadmasterError
from app.model import LayerKey, LayerStatistics, Model, Problem, Statistics, statistics
from app.residency.registry import Entry, entry_at
from app.sizes import size

LEFT = ("layers", "type", "types", "where", "what")
RUNS = 4  # of layer numbers that are listed; of more only the first and the last


class InspectOut(BaseModel):
    """What `--json` prints, in the words of the HTTP API: a model's detail and its statistics. Sizes are in bytes."""

    name: str | None
    type: str
    architecture: str
    architecture_known: bool
    quantization: str | None
    parameters: int
    size_bytes: int
    files: list[FileOut]
    hyperparameters: dict[str, Any]
    vocabulary: VocabularyOut | None
    statistics: StatisticsOut
    problems: list[ProblemOut]
    notes: list[ProblemOut]

    @classmethod
    def of(cls, entry: Entry, model: Model) -> Self:
        """Everything that the files say in short."""
        vocabulary = model.vocabulary
        return cls(
            name=model.name,
            type=model.type,
            architecture=model.architecture,
            architecture_known=model.architecture_known,
            quantization=model.quantization,
            parameters=model.parameters,
            size_bytes=entry.size_bytes,
            files=[FileOut.model_validate(file) for file in entry.files],
            hyperparameters=model.hyperparameters.as_facts(),
            vocabulary=VocabularyOut.model_validate(vocabulary) if vocabulary else None,
            statistics=StatisticsOut.model_validate(statistics(model)),
            problems=[ProblemOut.model_validate(problem) for problem in model.problems],
            notes=[ProblemOut.model_validate(note) for note in model.notes],
        )


def inspect(
    file: Annotated[Path, typer.Argument(help="A GGUF file, or one of its shards.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a GGUF file says: model, hyperparameters, layers, quantisation, vocabulary, problems.

    Exits with 1 where the model has problems, and with 2 where the file cannot be read.
    """
    try:
        entry = entry_at(file)
        if entry.error is not None:
            raise entry.error
        model = entry.require_model()
    except LoadmasterError as error:
        typer.echo(f"loadmaster: {printable(str(error))}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        # Twice, for pydantic writes null for NaN, and the standard library pure ASCII, which no terminal obeys.
        typer.echo(json.dumps(json.loads(InspectOut.of(entry, model).model_dump_json()), indent=2))
    else:
        Console().print(Group(*_page(entry, model, statistics(model))))
    raise typer.Exit(1 if model.problems else 0)


def _page(entry: Entry, model: Model, numbers: Statistics) -> Iterator[RenderableType]:
    count = len(entry.files)
    yield Text(printable(model.name or entry.id), style="bold")
    yield _pairs(
        {
            "file": entry.files[0].name if count == 1 else f"{entry.files[0].name} and {count - 1} more",
            "size": size(entry.size_bytes),
            "type": model.type,
            "architecture": f"{model.architecture or 'none'}{'' if model.architecture_known else ' (unknown here)'}",
            "quantisation": model.quantization,
            "parameters": f"{model.parameters:,}",
            "bits per weight": _bits(numbers.bits_per_weight),
            "in experts": size(numbers.expert_bytes) if numbers.expert_bytes else None,
        }
    )
    hyperparameters = model.hyperparameters.as_facts()
    if any(value is not None for value in hyperparameters.values()):
        yield _title("Hyperparameters")
        yield _pairs({name: _shown(value) for name, value in hyperparameters.items()})
    if model.layers:
        yield _title("Layers")
        yield _layers(numbers.by_layer)
        yield _title("Quantisation")
        yield _types(numbers)
    if model.vocabulary is not None:
        words = model.vocabulary
        yield _title("Vocabulary")
        tokens = None if words.n_tokens is None else f"{words.n_tokens:,}"
        facts = {"tokenizer": words.model, "pre-tokenizer": words.pre, "tokens": tokens}
        special = {name: str(number) for name, number in words.special.items()}
        yield _pairs({**facts, **special, "chat template": "yes" if words.chat_template else "no"})
    yield from _structure(model)


def _layers(layers: Sequence[LayerStatistics]) -> RenderableType:
    """One row for all layers that are alike."""
    alike: dict[object, list[LayerStatistics]] = {}
    for row in layers:
        alike.setdefault((row.role, row.tensors, row.size_bytes, row.parameters, row.types), []).append(row)
    table = _table("layers", "count", "tensors", "size of each", "parameters", "types")
    for rows in alike.values():
        first = rows[0]
        numbers = (str(len(rows)), str(first.tensors), size(first.size_bytes), f"{first.parameters:,}")
        table.add_row(_ranges([row.layer for row in rows]), *numbers, ", ".join(first.types))
    return table


def _ranges(keys: Sequence[LayerKey]) -> str:
    """Layers in short: `0 … 29`, `1, 3, …, 31`."""
    # In a run of numbers that follow each other, a number less its place is always the same.
    places = groupby(enumerate(keys), lambda pair: pair[1] - pair[0] if isinstance(pair[1], int) else pair[1])
    runs = [[key for _, key in run] for _, run in places]
    names = [str(run[0]) if len(run) == 1 else f"{run[0]} … {run[-1]}" for run in runs]
    return ", ".join(names if len(names) <= RUNS else [*names[: RUNS - 2], "…", names[-1]])


def _types(numbers: Statistics) -> RenderableType:
    table = _table("type", "tensors", "size", "parameters", "bits per weight")
    for row in numbers.by_type:
        table.add_row(
            row.type, str(row.tensors), size(row.size_bytes), f"{row.parameters:,}", _bits(row.bits_per_weight)
        )
    return table


def _structure(model: Model) -> Iterator[RenderableType]:
    if not model.problems:
        layers = f"all {len(model.layers)} layers ok" if model.layers else "no tensors"
        yield Text(f"\nStructure: {layers}", style="green")
    for title, problems, style in (("Problems", model.problems, "red"), ("Notes", model.notes, "")):
        if problems:
            yield _title(title)
            table = _table("where", "what")
            for problem in problems:
                table.add_row(Text(printable(_where(problem))), Text(printable(problem.message), style))
            yield table


def _where(problem: Problem) -> str:
    return problem.tensor or problem.key or ("" if problem.layer is None else f"layer {problem.layer}")


def _title(title: str) -> Text:
    return Text(f"\n{title}", style="bold")


def _pairs(facts: dict[str, str | None]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value is not None:
            table.add_row(Text(f"  {printable(name)}", style="dim"), Text(printable(value)))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=True, header_style="dim")
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right")
    return table


def _shown(value: object) -> str | None:
    """A fact as text; a long list by its beginning."""
    if isinstance(value, list):
        shown = ", ".join(_shown(one) or "" for one in value[:8])
        return f"{shown}, …" if len(value) > 8 else shown
    if isinstance(value, float):
        return f"{value:.7g}"  # as many digits as the file's 32 bits hold
    return None if value is None else str(value)


def _bits(bits_per_weight: float | None) -> str | None:
    return None if bits_per_weight is None else f"{bits_per_weight:.2f}"
