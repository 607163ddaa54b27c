"""The client library: drive a Loadmaster service from Python. Imports nothing of the service.

`Client` blocks, `AsyncClient` is awaited; what they return is in `loadmaster.records`, what they raise in
`loadmaster.errors`, and what they can be asked, each with an example, in `loadmaster.questions`.
"""

from loadmaster.async_client import AsyncClient
from loadmaster.client import Client
from loadmaster.errors import (
    Busy,
    Cancelled,
    DeviceError,
    DoesNotFit,
    InvalidModel,
    InvalidRequest,
    LoadmasterError,
    NotAllowed,
    NotFound,
    NotLoaded,
    Refused,
    StaleGeneration,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from loadmaster.placement import Placement
from loadmaster.records import (
    Device,
    Event,
    Job,
    Layer,
    Memory,
    Model,
    ModelDetail,
    ModelMemory,
    Plan,
    Record,
    Snapshot,
    Statistics,
    Tensor,
)

__all__ = [
    "Client",
    "AsyncClient",
    "Placement",
    "Record",
    "Model",
    "ModelDetail",
    "Layer",
    "Tensor",
    "Statistics",
    "Plan",
    "Job",
    "Device",
    "Memory",
    "ModelMemory",
    "Event",
    "Snapshot",
    "LoadmasterError",
    "Unreachable",
    "UnexpectedAnswer",
    "Refused",
    "InvalidRequest",
    "InvalidModel",
    "NotAllowed",
    "NotFound",
    "Busy",
    "NotLoaded",
    "StaleGeneration",
    "Cancelled",
    "DoesNotFit",
    "DeviceError",
    "Unavailable",
]
