"""Settings: every environment variable, read once, by `main` and `cli` only."""

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.devices.limits import parse_limits
from app.devices.settings import parse_devices
from app.errors import InvalidValue

PREFIX = "LOADMASTER_"
CLIENT_VARIABLES = ("LOADMASTER_URL", "LOADMASTER_API_KEY")
"""What the command line and the client library read, and the service does not."""
GRAMMARS: dict[str, Callable[[str], object]] = {"devices": parse_devices, "memory_limit": parse_limits}


class Settings(BaseSettings):
    """Environment variables with the prefix LOADMASTER_; `loadmaster serve` overrides them by options."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    models_dir: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(Path("models"),), description="Where the GGUF files are; several directories are joined by `:`."
    )
    devices: str = Field(
        default="auto", description="`auto`, `none`, `cuda`, or a list such as `sim:8GiB,sim:8GiB@12GiB/s`."
    )
    memory_limit: str = Field(
        default="all", description="What of each device may be ours: `all`, `20GiB`, `80%`, or `cuda:0=20GiB,cpu=50%`."
    )
    state_dir: Path = Field(
        default=Path("~/.local/state/loadmaster"), description="Where wishes are kept over a restart."
    )
    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=8288, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    allow_unauthenticated: bool = Field(
        default=False, description="Listen on other addresses than loopback although there are no keys."
    )

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Names that the service may be called by, beside loopback and `host`; comma-separated."
    )

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        return (
            tuple(part.strip().lower() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("models_dir", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part for part in value.split(":") if part)
        return (value,) if isinstance(value, Path) else value

    @field_validator("models_dir")
    @classmethod
    def _expand_all(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if not value:
            raise ValueError("at least one directory is needed")
        return tuple(path.expanduser() for path in value)

    @field_validator(*GRAMMARS)
    @classmethod
    def _read(cls, value: str, info: ValidationInfo) -> str:
        try:
            GRAMMARS[str(info.field_name)](value)
        except InvalidValue as error:
            raise ValueError(error.message.removeprefix(f"{error.param}: ")) from None
        return value

    @field_validator("state_dir")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser()

    @model_validator(mode="after")
    def _refuse_what_is_no_setting(self) -> Self:
        known = {f"{PREFIX}{name}".upper() for name in type(self).model_fields}
        if "LOADMASTER_API_KEY" in os.environ and not {"LOADMASTER_API_KEYS", "LOADMASTER_API_KEYS_FILE"} & set(
            os.environ
        ):
            raise ValueError(
                "LOADMASTER_API_KEY is what a client sends; the service would listen without any key. Its own are "
                "LOADMASTER_API_KEYS; unset this one if none are wanted"
            )
        unknown = sorted(
            name
            for name in map(str.upper, os.environ)
            if name.startswith(PREFIX) and name not in {*known, *CLIENT_VARIABLES}
        )
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such setting; there are {', '.join(sorted(known))}")
        return self

    @model_validator(mode="after")
    def _refuse_an_open_door(self) -> Self:
        if not self.allow_unauthenticated and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is reachable from other machines, and there are no keys: anybody could load and "
                "unload models. Listen on 127.0.0.1, or set LOADMASTER_ALLOW_UNAUTHENTICATED=true if something else "
                "keeps strangers out"
            )
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
