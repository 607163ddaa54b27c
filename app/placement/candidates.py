"""One candidate: an assignment of layers to devices, and what it comes to on each of them. All sizes are in bytes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

from app.model import Layer, LayerKey, Role, Tensor
from app.placement.deal import Assignment, Budget
from app.placement.footprints import Footprints
from app.placement.graph import LOGITS, NOTHING, Share, pulled_bytes
from app.placement.layout import Layout
from app.placement.memory import Needs, compute_bytes, context_bytes, is_pipelined
from app.placement.overrides import is_expert
from app.placement.plan import DevicePlan, LayerPlan
from app.placement.request import HostMode
from app.placement.runs import WEIGHTS_ONLY, Growth
from app.placement.slabs import HOST, Part, Placement, Slab, slab_with


@dataclass(frozen=True)
class Subject:
    """What is planned: a model's layers, and what an engine needs beside them where that is to be planned too."""

    layers: tuple[Layer, ...]
    needs: Needs | None = None
    output: Tensor | None = None
    """The matrix that makes the logits; a tied one is the input's."""
    expert_share: float = 1.0
    """The part of the experts that one token uses."""

    @cached_property
    def keys(self) -> frozenset[LayerKey]:
        """Of all layers; and the output's where it has no tensors but uses the input's, which may have to be copied."""
        tied: set[LayerKey] = {"output"} if self.output and self.output.layer == "input" else set()
        return frozenset(tied.union(layer.key for layer in self.layers))

    @cached_property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return sum(layer.role is Role.BLOCK for layer in self.layers)

    @cached_property
    def blocks_with_experts(self) -> tuple[int, ...]:
        """The blocks whose experts could be kept apart: numbers beyond the count of blocks no `n_cpu_moe` reaches."""
        return tuple(
            layer.key
            for layer in self.layers
            if isinstance(layer.key, int) and layer.key < self.n_blocks and any(map(is_expert, layer.tensors))
        )

    def read_bytes(self, part: Part) -> int:
        """What one token reads of these bytes: of experts the used share, of an embedding that is not tied a row."""
        tensor = part.tensor
        if is_expert(tensor):
            return int(part.nbytes * self.expert_share)
        if tensor.layer == "input" and tensor != self.output and len(tensor.dimensions) > 1:
            return part.nbytes // max(1, tensor.dimensions[-1])
        return part.nbytes


@dataclass(frozen=True, slots=True)
class Sizes:
    """By device id, the host's included: tensor bytes, slab bytes, and what an engine needs beside them."""

    weights: dict[str, int]
    slabs: dict[str, int]
    context: dict[str, int]
    compute: dict[str, int]

    def required(self, device: str) -> int:
        """All that the device has to have room for."""
        return self.slabs[device] + self.context[device] + self.compute[device]


