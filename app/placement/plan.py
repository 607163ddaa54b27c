"""Which layers go where, and whether they fit: a plan says it, with the numbers why. All sizes are in bytes."""

from dataclasses import dataclass

from app.model import LayerKey, Role
from app.placement.slabs import Placement


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
class Advice:
    """Something worth knowing about a plan: a stable code, a sentence for people, and its sizes in exact bytes."""

    code: str
    message: str
    quantization: str | None = None
    size_bytes: int | None = None
    """An estimate of the model's size in that quantisation; where none fits, in the smallest."""
    available_bytes: int | None = None
    """What all devices together leave for weights."""
    f16_bytes: int | None = None
    """An estimate of the model's size in F16, which the rule of thumb goes by."""


@dataclass(frozen=True, slots=True)
class Row:
    """One choice of n_gpu_layers, as a slider shows it: what it needs with the n_cpu_moe of the plan."""

    n_gpu_layers: int
    fits: bool
    devices: tuple[DevicePlan, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement and what it needs. `largest_n_gpu_layers` is None where not even 0 would fit."""

    fits: bool
    strategy: str
    n_gpu_layers: int
    n_cpu_moe: int
    """The experts of so many blocks stay on the host: as asked for, or as `auto` found it best."""
    largest_n_gpu_layers: int | None
    devices: tuple[DevicePlan, ...]
    layers: tuple[LayerPlan, ...]
    placement: Placement
    advice: tuple[Advice, ...] = ()
    llama_server_args: tuple[str, ...] | None = None
    table: tuple[Row, ...] | None = None

    @property
    def shortest(self) -> DevicePlan:
        """Of the devices that this does not fit on, the one that lacks most; there must be one."""
        return max(
            (device for device in self.devices if not device.fits),
            key=lambda device: device.required_bytes - (device.available_bytes or 0),
        )
