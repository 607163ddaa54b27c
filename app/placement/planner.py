"""The planner: `plan` decides which layers go where, `fits` says only whether they can. Pure; sizes in bytes."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import takewhile
from operator import methodcaller

from app.model import Layer, Tensor
from app.placement.candidates import Scale, Subject
from app.placement.deal import Budget
from app.placement.memory import Needs
from app.placement.plan import Advice, Plan, Row
from app.placement.planning import Planning, prepared
from app.placement.request import PlacementRequest, Strategy
from app.placement.slabs import Placement
from app.placement.strategies import BEST_OF

Choice = Callable[..., Planning]
"""The planning of one strategy, by `n_cpu_moe`; without one, by that of the request."""


def plan(
    layers: Sequence[Layer],
    budgets: Sequence[Budget],
    request: PlacementRequest,
    *,
    host_bytes: int | None = None,
    current: Placement | None = None,
    needs: Needs | None = None,
    output: Tensor | None = None,
    expert_share: float = 1.0,
    table: bool = False,
) -> Plan:
    """Decide where each of a model's `layers` goes.

    `budgets` are the accelerators that the request allows, in order; `host_bytes` is what the host has available.
    With `current`, layers that are to be on a device and are on one stay there if that fits. n is chosen as for a
    fresh load. `needs` is what an engine needs beside the weights, `output` the matrix that makes the logits,
    `expert_share` the part of the experts that one token uses. With `table` every other n is weighed as well.

    Raises InvalidValue for an n that the model does not have, a device that is named twice, an override's device
    that is not among them, or a split that does not match `budgets`.
    """
    subject = Subject(tuple(layers), needs, output, expert_share)
    choices = _choices(subject, budgets, request, host_bytes, current)
    settled = [_with_experts_apart(choice) for choice in choices]
    chosen, why = settled[0] if len(settled) == 1 else max(settled, key=lambda one: one[0].worth)
    found = chosen.decided

    def fit_whole(others: Sequence[Layer]) -> bool:
        # What `best` chooses from makes no difference where all layers go.
        every = replace(request, n_gpu_layers="all", strategy=chosen.request.strategy)
        return _is_feasible(_with_sizes_of(subject, others), budgets, every, host_bytes, None)

    found = replace(found, advice=(*why, *found.advice, *chosen.size_advice(fit_whole)))
    if not table:
        return found
    return replace(found, table=_table([choice(n_cpu_moe=chosen.request.n_cpu_moe) for choice in choices]))


def fits(
    layers: Sequence[Layer],
    budgets: Sequence[Budget],
    request: PlacementRequest,
    *,
    host_bytes: int | None = None,
    current: Placement | None = None,
    needs: Needs | None = None,
    output: Tensor | None = None,
    expert_share: float = 1.0,
) -> bool:
    """Whether the plan of all this would fit: exactly what `plan` says, for a fraction of its time.

    For whoever asks about many budgets. Raises what `plan` raises.
    """
    return _is_feasible(Subject(tuple(layers), needs, output, expert_share), budgets, request, host_bytes, current)


def _is_feasible(
    subject: Subject,
    budgets: Sequence[Budget],
    request: PlacementRequest,
    host_bytes: int | None,
    current: Placement | None,
) -> bool:
    choices = _choices(subject, budgets, request, host_bytes, current)
    return any(choice().is_feasible or _with_experts_apart(choice)[0].is_feasible for choice in choices)


def _with_sizes_of(subject: Subject, others: Sequence[Layer]) -> Subject:
    """The same model with these layers, its output's matrix among them."""
    tensors = (tensor for layer in others for tensor in layer.tensors)
    output = next((tensor for tensor in tensors if subject.output and tensor.name == subject.output.name), None)
    return replace(subject, layers=tuple(others), output=output)


def _choices(
    subject: Subject,
    budgets: Sequence[Budget],
    request: PlacementRequest,
    host_bytes: int | None,
    current: Placement | None,
) -> list[Choice]:
    """The planning of each strategy that the request leaves to choose from."""

    @cache
    def scale_for(n_cpu_moe: int) -> Scale:
        if n_cpu_moe != request.n_cpu_moe and 0 < n_cpu_moe < subject.n_blocks:
            return scale_for(0).with_experts_of(scale_for(subject.n_blocks), n_cpu_moe)
        return prepared(subject, budgets, replace(request, n_cpu_moe=n_cpu_moe), host_bytes)

    def planning(strategy: Strategy, n_cpu_moe: int = request.n_cpu_moe) -> Planning:
        wanted = replace(request, strategy=strategy, n_cpu_moe=n_cpu_moe)
        return Planning(scale_for(n_cpu_moe), wanted, current)

    strategies = BEST_OF if request.strategy is Strategy.BEST else (request.strategy,)
    return [cache(partial(planning, strategy)) for strategy in strategies]


def _with_experts_apart(choice: Choice) -> tuple[Planning, tuple[Advice, ...]]:
    """Keep the experts of as few blocks as possible on the host, where `auto` brings in more layers by that."""
    whole = choice()
    blocks = whole.scale.subject.blocks_with_experts
    free = whole.request.n_gpu_layers == "auto" and not whole.request.n_cpu_moe
    if not free or not blocks or not whole.usable:
        return whole, ()
    n = whole.largest_n or 0
    for most in takewhile(lambda most: most > n, whole.down_from_top()):
        # With more experts apart the devices need less and the host more: if the fewest are too many, so are all.
        enough = bisect_left(blocks, True, key=lambda last: choice(n_cpu_moe=last + 1).devices_fit(most))
        if enough < len(blocks) and (chosen := choice(n_cpu_moe=blocks[enough] + 1)).fits(most):
            message = (
                f"the experts of the first {blocks[enough] + 1} blocks stay on the host, so that {most} of {whole.top} "
                f"layers are on the devices with all else; with their experts it would be {n}"
            )
            return chosen, (Advice("experts_on_host", message),)
    return whole, ()


def _table(choices: Sequence[Planning]) -> tuple[Row, ...]:
    """What every n would need, as a fresh plan by the best of these strategies."""
    top = choices[0].top if choices[0].usable else 0

    return tuple(max(choices, key=methodcaller("fresh_worth", n)).row(n) for n in range(top + 1))
