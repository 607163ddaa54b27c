"""The devices and the service itself, as they go out."""

from typing import Literal

from pydantic import BaseModel

from app.devices import DeviceKind


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
