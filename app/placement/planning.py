"""One planning run: a subject, the budgets with the margin taken off, and the steps of a decision by name."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property
from itertools import takewhile

from app.errors import InvalidValue
from app.model import Layer, LayerKey, Role
from app.placement.candidates import Scale, Sizes, Subject
from app.placement.deal import Assignment, Budget, deal, usable
from app.placement.footprints import Footprints
from app.placement.layout import Layout
from app.placement.llamacpp import place, server_arguments
from app.placement.overrides import Overrides
from app.placement.plan import Advice, Plan, Row
from app.placement.quantizations import size_advice
from app.placement.request import PlacementRequest, SplitMode, Strategy
from app.placement.rows import RowCut
from app.placement.runs import Runs
from app.placement.slabs import HOST, Placement, Slab, slab_sums
from app.placement.strategies import offloaded_blocks


class Planning:
    """The choices for one strategy. `current` is where the layers are now, if anywhere."""

    def __init__(self, scale: Scale, request: PlacementRequest, current: Placement | None) -> None:
        self.scale = scale
        self.request = request
        self.current = current
        self.blocks = [layer.key for layer in scale.subject.layers if layer.role is Role.BLOCK]
        self.usable = usable(scale.budgets, request, {})
        self.fresh = cache(self._fresh)
        """The placement of a model that is not loaded, by n."""
        self.weighed = cache(lambda n: scale.weigh(self.fresh(n)))
        """What that comes to."""

    @property
    def top(self) -> int:
        """The most that n can be."""
        return len(self.blocks) + (self.request.strategy is Strategy.LLAMA_CPP)

    @cached_property
    def n(self) -> int:
        """The n that was asked for, or for `auto` the largest that fits."""
        asked = self._checked_n()
        return (self.largest_n or 0) if asked is None else asked

    @cached_property
    def assignment(self) -> Assignment:
        """Where the layers are to be: beside those that are there already if that fits, else as in a fresh plan."""
        movable = self.request.strategy is not Strategy.LLAMA_CPP and self.request.split_mode is not SplitMode.ROW
        if self.current is not None and movable:
            sticky = self.beside(self.n, self.current)
            if self.scale.fits(self.scale.weigh(sticky)):
                return sticky
        return self.fresh(self.n)

    @cached_property
    def sizes(self) -> Sizes:
        """What it comes to where the layers are to be."""
        return self.scale.weigh(self.assignment)

    @cached_property
    def decided(self) -> Plan:
        """The plan for the strategy of the request."""
        largest = self.largest_n
        if self.n > (largest or 0) and self.scale.fits(self.sizes):
            largest = self.n  # what is there already may fit where a fresh plan would not
        return self.describe(self.n, self.assignment, largest)

    @property
    def is_feasible(self) -> bool:
        """Whether what is decided fits; for an n that was asked for, no other n is looked at."""
        if self._checked_n() is None:
            return self.fits(0) or self.largest_n is not None
        return self.scale.has_room_for(self._leaving(self.n)) and self.scale.fits(self.sizes)

    def _checked_n(self) -> int | None:
        """The n that was asked for, or None for `auto`."""
        n = self.top if self.request.n_gpu_layers == "all" else self.request.n_gpu_layers
        if isinstance(n, str):
            return None
        if not 0 <= n <= self.top:
            raise InvalidValue(f"n_gpu_layers: {n} is not between 0 and the model's {self.top}", param="n_gpu_layers")
        if n and not self.usable:
            raise InvalidValue(f"n_gpu_layers: {n} layers need a device, and there is none", param="n_gpu_layers")
        return n

    @property
    def worth(self) -> tuple[bool, int]:
        """What makes a strategy the best: that it fits, then the bytes that one token reads from accelerators."""
        return self.scale.fits(self.sizes), self.scale.reads_on_devices(self.assignment)

    def fresh_worth(self, n: int) -> tuple[bool, int]:
        """The same of a fresh plan of n layers."""
        return self.scale.fits(self.weighed(n)), self.scale.reads_on_devices(self.fresh(n))

    @cached_property
    def largest_n(self) -> int | None:
        """The largest n whose fresh plan fits; a plain scan from the top, for a plan by count is not monotone in n."""
        return next(filter(self.fits, self.down_from_top()), None)

    def down_from_top(self) -> Iterator[int]:
        """Every n from the top on, until too much is left on the host: with fewer layers away there is only more."""
        return takewhile(self._host_may_fit, range(self.top if self.usable else 0, -1, -1))

    def _host_may_fit(self, n: int) -> bool:
        left = self.scale.footprints.left_on_host(frozenset(self._leaving(n)), buffered=self.scale.buffered)
        return self.scale.host_fits(left)

    def fits(self, n: int) -> bool:
        """Whether the fresh plan of n layers fits."""
        return self.devices_fit(n) and self.scale.fits(self.weighed(n))

    def devices_fit(self, n: int) -> bool:
        """Whether the accelerators have room for the fresh plan of n layers."""
        return self.scale.has_room_for(self._leaving(n)) and self.scale.devices_fit(self.weighed(n))

    def _leaving(self, n: int) -> Iterable[LayerKey]:
        """The keys of the layers that leave the host."""
        if self.request.strategy is Strategy.LLAMA_CPP:
            return self._as_llama_cpp(n)
        return (layer.key for layer in self.offloaded(n))

    def _fresh(self, n: int) -> Assignment:
        if self.request.strategy is Strategy.LLAMA_CPP:
            return self._as_llama_cpp(n)
        return self._dealt(self.offloaded(n), self.usable, {})

    def beside(self, n: int, current: Placement) -> Assignment:
        """The placement in which every offloaded layer that is on a usable device already stays there."""
        layers = self.offloaded(n)
        slabs: dict[LayerKey, list[Slab]] = {}
        for slab in current.slabs:
            slabs.setdefault(slab.layer, []).append(slab)
        keys = [layer.key for layer in layers]
        there = {key: device for key in keys if (device := self._stays_on(key, slabs.get(key, [])))}
        held = slab_sums(slab for slab in current.slabs if there.get(slab.layer) == slab.device)
        budgets = usable(self.scale.budgets, self.request, held)
        ids = {budget.device for budget in budgets}
        return self._dealt(layers, budgets, {key: device for key, device in there.items() if device in ids})

    def offloaded(self, n: int) -> list[Layer]:
        """The layers that are to be on a device, in order."""
        if n == 0:
            return []
        chosen = {self.blocks[index] for index in offloaded_blocks(self.request.strategy, n, len(self.blocks))}
        return [layer for layer in self.scale.subject.layers if layer.role is not Role.BLOCK or layer.key in chosen]

    def describe(self, n: int, assignment: Assignment, largest: int | None) -> Plan:
        """The plan of an assignment, with its numbers."""
        rows = self.scale.rows(self.sizes)
        arguments = self._server_arguments(n)
        advice = () if arguments else (_no_arguments(self.request),)
        return Plan(
            fits=all(row.fits for row in rows),
            strategy=self.request.strategy,
            n_gpu_layers=n,
            n_cpu_moe=self.request.n_cpu_moe,
            largest_n_gpu_layers=largest,
            devices=rows,
            layers=self.scale.layers(assignment),
            placement=self.scale.placement(self.request.strategy, n, self.request.n_cpu_moe, assignment),
            advice=advice,
            llama_server_args=arguments,
        )

    def row(self, n: int) -> Row:
        """What n layers would need, as a fresh plan."""
        devices = self.scale.rows(self.weighed(n))
        return Row(n, all(device.fits for device in devices), devices)

    def size_advice(self, fit_whole: Callable[[Sequence[Layer]], bool]) -> tuple[Advice, ...]:
        """What of this model, in which quantisation, the devices are good for: those of which all layers fit."""
        if not self.usable:
            return ()
        whole = self.weighed(self.top)
        room = sum(b.available_bytes - whole.context[b.device] - whole.compute[b.device] for b in self.usable)
        largest = self.decided.largest_n_gpu_layers or 0
        layers, output = self.scale.subject.layers, self.scale.subject.output
        return size_advice(
            layers, output, room_bytes=max(0, room), n_gpu_layers=largest, top=self.top, fit_whole=fit_whole
        )

    def _dealt(self, layers: Sequence[Layer], budgets: Sequence[Budget], kept: Assignment) -> Assignment:
        """Deal by what a layer brings: its slab, its cache, its part of the graph; what is fixed is not room."""

        def by_room() -> Assignment:
            keys, fixed = [layer.key for layer in layers], self.scale.fixed_bytes
            rooms = {b.device: max(0, b.available_bytes - fixed.get(b.device, 0)) for b in budgets}
            return Runs(keys, self.scale.brought_bytes, rooms, kept, self.scale.growth(keys)).dealt()

        return deal(layers, budgets, self.request, kept, by_room)

    def _stays_on(self, key: LayerKey, held: list[Slab]) -> str | None:
        """The device on which the layer is, whole and as it would be put there; None where it is on none."""
        buffered = self.scale.buffered
        for device in dict.fromkeys(slab.device for slab in held if slab.device != HOST):
            if self.scale.footprints.slabs(key, device, buffered=buffered) == held:
                return device
        return None

    def _layout(self, n: int) -> Layout:
        """llama.cpp's own dealing; its weights are prefix sums over the units, the output among them."""
        weights = self.request.split_weights
        if isinstance(weights, tuple):
            budgets, shares = self.scale.budgets, [float(weight) for weight in weights]
        else:
            budgets = self.usable
            shares = [float(b.available_bytes) if weights == "free" else 1.0 for b in budgets]
        whole = shares if any(shares) else [1.0] * len(shares)
        return place(len(self.blocks), n, [budget.device for budget in budgets], whole)

    def _as_llama_cpp(self, n: int) -> Assignment:
        layout = self._layout(n)
        places = {**dict(zip(self.blocks, layout.blocks, strict=True)), "output": layout.output}
        return {key: device for key, device in places.items() if device != HOST and key in self.scale.subject.keys}

    def _server_arguments(self, n: int) -> tuple[str, ...] | None:
        if self.request.strategy is not Strategy.LLAMA_CPP:
            return None
        return server_arguments(self._layout(n), self.request.overrides, self.request.n_cpu_moe, self.request.context)


