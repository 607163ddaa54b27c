"""Settings: every environment variable, read once, by `main` and `cli` only."""

import ipaddress
import os
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.api.keys import Key, parse_keys
from app.devices.limits import parse_limits
from app.devices.settings import parse_devices
from app.errors import InvalidValue

PREFIX = "LOADMASTER_"
ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
MAX_KEYS_BYTES = 1 << 20
CLIENT_VARIABLES = ("LOADMASTER_URL", "LOADMASTER_API_KEY")
"""What the command line and the client library read, and the service does not."""
GRAMMARS: dict[str, Callable[[str], object]] = {"devices": parse_devices, "memory_limit": parse_limits}


class LogFormat(StrEnum):
    """How a line is written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """What is written at least."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Settings(BaseSettings):
    """Environment variables with the prefix LOADMASTER_; `loadmaster serve` overrides them by options."""

    # An error must not show what it is about: it may be a key.
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

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
    api_keys: SecretStr | None = Field(
        default=None, description="`name:role:key`, the role `read` or `admin`; several are comma-separated."
    )
    api_keys_file: Path | None = Field(
        default=None, description="A file of such keys, one a line; `#` begins a comment. Read at the start."
    )
    allow_unauthenticated: bool = Field(
        default=False, description="Listen on other addresses than loopback although there are no keys."
    )
    log_format: LogFormat = Field(default=LogFormat.TEXT, description="How a line of the log is written.")
    log_level: LogLevel = Field(default=LogLevel.INFO, description="What is logged at least.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Names that the service may be called by, beside loopback and `host`; comma-separated."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Pages of other origins that may call the service; comma-separated."
    )

    _keys: tuple[Key, ...] = PrivateAttr(default=())

    @property
    def keys(self) -> tuple[Key, ...]:
        """Who may call; empty where anybody may."""
        return self._keys

    @field_validator("allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
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

    @field_validator("cors_origins")
    @classmethod
    def _refuse_what_is_no_origin(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r}: expected an origin such as https://board.example, without a path or `*`")
        return value

    @model_validator(mode="after")
    def _read_keys(self) -> Self:
        try:
            self._keys = parse_keys(
                None if self.api_keys is None else self.api_keys.get_secret_value(),
                None if self.api_keys_file is None else _text(self.api_keys_file),
            )
        except InvalidValue as error:
            raise ValueError(error.message) from None
        return self

    @model_validator(mode="after")
    def _refuse_what_is_no_setting(self) -> Self:
        known = {f"{PREFIX}{name}".upper() for name in type(self).model_fields}
        given = {name for name in map(str.upper, os.environ) if name.startswith(PREFIX)}
        if "LOADMASTER_API_KEY" in given and not self.keys:
            raise ValueError(
                "LOADMASTER_API_KEY is what a client sends; the service would listen without any key. Its own are "
                "LOADMASTER_API_KEYS; unset this one if none are wanted"
            )
        unknown = sorted(given - known - set(CLIENT_VARIABLES))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such setting; there are {', '.join(sorted(known))}")
        return self

    @model_validator(mode="after")
    def _refuse_an_open_door(self) -> Self:
        if not self.keys and not self.allow_unauthenticated and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is reachable from other machines, and there are no keys: anybody could load and "
                "unload models. Set LOADMASTER_API_KEYS or LOADMASTER_API_KEYS_FILE, listen on 127.0.0.1, or set "
                "LOADMASTER_ALLOW_UNAUTHENTICATED=true if something else keeps strangers out"
            )
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _text(path: Path) -> str:
    """A file of keys; ValueError, without a word of what is in it."""
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(MAX_KEYS_BYTES + 1)
        if len(content) > MAX_KEYS_BYTES:
            raise ValueError(f"{path} is larger than {MAX_KEYS_BYTES} bytes")
        return content.decode("utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:  # which would show what it could not decode
        raise ValueError(f"{path} is not UTF-8 text") from None
