"""The planner: `plan` decides which layers go where. Pure; all sizes are in bytes."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from app.model import Layer, Tensor
from app.placement.candidates import Subject
from app.placement.deal import Budget
from app.placement.memory import Needs
from app.placement.plan import Advice, Plan
from app.placement.planning import Planning
from app.placement.request import PlacementRequest, Strategy
from app.placement.slabs import Placement


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

    def planner_for(n_cpu_moe: int) -> Planning:
        return _best(subject, budgets, replace(request, n_cpu_moe=n_cpu_moe), host_bytes, current)

    planner = planner_for(request.n_cpu_moe)
    found = planner.decide(current)
    if request.n_gpu_layers == "auto" and not request.n_cpu_moe and found.n_gpu_layers < planner.top:
        apart = _experts_apart(planner, found.n_gpu_layers, planner_for)
        if apart is not None:
            planner, why = apart
            found = planner.decide(current)
            found = replace(found, advice=(why, *found.advice))
    found = replace(found, advice=(*found.advice, *planner.size_advice(found)))
    return replace(found, table=planner.table()) if table else found


def _best(
    subject: Subject,
    budgets: Sequence[Budget],
    request: PlacementRequest,
    host_bytes: int | None,
    current: Placement | None,
) -> Planning:
    """The planner for the strategy that was asked for; for `best`, the one that keeps most reads on the devices."""
    if request.strategy is not Strategy.BEST:
        return Planning(subject, budgets, request, host_bytes)
    strategies = (Strategy.FIRST, Strategy.LAST, Strategy.ENDS)
    planners = [Planning(subject, budgets, replace(request, strategy=each), host_bytes) for each in strategies]

    def worth(planner: Planning) -> tuple[bool, int]:
        found = planner.decide(current)
        return found.fits, planner.reads_on_devices(found)

    return max(planners, key=worth)


def _experts_apart(planner: Planning, n: int, planner_for: Callable[[int], Planning]) -> tuple[Planning, Advice] | None:
    """A planner that keeps the experts of as few blocks as possible on the host, where that brings in more layers."""
    n_blocks = len(planner.blocks)
    if not planner.usable or not planner.subject.has_experts:
        return None
    most = planner_for(n_blocks).largest_n() or 0
    if most <= n:
        return None
    fewest = 1 + bisect_left(range(1, n_blocks), True, key=lambda k: (planner_for(k).largest_n() or 0) >= most)
    message = (
        f"the experts of the first {fewest} blocks stay on the host, so that {most} of {planner.top} layers are "
        f"on the devices with all else; with their experts it would be {n}"
    )
    return planner_for(fewest), Advice("experts_on_host", message)
