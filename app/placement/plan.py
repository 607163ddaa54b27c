"""Which layers go where, and whether they fit: `plan` decides, and says why with numbers. All sizes are in bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import DoesNotFit, InvalidValue
from app.model import Layer, LayerKey, Role
from app.placement.deal import Assignment, Budget, deal, usable
from app.placement.request import HostMode, PlacementRequest
from app.placement.slabs import HOST, Placement, slab_bytes, slab_of, slab_sums
from app.placement.strategies import offloaded_blocks


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """What the plan needs of one device; `available_bytes` has the margin taken off, and is None where unknown."""

    id: str
    weights_bytes: int
    padding_bytes: int
    context_bytes: int
    compute_bytes: int
    required_bytes: int
    available_bytes: int | None
    fits: bool


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """Where one layer will be: `device`, or None where it is on several; `devices` has its bytes by id."""

    layer: LayerKey
    role: Role
    device: str | None
    devices: dict[str, int]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement and what it needs. `largest_n_gpu_layers` is None where not even 0 would fit."""

    fits: bool
    strategy: str
    n_gpu_layers: int
    largest_n_gpu_layers: int | None
    devices: tuple[DevicePlan, ...]
    layers: tuple[LayerPlan, ...]
    placement: Placement

    def require_fit(self) -> None:
        """Raise DoesNotFit, with the numbers of the device that is shortest, unless the plan fits."""
        if self.fits:
            return
        worst = max(
            (device for device in self.devices if not device.fits),
            key=lambda device: device.required_bytes - (device.available_bytes or 0),
        )
        raise DoesNotFit(
            device=worst.id,
            required_bytes=worst.required_bytes,
            available_bytes=worst.available_bytes or 0,
            largest_n_gpu_layers=self.largest_n_gpu_layers,
        )


def plan(
    layers: Sequence[Layer],
    budgets: Sequence[Budget],
    request: PlacementRequest,
    *,
    host_bytes: int | None = None,
    current: Placement | None = None,
) -> Plan:
    """Decide where each of a model's `layers` goes.

    `budgets` are the accelerators that the request allows, in order; `host_bytes` is what the host has available.
    With `current`, layers that are to be on a device and are on one stay there if that fits. n is chosen as for a
    fresh load. Raises InvalidValue for an n that the model does not have, a device that is named twice, or a split
    that does not match `budgets`.
    """
    planner = _Planner(layers, budgets, request, host_bytes)
    n = planner.checked_n()
    largest = planner.largest_n()
    if n is None:
        n = largest or 0
    assignment = planner.fresh(n)
    if current is not None:
        sticky = planner.beside(n, current)
        if planner.fits(sticky):
            assignment = sticky
            largest = max(n, largest or 0)  # what is there already may fit where a fresh plan would not
    return planner.describe(n, assignment, largest)


