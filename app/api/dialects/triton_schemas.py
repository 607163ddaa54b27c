"""What Triton's clients send, and what they are answered with. All sizes are in bytes.

Shapes: docs/protocol of triton-inference-server/server at commit e1db8a6.
"""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from app import __version__
from app.api.bodies import PlacementBody

VERSION: Final = "1"
EXTENSIONS: Final = ("model_repository", "statistics")
NEVER: Final = {"count": 0, "ns": 0}
NO_INFERENCE: Final = dict.fromkeys(
    ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"), NEVER
)


class IndexBody(BaseModel):
    """Which models to list."""

    ready: StrictBool | None = Field(default=None, description="Only those that are loaded.")


class RepositoryBody(BaseModel):
    """The body of a load or an unload."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"parameters": {"config": '{"n_gpu_layers": 12}'}}]},
    )

    parameters: dict[str, Any] | None = Field(
        default=None, description="`config`: JSON in a string, the fields of `POST /v1/models/{id}/load`."
    )


class Config(PlacementBody):
    """The fields of a load, among others that a model configuration may have and that say nothing here."""

    model_config = ConfigDict(extra="ignore")


class ServerOut(BaseModel):
    """The server, and which extensions of the protocol it knows."""

    name: str = "loadmaster"
    version: str = __version__
    extensions: tuple[str, ...] = EXTENSIONS


class LiveOut(BaseModel):
    """A probe's answer."""

    live: bool = True


class ReadyOut(LiveOut):
    """The same; some clients look for the one key, some for the other."""

    ready: bool = True


class ModelReadyOut(BaseModel):
    """A model that is loaded."""

    name: str
    ready: bool = True


class ModelMetadataOut(BaseModel):
    """A model: no inputs and no outputs, for nothing is inferred."""

    name: str
    versions: tuple[str, ...] = (VERSION,)
    platform: str = "gguf"
    inputs: tuple[()] = ()
    outputs: tuple[()] = ()


class ConfigOut(BaseModel):
    """A model's configuration; of a loaded one also what it is loaded by, as a load's `config` takes it."""

    name: str
    platform: str = "gguf"
    max_batch_size: int = 0
    input: tuple[()] = ()
    output: tuple[()] = ()
    n_gpu_layers: int | None = None
    strategy: str | None = None
    devices: tuple[str, ...] | None = None


class IndexOut(BaseModel):
    """What a model is doing, and, where it cannot be used, why."""

    name: str
    version: str = VERSION
    state: str
    reason: str


class MemoryUsage(BaseModel):
    """Bytes of one model on one device; `id` counts the accelerators in their order."""

    type: str
    id: int
    byte_size: int


class ModelStatistics(BaseModel):
    """A loaded model's memory, beside all that is zero where nothing is inferred."""

    name: str
    version: str = VERSION
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: dict[str, dict[str, int]] = NO_INFERENCE
    batch_stats: tuple[()] = ()
    memory_usage: list[MemoryUsage]


class MemoryStatisticsOut(BaseModel):
    """The statistics of one model, or of all that are loaded."""

    model_stats: list[ModelStatistics]
