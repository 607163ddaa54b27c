"""The skeleton: which tensors a model must have, with which dimensions, before a byte of data is looked at.

One table per architecture; a row's dimensions are names of widths that follow from the hyperparameters. To
teach another architecture, add its rows to TABLES, and a width to `_widths` where it has one of its own.
Source: what the classes in llama.cpp's src/models create.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from app.model.hyperparameters import Hyperparameters, PerLayer
from app.model.layers import LayerKey, layer_of


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. `{}` in a name stands for the block's number."""

    name: str
    dimensions: tuple[str, ...]
    required: bool = True
    instead: str | None = None
    """A tensor that does this one's work where it is present."""
    ffn: Literal["dense", "experts"] | None = None
    """Of models with this kind of feed-forward network only; None: of all."""


@dataclass(frozen=True, slots=True)
class ExpectedTensor:
    """A row worked out for one model."""

    name: str
    layer: LayerKey
    dimensions: tuple[int | None, ...]
    """Fastest first; None where the file does not say how wide."""
    required: bool
    instead: str | None


_LLAMA: Final = (
    Row("output_norm.weight", ("n_embd",)),
    Row("output.weight", ("n_embd", "n_vocab"), required=False),
    Row("blk.{}.attn_norm.weight", ("n_embd",)),
    Row("blk.{}.attn_q.weight", ("n_embd", "n_embd_q"), instead="blk.{}.attn_qkv.weight"),
    Row("blk.{}.attn_k.weight", ("n_embd", "n_embd_k"), instead="blk.{}.attn_qkv.weight"),
    Row("blk.{}.attn_v.weight", ("n_embd", "n_embd_v"), instead="blk.{}.attn_qkv.weight"),
    Row("blk.{}.attn_qkv.weight", ("n_embd", "n_embd_qkv"), required=False),
    Row("blk.{}.attn_output.weight", ("n_embd_q", "n_embd")),
    Row("blk.{}.attn_q.bias", ("n_embd_q",), required=False),
    Row("blk.{}.attn_k.bias", ("n_embd_k",), required=False),
    Row("blk.{}.attn_v.bias", ("n_embd_v",), required=False),
    Row("blk.{}.attn_output.bias", ("n_embd",), required=False),
    Row("blk.{}.ffn_norm.weight", ("n_embd",)),
    Row("blk.{}.ffn_gate.weight", ("n_embd", "n_ff"), ffn="dense"),
    Row("blk.{}.ffn_up.weight", ("n_embd", "n_ff"), ffn="dense"),
    Row("blk.{}.ffn_down.weight", ("n_ff", "n_embd"), ffn="dense"),
    Row("blk.{}.ffn_gate.bias", ("n_ff",), required=False, ffn="dense"),
    Row("blk.{}.ffn_up.bias", ("n_ff",), required=False, ffn="dense"),
    Row("blk.{}.ffn_down.bias", ("n_embd",), required=False, ffn="dense"),
    Row("blk.{}.ffn_gate_inp.weight", ("n_embd", "n_expert"), ffn="experts"),
    Row("blk.{}.ffn_gate_exps.weight", ("n_embd", "n_ff_exp", "n_expert"), required=False, ffn="experts"),
    Row("blk.{}.ffn_up_exps.weight", ("n_embd", "n_ff_exp", "n_expert"), ffn="experts"),
    Row("blk.{}.ffn_down_exps.weight", ("n_ff_exp", "n_embd", "n_expert"), ffn="experts"),
)

TABLES: Final = {"llama": _LLAMA}
"""The architectures whose tensors are known one by one."""


def skeleton(architecture: str, hyperparameters: Hyperparameters) -> tuple[ExpectedTensor, ...]:
    """Every tensor the model must or may have; empty for an architecture without a table."""
    ffn = "experts" if hyperparameters.n_expert else "dense"
    rows = [row for row in TABLES.get(architecture, ()) if row.ffn in (None, ffn)]
    return tuple(_worked_out(rows, hyperparameters))


def _worked_out(rows: list[Row], hyperparameters: Hyperparameters) -> Iterator[ExpectedTensor]:
    for block in range(hyperparameters.n_layer or 0):
        widths = _widths(hyperparameters, block)
        yield from (_expected(row, widths, block) for row in rows if "{}" in row.name)
    widths = _widths(hyperparameters, None)
    yield from (_expected(row, widths, None) for row in rows if "{}" not in row.name)


def _expected(row: Row, widths: dict[str, int | None], block: int | None) -> ExpectedTensor:
    name = row.name.format(block)
    return ExpectedTensor(
        name=name,
        layer=layer_of(name),
        dimensions=tuple(widths[width] for width in row.dimensions),
        required=row.required,
        instead=row.instead and row.instead.format(block),
    )


def _widths(hyperparameters: Hyperparameters, block: int | None) -> dict[str, int | None]:
    """Work out the names in a table's dimensions, for one block or (None) outside of the blocks."""

    def here(values: PerLayer | None) -> int | None:
        return values[block] if values is not None and block is not None else None

    q = _times(here(hyperparameters.n_head), hyperparameters.n_embd_head_k)
    k = _times(here(hyperparameters.n_head_kv), hyperparameters.n_embd_head_k)
    v = _times(here(hyperparameters.n_head_kv), hyperparameters.n_embd_head_v)
    n_ff, n_ff_exp = here(hyperparameters.n_ff), here(hyperparameters.n_ff_exp)
    return {
        "n_embd": hyperparameters.n_embd,
        "n_vocab": hyperparameters.n_vocab,
        "n_embd_q": q,
        "n_embd_k": k,
        "n_embd_v": v,
        "n_embd_qkv": None if q is None or k is None or v is None else q + k + v,
        "n_ff": n_ff,
        # llama.cpp takes n_ff for a llama's experts; where a file gives them another width, trust neither.
        "n_ff_exp": n_ff if n_ff_exp in (None, n_ff) else None,
        "n_expert": hyperparameters.n_expert,
    }


def _times(count: int | None, width: int | None) -> int | None:
    return None if count is None or width is None else count * width
