"""A change as it goes out: planned, or on its way."""

from pydantic import Field

from app.api.schemas.envelopes import ErrorOut, Out
from app.placement import Advice, DevicePlan, LayerPlan, Row
from app.residency.records import Cause, JobKind, JobResult, JobState, VerifyResult


class JobOut(Out):
    """A change on its way, or at its end."""

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
    error: ErrorOut
    created_at: float
    started_at: float | None
    finished_at: float | None


class PlanOut(Out):
    """Where the layers would go, and what every device would need for it."""

    fits: bool
    strategy: str
    n_gpu_layers: int
    n_cpu_moe: int = Field(
        description="The experts of so many blocks stay on the host: as asked for, or as `auto` found it best."
    )
    largest_n_gpu_layers: int | None
    devices: tuple[DevicePlan, ...]
    layers: tuple[LayerPlan, ...]
    advice: tuple[Advice, ...]
    llama_server_args: tuple[str, ...] | None
    table: tuple[Row, ...] | None = Field(
        description="A row for every n_gpu_layers, by this plan's n_cpu_moe: send both to get a row as a plan."
    )
