"""What Ollama's clients are answered with: their fields, and ours beside them. All sizes are in bytes.

Field names: api/types.go of ollama/ollama at commit fb30760.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict


class DetailsOut(BaseModel):
    """What kind of model it is."""

    parent_model: str = ""
    format: str = "gguf"
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class TagOut(BaseModel):
    """A model that can be loaded; `size` is that of its files, in bytes."""

    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: DetailsOut


class TagsOut(BaseModel):
    """The models that can be loaded."""

    models: list[TagOut]


class ProcessOut(BaseModel):
    """A loaded model: bytes in all, on accelerators, and by device; and what it was loaded by."""

    name: str
    model: str
    size: int
    digest: str
    details: DetailsOut
    expires_at: datetime
    size_vram: int
    context_length: int
    devices: dict[str, int]
    options: dict[str, int | bool]


class ProcessesOut(BaseModel):
    """The loaded models."""

    models: list[ProcessOut]


class VersionOut(BaseModel):
    """Ours, not Ollama's."""

    version: str


class ShowOut(BaseModel):
    """A model's file, in short; `parameters` are the options that it is loaded by, one a line."""

    model_config = ConfigDict(protected_namespaces=())

    license: str
    modelfile: str
    parameters: str
    template: str
    details: DetailsOut
    model_info: dict[str, Any]
    tensors: list[dict[str, Any]] | None = None
    capabilities: tuple[()] = ()
    modified_at: datetime


class GenerateOut(BaseModel):
    """What was done; `options` are those that the model is loaded by now."""

    model: str
    created_at: datetime
    response: str = ""
    done: bool = True
    done_reason: str
    options: dict[str, int | bool]
