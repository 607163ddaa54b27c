"""What residency tells about itself: values, taken at one moment. Sizes are in bytes; None is unknown, never 0."""

from dataclasses import dataclass
from enum import StrEnum

from app.devices import DeviceKind
from app.errors import LoadmasterError
from app.model import LayerKey, Problem, Role


class ModelState(StrEnum):
    """What a model is doing. Derived, never stored."""

    AVAILABLE = "available"
    LOADING = "loading"
    LOADED = "loaded"
    MOVING = "moving"
    UNLOADING = "unloading"
    INVALID = "invalid"
    FAILED = "failed"


class JobKind(StrEnum):
    """What a job does to its model."""

    LOAD = "load"
    OFFLOAD = "offload"
    UNLOAD = "unload"
    VERIFY = "verify"


class Cause(StrEnum):
    """Why a job was begun."""

    REQUEST = "request"
    EVICTION = "eviction"
    IDLENESS = "idleness"
    RESTART = "restart"


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class EvictionRecord:
    """What an idle model gave back: all that it had, or its layers down to `n_gpu_layers`; bytes by device id."""

    model: str
    n_gpu_layers: int | None
    freed: dict[str, int]


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a job did: how it moved, what it copied and released, and which models made room for it."""

    mode: str
    steps: int
    copied_bytes: int
    released_bytes: int
    evicted: tuple[EvictionRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerVerdict:
    """Whether a layer is sound, and the same in words: `Layer 17: ok`."""

    layer: LayerKey
    ok: bool
    message: str


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What a verification found; one that finds problems has succeeded, too."""

    ok: bool
    deep: bool
    summary: str
    problems: tuple[Problem, ...]
    layers: tuple[LayerVerdict, ...]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job at one moment. Times are seconds since the epoch; `bytes_*` count bytes copied to devices."""

    id: str
    kind: JobKind
    cause: Cause
    model: str
    state: JobState
    stage: str | None
    stages: tuple[str, ...]
    progress: float
    bytes_done: int
    bytes_total: int
    bytes_per_second: float | None
    eta_seconds: float | None
    generation: int | None
    result: JobResult | VerifyResult | None
    error: LoadmasterError | None
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model at one moment: what the file says, and what is loaded of it.

    `used_at` and `expires_at` are seconds since the epoch; the latter is None while nothing but a request unloads it.
    """

    id: str
    created: int
    type: str | None
    state: ModelState
    architecture: str | None
    parameters: int | None
    quantization: str | None
    size_bytes: int
    n_layer: int | None
    context_length: int | None
    n_gpu_layers: int | None
    n_cpu_moe: int | None
    generation: int | None
    strategy: str | None
    pinned: bool | None
    keep_alive: float | None
    used_at: float | None
    expires_at: float | None
    job: str | None
    error: LoadmasterError | None


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """A layer and where its bytes are; `size_bytes` is the sum of `devices`."""

    layer: LayerKey
    role: Role
    size_bytes: int
    parameters: int
    types: tuple[str, ...]
    device: str | None
    devices: dict[str, int]


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor and where its bytes are; `dimensions` in GGUF order, fastest first."""

    name: str
    type: str
    dimensions: tuple[int, ...]
    parameters: int
    size_bytes: int
    layer: LayerKey
    device: str | None
    devices: dict[str, int]


@dataclass(frozen=True, slots=True)
class DeviceMemoryRecord:
    """One accelerator: what the driver reports (total, free, others'), and what we hold and may hold (the ledger).

    `others_bytes` is taken by other processes, or by the driver itself: `total = free + others +` our allocations.
    `lost` says why nothing can be had of the device any more; None while it is there.
    """

    id: str
    kind: DeviceKind
    name: str
    uuid: str | None
    lost: str | None
    total_bytes: int | None
    free_bytes: int | None
    others_bytes: int | None
    limit_bytes: int
    used_bytes: int
    weights_bytes: int
    padding_bytes: int
    reserved_bytes: int
    retired_bytes: int


@dataclass(frozen=True, slots=True)
class HostMemoryRecord:
    """The host: the system's memory, what copies (`buffered_bytes`) may take of it, and what models have in it.

    `staging_bytes` are pinned, for bytes on their way to accelerators; `available_bytes` does not have them any more.
    """

    total_bytes: int
    available_bytes: int
    limit_bytes: int
    mapped_bytes: int
    resident_bytes: int | None
    locked_bytes: int
    buffered_bytes: int
    staging_bytes: int
    process_rss_bytes: int


@dataclass(frozen=True, slots=True)
class ModelMemoryRecord:
    """A loaded model's tensor bytes by device id, the host ("cpu") included; `gpu_bytes + cpu_bytes = total_bytes`."""

    id: str
    total_bytes: int
    gpu_bytes: int
    cpu_bytes: int
    gpu_percent: float
    cpu_percent: float
    devices: dict[str, int]


@dataclass(frozen=True, slots=True)
class LayerMemoryRecord:
    """A layer's tensor bytes by device id; they add up to `size_bytes`."""

    layer: LayerKey
    size_bytes: int
    devices: dict[str, int]


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """All memory in one answer; `time` in seconds since the epoch."""

    time: float
    devices: tuple[DeviceMemoryRecord, ...]
    host: HostMemoryRecord
    models: tuple[ModelMemoryRecord, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The present, as an event stream opens with it."""

    models: tuple[ModelRecord, ...]
    jobs: tuple[JobRecord, ...]
    memory: MemoryRecord


def one_device(devices: dict[str, int]) -> str | None:
    """The device that holds all of it, or None where it is spread over several."""
    return next(iter(devices)) if len(devices) == 1 else None
