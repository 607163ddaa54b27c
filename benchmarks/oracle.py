"""Our figures beside llama.cpp's: every cell of its own memory breakdowns, and where the two differ.

usage: python -m benchmarks.oracle [--all] [--record]

The shared fixtures hold what llama-fit-params printed for llama-server arguments; here the arguments become our
request, and every cell that is not the same figure a row of a table, by model. `model` and `context` should be equal
(figures are rounded down to MiB), `compute` between 5 % and 8 MiB below and 100 % and 16 MiB above: what is not is out
of bounds. `--all` prints the cells that are equal, too; `--record` appends summary and differences to RESULTS.md.
"""

import argparse
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from app.gguf import parse_header
from app.model import Model, describe
from app.placement import (
    HOST,
    Budget,
    ContextRequest,
    DevicePlan,
    Override,
    PlacementRequest,
    Strategy,
    model_needs,
    output_matrix,
    plan,
)
from benchmarks._record import record

FIXTURES = Path(__file__).parents[1] / "../shared/fixtures"
MIB = 1 << 20
AMPLE = 1 << 40
"""What each device has: more than any model of the oracle needs."""

Row = dict[str, Any]
"""One of the oracle's: `model`, `gpus`, `args` and, by device, `memory`."""


class Cell(NamedTuple):
    """One figure, ours in bytes and llama.cpp's in MiB rounded down."""

    model: str
    args: str
    device: str
    kind: str
    ours: int
    theirs: int

    @property
    def differs(self) -> bool:
        """Whether ours, rounded down to MiB, is another figure."""
        return self.ours // MIB != self.theirs

    @property
    def agrees(self) -> bool:
        """Whether ours is as near as it has to be."""
        if self.kind == "compute":
            return self.theirs * 0.95 - 8 <= self.ours / MIB <= (self.theirs + 1) * 2 + 16
        return abs(self.ours // MIB - self.theirs) <= 1


def parse_arguments(args: Sequence[str], devices: Sequence[str], n_layer: int) -> PlacementRequest:
    """Translate llama-server's arguments for a model of `n_layer` blocks.

    What they leave out is what the oracle was made with: one sequence, equal weights. More layers than there are is
    all of them, as llama.cpp has it.
    """
    values: dict[str, str] = {}
    overrides: list[Override] = []
    rest = iter(args)
    for flag in rest:
        match flag:
            case "-nkvo" | "-kvu" | "--cpu-moe":
                values[flag] = "on"
            case "-ot":
                pattern, _, name = next(rest).rpartition("=")
                overrides.append(Override(pattern, _device(name, devices)))
            case "-ncmoe" | "--n-cpu-moe":
                values["-ncmoe"] = next(rest)
            case _:
                values[flag] = next(rest)
    context = ContextRequest(
        n_ctx=int(values["-c"]) or None,
        n_seq=int(values.get("-np", "1")),
        kv_unified="-kvu" in values,
        kv_offload="-nkvo" not in values,
        cache_type_k=values.get("-ctk", "f16"),
        cache_type_v=values.get("-ctv", "f16"),
        flash_attention=values.get("-fa", "auto") != "off",
        n_batch=int(values.get("-b", "2048")),
        n_ubatch=int(values.get("-ub", "512")),
    )
    return PlacementRequest(
        n_gpu_layers=min(int(values["-ngl"]), n_layer + 1),
        strategy=Strategy.LLAMA_CPP,
        devices=tuple(devices),
        split_weights=tuple(map(float, values["-ts"].split(","))) if "-ts" in values else "equal",
        overrides=tuple(overrides),
        n_cpu_moe=n_layer if "--cpu-moe" in values else min(int(values.get("-ncmoe", "0")), n_layer),
        context=context,
    )


def body(request: PlacementRequest) -> dict[str, Any]:
    """Say a request as the body of a POST to /v1/models/{id}/plan."""
    fields = asdict(request)
    split = {"mode": fields.pop("split_mode"), "weights": fields.pop("split_weights")}
    return {**fields, "split": split}


def _device(name: str, devices: Sequence[str]) -> str:
    number = re.sub(r"\D", "", name)
    return HOST if name == "CPU" else devices[int(number)]


@cache
def described(name: str) -> Model:
    """Read a header fixture."""
    packed = (FIXTURES / "headers" / f"{name}.head.gz").read_bytes()
    return describe([parse_header(gzip.decompress(packed))])


def rows(oracle: str) -> list[Row]:
    """Load one of the oracle's files."""
    loaded: list[Row] = json.loads((FIXTURES / "oracle" / oracle).read_text())
    return loaded


def asked(row: Row) -> PlacementRequest:
    """Say the arguments of a row of the oracle in our terms."""
    devices = [f"sim:{number}" for number in range(row["gpus"])]
    return parse_arguments(row["args"], devices, described(row["model"]).n_layer or 0)


def planned(row: Row) -> Sequence[DevicePlan]:
    """Plan what a row of the oracle asks for, on devices of ample size."""
    request, model = asked(row), described(row["model"])
    assert request.context is not None
    found = plan(
        model.layers,
        [Budget(device, AMPLE) for device in request.devices or ()],
        request,
        needs=model_needs(model, model.caches, request.context),
        output=output_matrix(model),
    )
    assert found.fits
    return found.devices


def cells(row: Row, devices: Sequence[DevicePlan]) -> Iterator[Cell]:
    """Set the figures of a plan beside those of the oracle's row."""
    ours = {device.id: device for device in devices}
    for column, figures in row["memory"].items():
        device = ours[HOST if column == "host" else column.replace("gpu", "sim:")]
        numbers = {"model": device.weights_bytes, "context": device.context_bytes, "compute": device.compute_bytes}
        for name, theirs in figures.items():
            kind = name.removesuffix("_mib")
            yield Cell(row["model"], " ".join(row["args"]), device.id, kind, numbers[kind], theirs)


def table(shown: Sequence[Cell]) -> str:
    """Lay cells out as Markdown: a table for each model, and the arguments where they change."""
    lines: list[str] = []
    for model, of_model in groupby(sorted(shown, key=attrgetter("model")), key=attrgetter("model")):
        lines += [
            *([""] if lines else []),
            f"**{model}**",
            "",
            "| arguments | device | kind | ours, MiB | llama.cpp, MiB | ratio | |",
            "|---|---|---|---:|---:|---:|---|",
        ]
        for args, asked_for in groupby(of_model, key=attrgetter("args")):
            arguments = f"`{args}`".replace("|", "\\|")
            for cell in asked_for:
                lines.append(f"| {arguments} | {_figures(cell)} |")
                arguments = ""
    return "\n".join(lines)


def _figures(cell: Cell) -> str:
    ratio = f"{cell.ours / MIB / cell.theirs:.2f}" if cell.theirs else ""
    bounds = "" if cell.agrees else "out of bounds"
    return f"{cell.device} | {cell.kind} | {cell.ours / MIB:.1f} | {cell.theirs} | {ratio} | {bounds}"


def summary(measured: Sequence[Cell]) -> str:
    """Count the cells that agree, by kind."""
    lines = ["| kind | cells | within bounds | equal MiB |", "|---|---:|---:|---:|"]
    for kind in ("model", "context", "compute"):
        of_kind = [cell for cell in measured if cell.kind == kind]
        agree = sum(cell.agrees for cell in of_kind)
        equal = sum(not cell.differs for cell in of_kind)
        lines.append(f"| {kind} | {len(of_kind)} | {agree} | {equal} |")
    return "\n".join(lines)


def main() -> None:
    """Compare, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Compare our memory figures with llama.cpp's own.")
    parser.add_argument("--all", action="store_true", help="print every cell, not only those that differ")
    parser.add_argument("--record", action="store_true", help="append summary and differences to RESULTS.md")
    options = parser.parse_args()
    measured = [
        cell
        for oracle in ("memory", "context")
        for row in rows(f"llamacpp-{oracle}.json")
        for cell in cells(row, planned(row))
    ]
    differences = [cell for cell in measured if cell.differs]
    print(table(measured if options.all else differences))
    print(f"\n{summary(measured)}")
    if options.record:
        report = f"{summary(measured)}\n\n{table(differences)}"
        record("Memory, beside llama.cpp's own breakdown", "llama-fit-params, loopback RPC devices", report)


if __name__ == "__main__":
    main()