def prepared(subject: Subject, budgets: Sequence[Budget], request: PlacementRequest, host_bytes: int | None) -> Scale:
    """Take the margin off the budgets, and put every tensor that is placed apart where it goes, for any strategy.

    Raises InvalidValue for what cannot be asked of the subject on these budgets.
    """
    _check(budgets, request)
    if request.n_cpu_moe > subject.n_blocks:
        message = f"n_cpu_moe: {request.n_cpu_moe} is not between 0 and the model's {subject.n_blocks}"
        raise InvalidValue(message, param="n_cpu_moe")
    margin = request.margin_bytes
    budgets = [Budget(budget.device, max(0, budget.available_bytes - margin)) for budget in budgets]
    overrides = Overrides(request.overrides, request.n_cpu_moe)
    footprints = Footprints(subject.layers, overrides, _cut(budgets, request))
    return Scale(
        subject, budgets, footprints, request.host, None if host_bytes is None else max(0, host_bytes - margin)
    )


def _cut(budgets: Sequence[Budget], request: PlacementRequest) -> RowCut | None:
    used = usable(budgets, request, {})
    if request.split_mode is not SplitMode.ROW or not used:
        return None
    weights = request.split_weights
    if isinstance(weights, tuple):
        shares = [weight for weight in weights if weight > 0]
    else:
        shares = [float(budget.available_bytes) if weights == "free" else 1.0 for budget in used]
    whole = shares if any(shares) else [1.0] * len(shares)
    return RowCut(tuple(budget.device for budget in used), tuple(whole))