class Scale:
    """Weighs candidates of one subject, on one set of devices."""

    def __init__(
        self,
        subject: Subject,
        budgets: Sequence[Budget],
        footprints: Footprints,
        host: HostMode,
        host_bytes: int | None,
    ) -> None:
        self.subject = subject
        self.budgets = budgets
        self.footprints = footprints
        self.host = host
        self.host_bytes = host_bytes
        self._share_of = cache(self._share)

    def with_experts_of(self, apart: "Scale", n_blocks: int) -> "Scale":
        """A scale for which the first `n_blocks` blocks are placed as `apart` has them."""
        footprints = self.footprints.with_experts_of(apart.footprints, n_blocks)
        return Scale(self.subject, self.budgets, footprints, self.host, self.host_bytes)

    def layout(self, assignment: Assignment) -> Layout:
        """The candidate as an engine's accounting sees it."""
        needs, output = self.subject.needs, self.subject.output
        numbers = range(len(needs.kinds)) if needs else ()
        home = "output" if output is None or self.copied(assignment) else output.layer
        where = (self.footprints.override_of(output) if output else None) or assignment.get(home, HOST)
        layout = Layout(
            devices=tuple(budget.device for budget in self.budgets),
            blocks=tuple([assignment.get(number, HOST) for number in numbers]),
            output=where,
        )
        if not self.footprints.placed_apart:
            return layout
        networks = map(self.footprints.networks.get, numbers, layout.blocks)
        return replace(layout, experts=tuple(networks), overridden=True)

    def copied(self, assignment: Assignment) -> Tensor | None:
        """The tied embedding that the output's device has a copy of: only where the input stays behind it.

        An override finds the copy by the same name, and puts both in one place.
        """
        output = self.subject.output
        if output is None or output.layer != "input" or self.footprints.override_of(output):
            return None
        return output if "output" in assignment and "input" not in assignment else None

    def weigh(self, assignment: Assignment) -> Sizes:
        """What the candidate comes to. The host's slabs are its plain bytes unless it keeps a copy."""
        weights = dict.fromkeys((HOST, *(budget.device for budget in self.budgets)), 0)
        slabs = dict(weights)
        home, away = self.footprints.home, self.footprints.away
        for key in home:
            device = assignment.get(key, HOST)
            along, fixed = home[key] if device == HOST else away[key]
            weights[device] += along.weights
            slabs[device] += along.slab
            for holder, need in fixed.items() if fixed else ():
                weights[holder] += need.weights
                slabs[holder] += need.slab
        if copied := self.copied(assignment):
            weights[assignment["output"]] += copied.nbytes
            slabs[assignment["output"]] += slab_with("output", HOST, [Part(copied, 0, copied.nbytes)]).nbytes
        if not self.buffered:
            slabs[HOST] = weights[HOST]
        nothing = dict.fromkeys(weights, 0)
        if self.subject.needs is None:
            return Sizes(weights, slabs, nothing, nothing)
        needs, layout = self.subject.needs, self.layout(assignment)
        return Sizes(weights, slabs, context_bytes(needs, layout), compute_bytes(needs, layout))

    def growth(self, layers: Collection[LayerKey]) -> Growth:
        """How parts of the graph grow as these layers, and no others, are dealt out among the devices."""
        needs = self.subject.needs
        if needs is None or not self.budgets:
            return WEIGHTS_ONLY
        everywhere = dict.fromkeys(layers, self.budgets[0].device)
        pipelined = len(layers) >= len(needs.kinds) and is_pipelined(needs, self.layout(everywhere))
        first = {0} if pipelined else set()
        last = {len(needs.kinds) - 1} if pulled_bytes(needs.activations) else set()
        return Growth(
            self._share_of,
            self._fixed_shares,
            cache(partial(needs.share_bytes, pipelined=pipelined)),
            turns=frozenset(first | last),
        )

    def _share(self, key: LayerKey, device: str) -> Share:
        """What a layer adds to the graph of the device that it is on; not a copied output, which is never dealt out."""
        needs, output = self.subject.needs, self.subject.output
        share = NOTHING
        if needs and isinstance(key, int) and key < len(needs.kinds):
            found = needs.blocks[needs.kinds[key]]
            share = found.whole if self.footprints.networks.get(key, device) == device else found.alone
        home = "output" if output is None else output.layer
        makes_logits = key == home and not (output and self.footprints.override_of(output))
        return share.joined(LOGITS) if makes_logits else share

    @cached_property
    def _fixed_shares(self) -> dict[str, Share]:
        """By device, its part of the graph by overrides: networks apart from their blocks, and the output."""
        needs, output = self.subject.needs, self.subject.output
        fixed: dict[str, Share] = {}
        for key, device in self.footprints.networks.items():
            if needs and isinstance(key, int) and key < len(needs.kinds):
                network = needs.blocks[needs.kinds[key]].network
                fixed[device] = fixed.get(device, NOTHING).joined(network)
        if output and (where := self.footprints.override_of(output)):
            fixed[where] = fixed.get(where, NOTHING).joined(LOGITS)
        return fixed

    @cached_property
    def brought_bytes(self) -> dict[LayerKey, int]:
        """What each layer brings to the devices when it leaves the host: its slabs, and its part of the context.

        What overrides put there wherever the layer goes is not among it.
        """
        brought = dict.fromkeys(self.subject.keys, 0)
        for key, away in self.footprints.away.items():
            brought[key] = away.along.slab + away.fixed_slabs - self.footprints.home[key].fixed_slabs
        needs = self.subject.needs
        if needs and needs.kv_offload:
            for number, nbytes in enumerate(needs.layers):
                block = number % len(needs.activations.sees)
                brought[block] = brought.get(block, 0) + nbytes
        return brought

    @cached_property
    def fixed_bytes(self) -> dict[str, int]:
        """By device, what overrides put there wherever the layers go."""
        fixed: dict[str, int] = {}
        for footprint in self.footprints.home.values():
            for device, need in footprint.fixed.items():
                fixed[device] = fixed.get(device, 0) + need.slab
        return fixed

    def has_room_for(self, layers: Iterable[LayerKey]) -> bool:
        """Whether the devices together have room for what these layers bring: if not, no way to deal them out fits."""
        room = sum(budget.available_bytes for budget in self.budgets)
        fixed = sum(nbytes for device, nbytes in self.fixed_bytes.items() if device != HOST)
        return sum(map(self.brought_bytes.__getitem__, layers)) <= room - fixed

    def reads_on_devices(self, assignment: Assignment) -> int:
        """Bytes that one token reads from accelerators, with the embedding where the input is."""
        reads = self._reads
        return sum(reads[layer.key][layer.key in assignment] for layer in self.subject.layers)

    @cached_property
    def _reads(self) -> dict[LayerKey, tuple[int, int]]:
        """Of each layer, the bytes read from accelerators where it stays on the host, and where it leaves it."""
        devices = (HOST, *(budget.device for budget in self.budgets[:1]))

        def reads(key: LayerKey, device: str) -> int:
            parts = self.footprints.parts(key, device).items()
            return sum(self.subject.read_bytes(part) for holder, held in parts if holder != HOST for part in held)

        return {
            layer.key: (reads(layer.key, devices[0]), reads(layer.key, devices[-1])) for layer in self.subject.layers
        }

    @property
    def buffered(self) -> bool:
        """Whether the host keeps a copy of its own."""
        return self.host is HostMode.BUFFERED

    def fits(self, sizes: Sizes) -> bool:
        """Whether every device, the host included, has room for it."""
        return self.host_fits(sizes.required(HOST)) and self.devices_fit(sizes)

    def devices_fit(self, sizes: Sizes) -> bool:
        """Whether the accelerators have room for it."""
        return all(sizes.required(budget.device) <= budget.available_bytes for budget in self.budgets)

    def rows(self, sizes: Sizes) -> tuple[DevicePlan, ...]:
        """The numbers, device by device, the host last."""
        rooms: list[tuple[str, int | None]] = [(budget.device, budget.available_bytes) for budget in self.budgets]
        return tuple(
            DevicePlan(
                id=id_,
                weights_bytes=sizes.weights[id_],
                padding_bytes=sizes.slabs[id_] - sizes.weights[id_],
                context_bytes=sizes.context[id_],
                compute_bytes=sizes.compute[id_],
                required_bytes=(required := sizes.required(id_)),
                available_bytes=room,
                fits=self.host_fits(required) if id_ == HOST else room is None or required <= room,
            )
            for id_, room in [*rooms, (HOST, self.host_bytes)]
        )

    def layers(self, assignment: Assignment) -> tuple[LayerPlan, ...]:
        """Where each layer is, in the model's order."""
        found = []
        for layer in self.subject.layers:
            parts = self.footprints.parts(layer.key, assignment.get(layer.key, HOST))
            devices = {holder: sum(part.nbytes for part in held) for holder, held in parts.items()}
            device = next(iter(devices)) if len(devices) == 1 else None
            found.append(LayerPlan(layer.key, layer.role, device, devices, layer.size_bytes))
        return tuple(found)

    def slabs(self, assignment: Assignment) -> tuple[Slab, ...]:
        """The slabs that hold the candidate, a tied embedding's copy with the output's own tensors."""
        buffered, copied = self.buffered, self.copied(assignment)
        found: list[Slab] = []
        for layer in self.subject.layers:
            if layer.key != "output" or not copied:
                device = assignment.get(layer.key, HOST)
                found += self.footprints.slabs(layer.key, device, buffered=buffered)
        if copied:  # the output is the last layer, if it is one
            device = assignment["output"]
            parts = self.footprints.parts("output", device)
            whole = {**parts, device: (*parts.get(device, ()), Part(copied, 0, copied.nbytes))}
            found += [slab_with("output", id_, held) for id_, held in whole.items() if id_ != HOST or buffered]
        return tuple(found)

    def placement(self, strategy: str, n: int, n_cpu_moe: int, assignment: Assignment) -> Placement:
        """The candidate as a placement."""
        return Placement(strategy, n, self.slabs(assignment), n_cpu_moe)

    def host_fits(self, needed_bytes: int) -> bool:
        """Mapped pages need no room, they come and go; locked and copied bytes do."""
        return self.host is HostMode.MMAP or self.host_bytes is None or needed_bytes <= self.host_bytes
