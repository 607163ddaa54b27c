"""What goes out, where it differs from the domain's own records."""

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from app.api.errors import error_object
from app.devices import DeviceKind
from app.errors import LoadmasterError
from app.model import LayerKey, Role
from app.placement import Advice, DevicePlan, LayerPlan, Row
from app.residency.events import Payload
from app.residency.records import (
    Cause,
    JobKind,
    JobRecord,
    JobResult,
    JobState,
    LayerMemoryRecord,
    MemoryRecord,
    ModelRecord,
    ModelState,
    Snapshot,
    VerifyResult,
)

T = TypeVar("T")


class ErrorObject(BaseModel):
    """What went wrong: a sentence, a stable code, the field at fault, and the numbers behind it."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorObject


def _as_object(error: object) -> object:
    return error_object(error) if isinstance(error, LoadmasterError) else error


ErrorOut = Annotated[ErrorObject | None, BeforeValidator(_as_object)]


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class ListOut(BaseModel, Generic[T]):
    """A list, or a part of one: `total` counts all there are."""

    object: Literal["list"] = "list"
    data: Sequence[T]
    total: int


class ModelOut(_Out):
    """A model: what the file says, and what is loaded of it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "loadmaster"
    type: str | None
    state: ModelState
    architecture: str | None
    parameters: int | None
    quantization: str | None
    size_bytes: int
    n_layer: int | None
    context_length: int | None
    n_gpu_layers: int | None
    generation: int | None
    strategy: str | None
    pinned: bool | None
    keep_alive: float | None
    used_at: float | None
    expires_at: float | None
    job: str | None
    error: ErrorOut


class TypeStatisticsOut(_Out):
    """What the tensors of one type add up to."""

    type: str
    tensors: int
    parameters: int
    size_bytes: int
    bits_per_weight: float | None


class LayerStatisticsOut(_Out):
    """What the tensors of one layer add up to."""

    layer: LayerKey
    role: Role
    tensors: int
    parameters: int
    size_bytes: int
    bits_per_weight: float | None
    types: tuple[str, ...]


class LargeTensorOut(_Out):
    """One of the largest tensors."""

    name: str
    type: str
    dimensions: tuple[int, ...]
    parameters: int
    size_bytes: int = Field(validation_alias="nbytes")
    layer: LayerKey


class StatisticsOut(_Out):
    """What the model adds up to; the parts add up to the whole."""

    parameters: int
    tensors: int
    size_bytes: int
    bits_per_weight: float | None
    by_type: tuple[TypeStatisticsOut, ...]
    by_layer: tuple[LayerStatisticsOut, ...]
    largest: tuple[LargeTensorOut, ...]
    expert_parameters: int
    expert_bytes: int


class ModelMemoryOut(_Out):
    """A loaded model's tensor bytes by device, and by layer."""

    id: str
    total_bytes: int
    gpu_bytes: int
    cpu_bytes: int
    gpu_percent: float
    cpu_percent: float
    devices: dict[str, int]
    layers: list[LayerMemoryRecord] = []


class FileOut(_Out):
    """One of the files of a model."""

    name: str
    size_bytes: int
    modified: float


class ProblemOut(_Out):
    """One reason why a model cannot be loaded."""

    kind: str
    message: str
    layer: int | str | None
    tensor: str | None
    key: str | None
    expected: str | None
    found: str | None


class VocabularyOut(_Out):
    """What the file says about its vocabulary, apart from the tokens themselves."""

    model: str | None
    pre: str | None
    n_tokens: int | None
    special: dict[str, int]
    add_bos: bool | None
    add_eos: bool | None
    add_space_prefix: bool | None
    chat_template: bool


class ModelDetailOut(ModelOut):
    """A model with everything that its header says in short."""

    name: str | None = None
    architecture_known: bool | None = None
    hyperparameters: dict[str, Any] | None = None
    vocabulary: VocabularyOut | None = None
    files: list[FileOut] = []
    problems: list[ProblemOut] = []
    notes: list[ProblemOut] = []


class MetadataOut(BaseModel):
    """The file's key/value pairs, in file order; a long array as its type, count and head."""

    object: Literal["metadata"] = "metadata"
    data: dict[str, Any]
    total: int


class MetadataValueOut(BaseModel):
    """One key's value; of an array, the part that was asked for, and `total` elements in all."""

    object: Literal["metadata.value"] = "metadata.value"
    key: str
    type: str
    value: Any
    total: int


class DeviceOut(BaseModel):
    """A place for bytes, and what it can do; `lost` says why it can do nothing any more."""

    id: str
    kind: DeviceKind
    name: str
    uuid: str | None
    lost: str | None
    total_bytes: int | None
    free_bytes: int | None
    others_bytes: int | None
    limit_bytes: int
    capabilities: dict[str, bool | int | str | None]


class HealthOut(BaseModel):
    """A probe's answer."""

    status: Literal["ok", "ready", "restoring"]


class JobOut(_Out):
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


class PlanOut(_Out):
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


class SnapshotOut(_Out):
    """The present, as a stream opens with it."""

    models: tuple[ModelOut, ...]
    jobs: tuple[JobOut, ...]
    memory: MemoryRecord


_MEMORY = TypeAdapter(MemoryRecord)


def encode(payload: Payload) -> str:
    """One line of JSON: the same body that the route of that name answers with."""
    match payload:
        case JobRecord():
            return JobOut.model_validate(payload).model_dump_json()
        case ModelRecord():
            return ModelOut.model_validate(payload).model_dump_json()
        case MemoryRecord():
            return _MEMORY.dump_json(payload).decode()
        case Snapshot():
            return SnapshotOut.model_validate(payload).model_dump_json()
