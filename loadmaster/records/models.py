"""Models, and what their files say. Sizes are in bytes, times in seconds since the epoch."""

from dataclasses import dataclass
from typing import Any

from loadmaster.records.base import JSON, LayerKey, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Record):
    """Something that is wrong with a file, and where."""

    kind: str
    message: str
    layer: LayerKey | None
    tensor: str | None
    key: str | None
    expected: str | None
    found: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Record):
    """A model: what the file says, and what is loaded of it. `n_gpu_layers` to `expires_at` are None unless loaded.

    `state` is one of available, loading, loaded, moving, unloading, invalid and failed; `job` is the id of the job
    that changes it; `error` the service's error object where it is invalid or failed.
    """

    id: str
    created: int
    owned_by: str
    type: str | None
    state: str
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
    error: JSON | None


@dataclass(frozen=True, slots=True, kw_only=True)
class File(Record):
    """One of the files of a model."""

    name: str
    size_bytes: int
    modified: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyFacts(Record):
    """What the file says about its vocabulary, apart from the tokens; `special` has token ids by name."""

    model: str | None
    pre: str | None
    n_tokens: int | None
    special: dict[str, int]
    add_bos: bool | None
    add_eos: bool | None
    add_space_prefix: bool | None
    chat_template: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDetail(Model):
    """A model with everything that its header says in short; None and empty where it cannot be read.

    `request` is what a loaded model was asked to be, as the body of a load; None where it is not loaded.
    """

    request: JSON | None
    name: str | None
    architecture_known: bool | None
    hyperparameters: dict[str, Any] | None
    vocabulary: VocabularyFacts | None
    files: tuple[File, ...]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(Record):
    """A layer and where its bytes are: `device`, or None where it is on several; `devices` has its bytes by id."""

    layer: LayerKey
    role: str
    size_bytes: int
    parameters: int
    types: tuple[str, ...]
    device: str | None
    devices: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor(Record):
    """A tensor and where its bytes are; `dimensions` in GGUF order, fastest first."""

    name: str
    type: str
    dimensions: tuple[int, ...]
    parameters: int
    size_bytes: int
    layer: LayerKey
    device: str | None
    devices: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeStatistics(Record):
    """What the tensors of one type add up to."""

    type: str
    tensors: int
    parameters: int
    size_bytes: int
    bits_per_weight: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics(Record):
    """What the tensors of one layer add up to."""

    layer: LayerKey
    role: str
    tensors: int
    parameters: int
    size_bytes: int
    bits_per_weight: float | None
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeTensor(Record):
    """One of the largest tensors."""

    name: str
    type: str
    dimensions: tuple[int, ...]
    parameters: int
    size_bytes: int
    layer: LayerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics(Record):
    """What a model adds up to; the parts add up to the whole."""

    parameters: int
    tensors: int
    size_bytes: int
    bits_per_weight: float | None
    by_type: tuple[TypeStatistics, ...]
    by_layer: tuple[LayerStatistics, ...]
    largest: tuple[LargeTensor, ...]
    expert_parameters: int
    expert_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(Record):
    """A token: its text as the file has it, and the `piece` of text that it stands for."""

    id: int
    text: str
    piece: str | None
    type: str
    score: float | None
    special: tuple[str, ...]
