"""What the service answers, as values. Sizes are in bytes, times in seconds since the epoch; None is unknown, never 0.

Every record keeps the JSON object that it was read from as `body`: fields that a newer service adds are found there.
Names that a newer service may add to, such as states and kinds, are plain strings.
"""

from loadmaster.records.base import JSON, LayerKey, Record, read
from loadmaster.records.changes import (
    Advice,
    Change,
    DevicePlan,
    Eviction,
    Job,
    LayerPlan,
    Plan,
    PlanRow,
    Verdict,
    Verification,
)
from loadmaster.records.events import Event, Snapshot
from loadmaster.records.memory import Device, DeviceMemory, HostMemory, LayerMemory, Memory, ModelMemory
from loadmaster.records.models import (
    File,
    LargeTensor,
    Layer,
    LayerStatistics,
    Model,
    ModelDetail,
    Problem,
    Statistics,
    Tensor,
    Token,
    TypeStatistics,
    VocabularyFacts,
)

__all__ = [
    "JSON",
    "LayerKey",
    "Record",
    "read",
    "Problem",
    "Model",
    "File",
    "VocabularyFacts",
    "ModelDetail",
    "Layer",
    "Tensor",
    "Token",
    "TypeStatistics",
    "LayerStatistics",
    "LargeTensor",
    "Statistics",
    "Device",
    "DeviceMemory",
    "HostMemory",
    "LayerMemory",
    "ModelMemory",
    "Memory",
    "Eviction",
    "Change",
    "Verdict",
    "Verification",
    "Job",
    "DevicePlan",
    "LayerPlan",
    "Advice",
    "PlanRow",
    "Plan",
    "Snapshot",
    "Event",
]
