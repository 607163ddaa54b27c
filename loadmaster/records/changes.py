"""Changes: planned, under way, and at their end. Sizes are in bytes, times in seconds since the epoch."""

from dataclasses import dataclass

from loadmaster.records.base import JSON, LayerKey, Record
from loadmaster.records.models import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction(Record):
    """What an idle model gave back: all that it had, or its layers down to `n_gpu_layers`; bytes by device id."""

    model: str
    n_gpu_layers: int | None
    freed: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Record):
    """What a load, an offload or an unload did, and which models made room for it."""

    mode: str
    steps: int
    copied_bytes: int
    released_bytes: int
    evicted: tuple[Eviction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    """Whether a layer is sound, and the same in words."""

    layer: LayerKey
    ok: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification(Record):
    """What a verification found; one that finds problems has succeeded, too."""

    ok: bool
    deep: bool
    summary: str
    problems: tuple[Problem, ...]
    layers: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Record):
    """A change at one moment; `bytes_done` and `bytes_total` count bytes that are copied to devices.

    `kind` is load, offload, unload or verify; `cause` request, eviction, idleness or restart; `state` queued,
    running, succeeded, failed or cancelled; `progress` goes from 0 to 1 and never back.
    """

    id: str
    kind: str
    cause: str
    model: str
    state: str
    stage: str | None
    stages: tuple[str, ...]
    progress: float
    bytes_done: int
    bytes_total: int
    bytes_per_second: float | None
    eta_seconds: float | None
    generation: int | None
    result: Change | Verification | None
    error: JSON | None
    created_at: float
    started_at: float | None
    finished_at: float | None

    @property
    def ended(self) -> bool:
        """Whether it has come to its end, whichever."""
        return self.finished_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan(Record):
    """What a plan needs of one device; `available_bytes` has the margin taken off."""

    id: str
    weights_bytes: int
    padding_bytes: int
    context_bytes: int
    compute_bytes: int
    required_bytes: int
    available_bytes: int | None
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan(Record):
    """Where one layer will be: `device`, or None where it is on several; `devices` has its bytes by id."""

    layer: LayerKey
    role: str
    device: str | None
    devices: dict[str, int]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice(Record):
    """Something worth knowing about a plan: a stable code, and a sentence with the numbers in it."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow(Record):
    """One choice of n_gpu_layers, and what it needs."""

    n_gpu_layers: int
    fits: bool
    devices: tuple[DevicePlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Record):
    """Where a load would put the layers, and what it needs. `largest_n_gpu_layers` is None where not even 0 fits."""

    fits: bool
    strategy: str
    n_gpu_layers: int
    n_cpu_moe: int
    largest_n_gpu_layers: int | None
    devices: tuple[DevicePlan, ...]
    layers: tuple[LayerPlan, ...]
    advice: tuple[Advice, ...]
    llama_server_args: tuple[str, ...] | None
    table: tuple[PlanRow, ...] | None