class _Planner:
    """One planning run: the inputs with the margin taken off, and the steps of `plan` by name."""

    def __init__(
        self, layers: Sequence[Layer], budgets: Sequence[Budget], request: PlacementRequest, host_bytes: int | None
    ) -> None:
        weights = request.split_weights
        if isinstance(weights, tuple) and len(weights) != len(budgets):
            raise InvalidValue(
                f"split.weights: {len(weights)} weights for {len(budgets)} devices", param="split.weights"
            )
        if len({budget.device for budget in budgets}) < len(budgets):
            names = ", ".join(budget.device for budget in budgets)
            raise InvalidValue(f"devices: {names} names a device twice", param="devices")
        self.layers = layers
        self.blocks = [layer.key for layer in layers if layer.role is Role.BLOCK]
        self.size_bytes = {layer.key: layer.size_bytes for layer in layers}
        self.slab_bytes = {layer.key: slab_bytes(layer) for layer in layers}
        self.request = request
        self.budgets = [Budget(b.device, max(0, b.available_bytes - request.margin_bytes)) for b in budgets]
        self.host_bytes = None if host_bytes is None else max(0, host_bytes - request.margin_bytes)
        self.usable = usable(self.budgets, request, {})

    def checked_n(self) -> int | None:
        """The n that was asked for, or None for `auto`."""
        n_layer = len(self.blocks)
        n = n_layer if self.request.n_gpu_layers == "all" else self.request.n_gpu_layers
        if isinstance(n, str):
            return None
        if not 0 <= n <= n_layer:
            raise InvalidValue(f"n_gpu_layers: {n} is not between 0 and the model's {n_layer}", param="n_gpu_layers")
        if n and not self.usable:
            raise InvalidValue(f"n_gpu_layers: {n} layers need a device, and there is none", param="n_gpu_layers")
        return n

    def largest_n(self) -> int | None:
        """The largest n whose fresh plan fits; a plain scan from the top, for a plan by count is not monotone in n."""
        top = len(self.blocks) if self.usable else 0
        return next((n for n in range(top, -1, -1) if self.fits(self.fresh(n))), None)

    def offloaded(self, n: int) -> list[Layer]:
        """The layers that are to be on a device, in order."""
        if n == 0:
            return []
        blocks = {self.blocks[index] for index in offloaded_blocks(self.request.strategy, n, len(self.blocks))}
        return [layer for layer in self.layers if layer.role is not Role.BLOCK or layer.key in blocks]

    def fresh(self, n: int) -> Assignment:
        """The placement of a model that is not loaded."""
        return deal(self.offloaded(n), self.slab_bytes, self.usable, self.request, {})

    def beside(self, n: int, current: Placement) -> Assignment:
        """The placement in which every offloaded layer that is on a usable device already stays there."""
        layers = self.offloaded(n)
        there = {slab.layer: slab for slab in current.slabs}
        here = [slab for layer in layers if (slab := there.get(layer.key)) and slab == slab_of(layer, slab.device)]
        budgets = usable(self.budgets, self.request, slab_sums(here))
        ids = {budget.device for budget in budgets}
        kept = {slab.layer: slab.device for slab in here if slab.device in ids}
        return deal(layers, self.slab_bytes, budgets, self.request, kept)

    def needed(self, assignment: Assignment) -> dict[str, int]:
        """Slab bytes by device id; with a buffered host, the host's too."""
        needed = dict.fromkeys((HOST, *(budget.device for budget in self.budgets)), 0)
        for layer in self.layers:
            device = assignment.get(layer.key, HOST)
            in_slab = device != HOST or self.request.host is HostMode.BUFFERED
            needed[device] += (self.slab_bytes if in_slab else self.size_bytes)[layer.key]
        return needed

    def fits(self, assignment: Assignment) -> bool:
        """Whether every device has room for what it is assigned."""
        needed = self.needed(assignment)
        return self.host_fits(needed[HOST]) and all(needed[b.device] <= b.available_bytes for b in self.budgets)

    def host_fits(self, needed_bytes: int) -> bool:
        """Mapped pages need no room, they come and go; locked and copied bytes do."""
        mapped = self.request.host is HostMode.MMAP
        return mapped or self.host_bytes is None or needed_bytes <= self.host_bytes

    def describe(self, n: int, assignment: Assignment, largest: int | None) -> Plan:
        """The plan of an assignment, with its numbers."""
        buffered = self.request.host is HostMode.BUFFERED
        slabs = tuple(
            slab_of(layer, assignment.get(layer.key, HOST))
            for layer in self.layers
            if self.slab_bytes[layer.key] and (buffered or layer.key in assignment)
        )
        placement = Placement(self.request.strategy, n, slabs)
        weights = placement.device_bytes(sum(self.size_bytes.values()))
        needed = self.needed(assignment)
        rooms: list[tuple[str, int | None]] = [(b.device, b.available_bytes) for b in self.budgets]
        devices = tuple(
            DevicePlan(
                id=id_,
                weights_bytes=weights.get(id_, 0),
                padding_bytes=needed[id_] - weights.get(id_, 0),
                context_bytes=0,
                compute_bytes=0,
                required_bytes=needed[id_],
                available_bytes=room,
                fits=self.host_fits(needed[id_]) if id_ == HOST else room is None or needed[id_] <= room,
            )
            for id_, room in [*rooms, (HOST, self.host_bytes)]
        )
        return Plan(
            fits=all(device.fits for device in devices),
            strategy=self.request.strategy,
            n_gpu_layers=n,
            largest_n_gpu_layers=largest,
            devices=devices,
            layers=tuple(_layer_plan(layer, assignment.get(layer.key, HOST)) for layer in self.layers),
            placement=placement,
        )


def _layer_plan(layer: Layer, device: str) -> LayerPlan:
    return LayerPlan(layer.key, layer.role, device, {device: layer.size_bytes}, layer.size_bytes)
