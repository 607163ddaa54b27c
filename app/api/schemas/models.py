"""A model as it goes out: what its files say, what is loaded of it, what it adds up to. All sizes are in bytes."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.api.schemas.envelopes import ErrorOut, ListOut, Out
from app.model import LayerKey, Role
from app.placement import ContextRequest, HostMode, Override, SplitMode, Strategy
from app.residency.records import LayerMemoryRecord, ModelRecord, ModelState
from app.residency.wishes import Wish


class ModelOut(Out):
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
    n_cpu_moe: int | None
    generation: int | None
    strategy: str | None
    pinned: bool | None
    keep_alive: float | None
    used_at: float | None
    expires_at: float | None
    job: str | None
    error: ErrorOut


def list_of_models(records: Sequence[ModelRecord], total: int | None = None) -> ListOut[ModelOut]:
    """Models as a list; `total` where it is a part of one."""
    data = [ModelOut.model_validate(record) for record in records]
    return ListOut(data=data, total=len(data) if total is None else total)


class FileOut(Out):
    """One of the files of a model."""

    name: str
    size_bytes: int
    modified: float


class ProblemOut(Out):
    """One reason why a model cannot be loaded."""

    kind: str
    message: str
    layer: int | str | None
    tensor: str | None
    key: str | None
    expected: str | None
    found: str | None


class VocabularyOut(Out):
    """What the file says about its vocabulary, apart from the tokens themselves."""

    model: str | None
    pre: str | None
    n_tokens: int | None
    special: dict[str, int]
    add_bos: bool | None
    add_eos: bool | None
    add_space_prefix: bool | None
    chat_template: bool


class SplitOut(BaseModel):
    """How the offloaded layers are shared among several devices."""

    mode: SplitMode
    weights: tuple[float, ...] | Literal["free", "equal"]


class RequestOut(BaseModel):
    """What a loaded model was asked to be, defaults included. Sent as a body of plan or load it asks for the same."""

    n_gpu_layers: int | Literal["all", "auto"]
    strategy: Strategy
    devices: tuple[str, ...] | None
    split: SplitOut
    margin_bytes: int
    host: HostMode
    overrides: tuple[Override, ...]
    n_cpu_moe: int
    context: ContextRequest | None
    pinned: bool
    keep_alive: float
    allow_unknown_architecture: bool

    @classmethod
    def of(cls, wish: Wish, *, allow_unknown: bool) -> Self:
        """The body of a wish; that an unknown architecture was allowed is no part of one."""
        asked = wish.request
        return cls(
            n_gpu_layers=asked.n_gpu_layers,
            strategy=asked.strategy,
            devices=asked.devices,
            split=SplitOut(mode=asked.split_mode, weights=asked.split_weights),
            margin_bytes=asked.margin_bytes,
            host=asked.host,
            overrides=asked.overrides,
            n_cpu_moe=asked.n_cpu_moe,
            context=asked.context,
            pinned=wish.retention.pinned,
            keep_alive=wish.retention.keep_alive,
            allow_unknown_architecture=allow_unknown,
        )


class ModelDetailOut(ModelOut):
    """A model with everything that its header says in short."""

    request: RequestOut | None = Field(
        default=None, description="What it was asked to be; null where it is not loaded."
    )
    name: str | None = None
    architecture_known: bool | None = None
    hyperparameters: dict[str, Any] | None = None
    vocabulary: VocabularyOut | None = None
    files: Sequence[FileOut] = ()
    problems: Sequence[ProblemOut] = ()
    notes: Sequence[ProblemOut] = ()


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


class ModelMemoryOut(Out):
    """A loaded model's tensor bytes by device, and by layer."""

    id: str
    total_bytes: int
    gpu_bytes: int
    cpu_bytes: int
    gpu_percent: float
    cpu_percent: float
    devices: dict[str, int]
    layers: Sequence[LayerMemoryRecord] = ()


class TypeStatisticsOut(Out):
    """What the tensors of one type add up to."""

    type: str
    tensors: int
    parameters: int
    size_bytes: int
    bits_per_weight: float | None


class LayerStatisticsOut(Out):
    """What the tensors of one layer add up to."""

    layer: LayerKey
    role: Role
    tensors: int
    parameters: int
    size_bytes: int
    bits_per_weight: float | None
    types: tuple[str, ...]


class LargeTensorOut(Out):
    """One of the largest tensors."""

    name: str
    type: str
    dimensions: tuple[int, ...]
    parameters: int
    size_bytes: int = Field(validation_alias="nbytes")
    layer: LayerKey


class StatisticsOut(Out):
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