def _check(budgets: Sequence[Budget], request: PlacementRequest) -> None:
    """Raise InvalidValue for what does not go together."""
    ids = [budget.device for budget in budgets]
    weights = request.split_weights
    if isinstance(weights, tuple) and len(weights) != len(budgets):
        raise InvalidValue(f"split.weights: {len(weights)} weights for {len(budgets)} devices", param="split.weights")
    if isinstance(weights, tuple) and weights and not any(weights):
        raise InvalidValue("split.weights: all are 0", param="split.weights")
    if len(set(ids)) < len(ids):
        raise InvalidValue(f"devices: {', '.join(ids)} names a device twice", param="devices")
    if request.strategy is Strategy.LLAMA_CPP and request.split_mode is SplitMode.ROW:
        raise InvalidValue("split.mode: llama.cpp has no row split on GPUs any more", param="split.mode")
    for index, override in enumerate(request.overrides):
        if override.device not in (HOST, *ids):
            known = ", ".join((*ids, HOST))
            message = f"overrides[{index}].device: {override.device} is not one of {known}"
            raise InvalidValue(message, param=f"overrides[{index}].device")


def _no_arguments(request: PlacementRequest) -> Advice:
    if request.strategy is Strategy.LLAMA_CPP:
        reason = "llama-server's -ot is a list of assignments: a pattern with a comma or an equals sign cannot be said"
    else:
        reason = f"llama.cpp cannot place layers by the strategy {request.strategy.value!r}: it offloads the last ones"
    return Advice("no_llama_server_args", reason)
