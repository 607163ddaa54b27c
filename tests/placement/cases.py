"""Whole planning cases: models with experts, tied outputs and huge embeddings, and every kind of request on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from hypothesis import strategies as st

from app.model import Layer, LayerKey, Role, Tensor, group
from app.placement import HOST, Budget, HostMode, Override, PlacementRequest, Plan, SplitMode, Strategy, plan
from tests.placement.layers import devices, total

PATTERNS = ("attn", r"blk\.0\.", "ffn_up", r"blk\.[12]\..*_exps", "token_embd", "output", r"norm\.weight$", "nothing")
rows_counts = st.sampled_from([1, 2, 7, 16, 30, 45, 60])
"""How many rows a matrix has."""


@dataclass(frozen=True)
class Case:
    """All that a plan is made of."""

    layers: list[Layer]
    budgets: list[Budget]
    request: PlacementRequest
    host_bytes: int | None = None
    expert_share: float = 1.0

    @property
    def output(self) -> Tensor | None:
        """The matrix that makes the logits."""
        tensors = {tensor.name: tensor for layer in self.layers for tensor in layer.tensors}
        return tensors.get("output.weight") or tensors.get("token_embd.weight")

    @property
    def has_experts(self) -> bool:
        """Whether the model has any."""
        return any("_exps" in tensor.name for layer in self.layers for tensor in layer.tensors)

    @property
    def top(self) -> int:
        """The most that n can be."""
        if not self.budgets:
            return 0
        return sum(layer.role is Role.BLOCK for layer in self.layers) + (self.request.strategy is Strategy.LLAMA_CPP)

    def plan(self, *, table: bool = False, **changes: Any) -> Plan:
        """Plan it, the request changed by these fields."""
        return plan(
            self.layers,
            self.budgets,
            replace(self.request, **changes),
            host_bytes=self.host_bytes,
            output=self.output,
            expert_share=self.expert_share,
            table=table,
        )

    def largest(self, **changes: Any) -> int | None:
        """Try every n from the top: the first whose own plan fits."""
        return next((n for n in range(self.top, -1, -1) if self.plan(n_gpu_layers=n, **changes).fits), None)


def tensor(name: str, key: LayerKey, *dimensions: int) -> Tensor:
    """Make a tensor of one byte for each weight."""
    return Tensor(name, "I8", dimensions, prod(dimensions), prod(dimensions), file=0, offset=0, layer=key)


@st.composite
def whole_models(draw: st.DrawFn) -> list[Layer]:
    """Draw a model: uneven blocks, with experts or not, a tied output or its own, now and then a huge embedding."""
    width, experts = draw(st.sampled_from([1, 16, 33])), draw(st.sampled_from([0, 0, 4]))
    vocabulary = draw(st.one_of(rows_counts, rows_counts, st.just(400)))
    tensors = [tensor("token_embd.weight", "input", width, vocabulary)]
    for block in range(draw(st.sampled_from([1, 3, 4, 5]))):
        tensors.append(tensor(f"blk.{block}.attn_norm.weight", block, width))
        tensors.append(tensor(f"blk.{block}.attn_q.weight", block, width, draw(rows_counts)))
        apart = ("_exps", (experts,)) if experts else ("", ())
        tensors += [
            tensor(f"blk.{block}.ffn_{part}{apart[0]}.weight", block, width, draw(rows_counts), *apart[1])
            for part in ("up", "down")
        ]
    if draw(st.booleans()):
        tensors.append(tensor("output_norm.weight", "output", width))
    if draw(st.booleans()):
        tensors.append(tensor("output.weight", "output", width, vocabulary))
    return list(group(tensors))


@st.composite
def cases(draw: st.DrawFn, *, strategies: Sequence[Strategy] = tuple(Strategy), experts: bool = True) -> Case:
    """Draw what `plan` accepts."""
    layers = draw(whole_models())
    n_layer = sum(layer.role is Role.BLOCK for layer in layers)
    # Near the model's size is where plans fit with some layers and not with others.
    count = draw(st.sampled_from([0, 1, 1, 2, 2, 3]))
    rooms = st.sampled_from([0, 6, 9, 12, 14, 16, 18, 24]).map(
        lambda sixteenths: total(layers) * sixteenths // 16 // count + 256
    )
    budgets = devices(*draw(st.lists(rooms, min_size=count, max_size=count)))
    host_bytes = draw(st.sampled_from([None, None, total(layers) // 2, total(layers) + 4000]))
    names = tuple(budget.device for budget in budgets)
    strategy = draw(st.sampled_from(strategies))
    modes = [mode for mode in SplitMode if not (mode is SplitMode.ROW and strategy is Strategy.LLAMA_CPP)]
    numbers = st.one_of(st.integers(0, 3).map(float), st.floats(0, 1e308))
    weights = st.lists(numbers, min_size=len(names), max_size=len(names)).filter(any).map(tuple)
    overrides = st.builds(Override, st.sampled_from(PATTERNS), st.sampled_from((HOST, *names)))
    request = PlacementRequest(
        n_gpu_layers=draw(st.one_of(st.just("auto"), st.integers(0, n_layer if budgets else 0))),
        strategy=strategy,
        devices=draw(st.sampled_from([None, names])),
        split_mode=draw(st.sampled_from(modes)),
        split_weights=draw(st.one_of(st.sampled_from(["free", "equal"]), weights if names else st.nothing())),
        margin_bytes=draw(st.sampled_from([0, 0, 1, 300])),
        host=draw(st.sampled_from([HostMode.MMAP, HostMode.BUFFERED])),
        overrides=tuple(draw(st.lists(overrides, max_size=2))),
        n_cpu_moe=draw(st.integers(0, n_layer)),
    )
    case = Case(layers, budgets, request, host_bytes, draw(st.sampled_from([1.0, 0.5])))
    return case if experts or not case.has_experts else replace(case, request=replace(request, n_cpu_moe=n_layer))
