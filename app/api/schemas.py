"""What comes in, and what goes out where it differs from the domain's own records."""

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    TypeAdapter,
    WithJsonSchema,
    field_validator,
)

from app.api.errors import error_object
from app.devices import DeviceKind
from app.errors import InvalidValue, LoadmasterError
from app.placement import DevicePlan, HostMode, LayerPlan, PlacementRequest, Plan, SplitMode, Strategy
from app.residency.events import Payload
from app.residency.records import (
    JobKind,
    JobRecord,
    JobResult,
    JobState,
    MemoryRecord,
    ModelRecord,
    ModelState,
    Snapshot,
)

T = TypeVar("T")

MAX_INTEGER = 2**63 - 1


# ── what comes in ────────────────────────────────────────────────────────────────────────────────────────────────


def _n_gpu_layers(value: object) -> object:
    if value in ("all", "auto") or (type(value) is int and 0 <= value <= MAX_INTEGER):
        return value
    raise ValueError('must be an integer from 0 to the model\'s number of layers, "all" or "auto"')


NGpuLayers = Annotated[
    int | Literal["all", "auto"],
    PlainValidator(_n_gpu_layers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"enum": ["all", "auto"]}]}),
]


def _weights(value: object) -> object:
    if value in ("free", "equal"):
        return value
    numbers = value if isinstance(value, list) else []
    finite = [number for number in numbers if type(number) in (int, float) and 0 <= number < float("inf")]
    if not numbers or len(finite) != len(numbers) or max(finite) > MAX_INTEGER or not any(finite):
        raise ValueError('must be "free", "equal", or a list of numbers, none below 0 and not all 0')
    return tuple(float(number) for number in finite)


Weights = Annotated[
    tuple[float, ...] | Literal["free", "equal"],
    PlainValidator(_weights),
    WithJsonSchema(
        {"anyOf": [{"enum": ["free", "equal"]}, {"type": "array", "items": {"type": "number", "minimum": 0}}]}
    ),
]


class Split(BaseModel):
    """How the offloaded layers are shared among several devices."""

    model_config = ConfigDict(extra="forbid")

    mode: SplitMode = Field(default=SplitMode.LAYER, description="`none`: one device. `layer`: contiguous runs.")
    weights: Weights = Field(
        default="free",
        description="`free`: every device filled to the same share. `equal`: n // devices each, the rest to the last. "
        "Numbers: in proportion, one for each device.",
    )


class PlacementBody(BaseModel):
    """Where a model's layers should be. Shared by load, plan and offload; all fields may be left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"n_gpu_layers": 12},
                {"n_gpu_layers": "auto", "strategy": "ends", "split": {"mode": "layer", "weights": "equal"}},
                {"n_gpu_layers": "all", "devices": ["sim:1"], "margin_bytes": 1048576, "wait": True},
            ]
        },
    )

    n_gpu_layers: NGpuLayers = Field(default="auto", description="`auto`: the largest number that fits.")
    strategy: Strategy = Field(default=Strategy.FIRST, description="Which blocks: the first, the last, or both ends.")
    devices: Annotated[list[Annotated[str, Field(max_length=100)]], Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Ids or UUIDs of the accelerators to use, in order; all if left out."
    )
    split: Split = Split()
    margin_bytes: Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)] = Field(
        default=0, description="Bytes to keep free on every device."
    )
    host: HostMode = Field(
        default=HostMode.MMAP, description="How what stays on the host is kept: mapped, locked, or as a copy."
    )
    rebalance: StrictBool = Field(default=False, description="Deal all layers out anew instead of moving few.")
    allow_unknown_architecture: StrictBool = Field(default=False, description="Load it even if we do not know it.")
    wait: StrictBool = Field(default=False, description="Answer when the work is done.")

    @field_validator("devices")
    @classmethod
    def _no_device_twice(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("names a device twice")
        return value

    def request(self) -> PlacementRequest:
        """The whole request, with the defaults for what was left out."""
        return self.changed(PlacementRequest())

    def changed(self, former: PlacementRequest) -> PlacementRequest:
        """The former request with the fields that were given; of `split`, with the parts that were."""
        planned = self.model_fields_set & {field.name for field in fields(PlacementRequest)}
        given = {name: getattr(self, name) for name in planned}
        given |= {f"split_{part}": getattr(self.split, part) for part in self.split.model_fields_set}
        if self.devices is not None:
            given["devices"] = tuple(self.devices)
        return replace(former, **given)


class WaitBody(BaseModel):
    """The body of an unload."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"wait": True}]})

    wait: StrictBool = Field(default=False, description="Answer when the memory is free again.")


def generation_of(if_match: str | None) -> int | None:
    """The generation that an If-Match header names; None where it names none, or any (`*`)."""
    if if_match is None or if_match.strip() == "*":
        return None
    named = re.fullmatch(r'\s*"?(\d{1,18})"?\s*', if_match)
    if named is None:
        raise InvalidValue(f"If-Match: must be one generation in quotes, got {if_match[:100]!r}", param="If-Match")
    return int(named[1])


# ── what goes out ────────────────────────────────────────────────────────────────────────────────────────────────


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
    job: str | None
    error: ErrorOut


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
    """A place for bytes, and what it can do."""

    id: str
    kind: DeviceKind
    name: str
    uuid: str | None
    total_bytes: int | None
    free_bytes: int | None
    limit_bytes: int
    capabilities: dict[str, bool | int | str | None]


class HealthOut(BaseModel):
    """A probe's answer."""

    status: Literal["ok", "ready", "restoring"]


class JobOut(_Out):
    """A change on its way, or at its end."""

    id: str
    kind: JobKind
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
    result: JobResult | None
    error: ErrorOut
    created_at: float
    started_at: float | None
    finished_at: float | None


class AdviceOut(BaseModel):
    """Something worth knowing about a plan."""

    code: str
    message: str


class PlanOut(_Out):
    """Where the layers would go, and what every device would need for it."""

    fits: bool
    strategy: str
    n_gpu_layers: int
    largest_n_gpu_layers: int | None
    devices: tuple[DevicePlan, ...]
    layers: tuple[LayerPlan, ...]
    advice: list[AdviceOut] = []
    llama_server_args: list[str] | None = None

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """The plan with advice: llama.cpp always starts from the last layers, so that it can do none of ours."""
        out = cls.model_validate(plan)
        reason = f"llama.cpp cannot place layers by the strategy '{plan.strategy}': it always offloads the last ones"
        out.advice = [AdviceOut(code="no_llama_server_args", message=reason)]
        return out


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
