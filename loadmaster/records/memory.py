"""Devices, and who holds what of their memory. Sizes are in bytes; None is unknown, never 0."""

from dataclasses import dataclass

from loadmaster.records.base import LayerKey, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Device(Record):
    """A place for bytes, and what it can do; `lost` says why it can do nothing any more."""

    id: str
    kind: str
    name: str
    uuid: str | None
    lost: str | None
    total_bytes: int | None
    free_bytes: int | None
    others_bytes: int | None
    limit_bytes: int
    capabilities: dict[str, bool | int | str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory(Record):
    """One accelerator: what its driver reports (total, free, others'), and what Loadmaster holds and may hold."""

    id: str
    kind: str
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


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory(Record):
    """The host: the system's memory, and what models have in it."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int
    mapped_bytes: int
    resident_bytes: int | None
    locked_bytes: int
    buffered_bytes: int
    staging_bytes: int
    process_rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMemory(Record):
    """A layer's tensor bytes by device id; they add up to `size_bytes`."""

    layer: LayerKey
    size_bytes: int
    devices: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMemory(Record):
    """A loaded model's tensor bytes by device id, the host ("cpu") included; `layers` only if one model is asked."""

    id: str
    total_bytes: int
    gpu_bytes: int
    cpu_bytes: int
    gpu_percent: float
    cpu_percent: float
    devices: dict[str, int]
    layers: tuple[LayerMemory, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(Record):
    """All memory in one answer: accelerators, host, loaded models."""

    time: float
    devices: tuple[DeviceMemory, ...]
    host: HostMemory
    models: tuple[ModelMemory, ...]
