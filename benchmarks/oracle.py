"""Our figures beside llama.cpp's: every cell of its own memory breakdowns, and where the two differ.

usage: python -m benchmarks.oracle [--all] [--record]

The shared fixtures hold what llama-fit-params printed for llama-server arguments; here the arguments become our
request, and the differences a table: `model` and `context` should be equal (figures are rounded down to MiB),
`compute` between 5 % and 8 MiB below and 100 % and 16 MiB above. `--all` prints every cell, `--record` appends the
summary to RESULTS.md.
"""

import argparse
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from app.gguf import parse_header
from app.model import Model, describe
from app.model.caches import Caches, read_caches
from app.placement.context import ContextRequest
from app.placement.llamacpp import place, tensor_devices, weights_bytes, with_overrides
from app.placement.memory import compute_bytes, context_bytes, model_needs
from app.placement.overrides import Override, Overrides, experts_on_host
from app.placement.slabs import HOST
from benchmarks._record import record

FIXTURES = Path(__file__).parents[1] / "../shared/fixtures"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Arguments:
    """llama-server's arguments, as far as they decide about memory, in our terms."""

    n_gpu_layers: int
    weights: tuple[float, ...]
    overrides: tuple[Override, ...]
    context: ContextRequest


class Cell(NamedTuple):
    """One figure, ours in bytes and llama.cpp's in MiB rounded down."""

    model: str
    args: str
    device: str
    kind: str
    ours: int
    theirs: int

    @property
    def agrees(self) -> bool:
        """Whether ours is as near as it has to be."""
        if self.kind == "compute":
            return self.theirs * 0.95 - 8 <= self.ours / MIB <= (self.theirs + 1) * 2 + 16
        return abs(self.ours // MIB - self.theirs) <= 1


def parse_arguments(args: Sequence[str], devices: Sequence[str]) -> Arguments:
    """Translate llama-server's arguments; devices have equal weights unless `-ts` says otherwise."""
    values: dict[str, str] = {}
    overrides: list[Override] = []
    rest = iter(args)
    for flag in rest:
        match flag:
            case "-nkvo" | "-kvu":
                values[flag] = "on"
            case "--cpu-moe":
                overrides.append(experts_on_host())
            case "-ncmoe" | "--n-cpu-moe":
                overrides.append(experts_on_host(int(next(rest))))
            case "-ot":
                pattern, _, name = next(rest).rpartition("=")
                overrides.append(Override(pattern, _device(name, devices)))
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
    weights = values.get("-ts", ",".join("1" for _ in devices))
    return Arguments(int(values["-ngl"]), tuple(map(float, weights.split(","))), tuple(overrides), context)


def _device(name: str, devices: Sequence[str]) -> str:
    number = re.sub(r"\D", "", name)
    return HOST if name == "CPU" else devices[int(number)]


@cache
def described(name: str) -> tuple[Model, Caches]:
    """Read a header fixture."""
    packed = (FIXTURES / "headers" / f"{name}.head.gz").read_bytes()
    header = parse_header(gzip.decompress(packed))
    model = describe([header])
    return model, read_caches(header.metadata, model.architecture, model.hyperparameters)


def rows(oracle: str) -> list[dict[str, Any]]:
    """Load one of the oracle's files."""
    loaded: list[dict[str, Any]] = json.loads((FIXTURES / "oracle" / oracle).read_text())
    return loaded


def cells(row: dict[str, Any]) -> Iterator[Cell]:
    """Work out a row of the oracle, and yield its figures with ours."""
    devices = [f"sim:{number}" for number in range(row["gpus"])]
    asked = parse_arguments(row["args"], devices)
    model, caches = described(row["model"])
    overrides = Overrides(asked.overrides)
    layout = place(model.n_layer or 0, asked.n_gpu_layers, devices, asked.weights)
    homes = tensor_devices(model, layout, overrides)
    if overrides:
        layout = with_overrides(model, layout, overrides)
    needs = model_needs(model, caches, asked.context)
    ours = {
        "model": weights_bytes(model, layout, homes),
        "context": context_bytes(needs, layout),
        "compute": compute_bytes(needs, layout),
    }
    for column, figures in row["memory"].items():
        device = HOST if column == "host" else column.replace("gpu", "sim:")
        for kind, theirs in figures.items():
            kind = kind.removesuffix("_mib")  # noqa: PLW2901
            yield Cell(row["model"], " ".join(row["args"]), device, kind, ours[kind][device], theirs)


def table(shown: Sequence[Cell]) -> str:
    """Lay cells out as Markdown."""
    lines = [
        "| model | arguments | device | kind | ours, MiB | llama.cpp, MiB | ratio |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for cell in shown:
        ratio = f"{cell.ours / MIB / cell.theirs:.2f}" if cell.theirs else ""
        arguments = cell.args.replace("|", "\\|")
        ours = f"{cell.ours / MIB:.1f}"
        lines.append(f"| {cell.model} | {arguments} | {cell.device} | {cell.kind} | {ours} | {cell.theirs} | {ratio} |")
    return "\n".join(lines)


def summary(measured: Sequence[Cell]) -> str:
    """Count the cells that agree, by kind."""
    lines = ["| kind | cells | within bounds | equal MiB |", "|---|---:|---:|---:|"]
    for kind in ("model", "context", "compute"):
        of_kind = [cell for cell in measured if cell.kind == kind]
        agree = sum(cell.agrees for cell in of_kind)
        equal = sum(cell.ours // MIB == cell.theirs for cell in of_kind)
        lines.append(f"| {kind} | {len(of_kind)} | {agree} | {equal} |")
    return "\n".join(lines)


def main() -> None:
    """Compare, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Compare our memory figures with llama.cpp's own.")
    parser.add_argument("--all", action="store_true", help="print every cell, not only those that disagree")
    parser.add_argument("--record", action="store_true", help="append the summary to RESULTS.md")
    options = parser.parse_args()
    measured = [
        cell for oracle in ("memory", "context") for row in rows(f"llamacpp-{oracle}.json") for cell in cells(row)
    ]
    shown = [cell for cell in measured if options.all or not cell.agrees]
    report = f"{summary(measured)}\n\n{table([cell for cell in measured if not cell.agrees])}"
    print(table(shown))
    print(f"\n{summary(measured)}")
    if options.record:
        record("Memory, beside llama.cpp's own breakdown", "llama-fit-params, loopback RPC devices", report)


if __name__ == "__main__":
    main()
