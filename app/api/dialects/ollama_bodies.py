"""What Ollama's clients send, and what of it says where a model's layers should be.

Field names: api/types.go of ollama/ollama at commit fb30760. What we do not know, and what only generates, is ignored.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    WithJsonSchema,
    model_validator,
)

from app.api.bodies import MAX_SECONDS
from app.errors import InvalidValue
from app.placement import ContextRequest, HostMode, PlacementRequest
from app.residency.wishes import Retention

SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER: Final = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_PART: Final = re.compile(rf"({_NUMBER})({'|'.join(SECONDS)}|)")
_DURATION: Final = re.compile(rf"[+-]?({_NUMBER}|({_NUMBER}({'|'.join(SECONDS)}))+)")
EXPECTED: Final = 'must be a number of seconds, or a duration such as "5m" or "1h30m"'
NEVER: Final = -1.0
MAX_TOKENS: Final = 2**31 - 1


def _seconds(value: object) -> float:
    """A number of seconds, or a duration as Go writes it (`1h30m`); whatever is negative means never."""
    if isinstance(value, str):
        value = _duration(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(EXPECTED)  # noqa: TRY004 - pydantic wants this one
    return NEVER if value < 0 or value > MAX_SECONDS else float(value)


def _duration(text: str) -> float:
    if len(text) > 100 or not _DURATION.fullmatch(text):
        raise ValueError(EXPECTED)
    seconds = sum(float(number) * SECONDS[unit or "s"] for number, unit in _PART.findall(text))
    return -seconds if text.startswith("-") else seconds


KeepAlive = Annotated[
    float,
    PlainValidator(_seconds),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "examples": ["5m", "1h30m", "-1"]}]}),
]
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)]


class Options(BaseModel):
    """Those of the options that say where layers should be; all others are for an engine, and ignored."""

    num_gpu: Annotated[int, Field(strict=True), AfterValidator(lambda n: n if n >= 0 else None)] | None = Field(
        default=None, description="Layers on accelerators; more than there are is all; negative is as if left out."
    )
    main_gpu: Annotated[int, Field(strict=True, lt=2**31)] | None = Field(
        default=None, description="The one accelerator to use, counted from 0; negative for all of them."
    )
    num_ctx: Count | None = Field(default=None, description="Tokens of context, planned for beside the weights.")
    num_batch: Count | None = Field(default=None, description="Tokens of a batch, planned for as well.")
    use_mmap: StrictBool | None = Field(default=None, description="False: what stays on the host is a copy.")
    use_mlock: StrictBool | None = Field(default=None, description="True: what stays on the host is locked.")

    def changed(self, former: PlacementRequest, n_layer: int, accelerators: Sequence[str]) -> PlacementRequest:
        """The former request with the options that were given; InvalidValue for an accelerator that there is not."""
        given: dict[str, Any] = {}
        if self.num_gpu is not None:
            given["n_gpu_layers"] = "all" if self.num_gpu > n_layer else self.num_gpu
        if self.main_gpu is not None:
            given["devices"] = None if self.main_gpu < 0 else (_accelerator(self.main_gpu, accelerators),)
        if self.num_ctx is not None or self.num_batch is not None:
            context = former.context or ContextRequest()
            n_ctx, n_batch = self.num_ctx or context.n_ctx, self.num_batch or context.n_batch
            given["context"] = replace(context, n_ctx=n_ctx, n_batch=n_batch)
        if self.use_mlock is not None or self.use_mmap is not None:
            given["host"] = self._host()
        return replace(former, **given)

    @property
    def names_a_place(self) -> bool:
        """Whether any is given: without them a loaded model stays where it is."""
        return self != Options()

    def _host(self) -> HostMode:
        if self.use_mlock:
            return HostMode.MLOCK
        return HostMode.BUFFERED if self.use_mmap is False else HostMode.MMAP


def _accelerator(number: int, accelerators: Sequence[str]) -> str:
    if number >= len(accelerators):
        known = ", ".join(f"{position} ({id_})" for position, id_ in enumerate(accelerators)) or "none"
        raise InvalidValue(f"options.main_gpu: no {number}; there are {known}", param="options.main_gpu")
    return accelerators[number]


class GenerateBody(BaseModel):
    """A model to be loaded, kept for another time, or unloaded: no text is generated."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "org/model", "keep_alive": "10m", "options": {"num_gpu": 12}},
                {"model": "org/model", "keep_alive": 0},
            ]
        }
    )

    model: Annotated[str, Field(min_length=1)] = Field(description="A model's id, with or without `:latest`.")
    prompt: str | None = Field(default=None, description="Empty, or left out.")
    keep_alive: KeepAlive | None = Field(
        default=None, description="0 unloads; else as long without use it stays: seconds, or a duration."
    )
    options: Options | None = None

    @property
    def unloads(self) -> bool:
        """Whether this is the call that unloads."""
        return self.keep_alive == 0

    def retained(self, former: Retention) -> Retention:
        """The former retention, for the time that was given."""
        return former if self.keep_alive is None else replace(former, keep_alive=self.keep_alive)


class ShowBody(BaseModel):
    """A model to be shown; older clients call it `name`."""

    model: Annotated[str, Field(min_length=1)] = Field(description="A model's id, with or without `:latest`.")
    verbose: StrictBool | None = Field(default=None, description="Long arrays whole, and the tensors.")

    @model_validator(mode="before")
    @classmethod
    def _take_the_older_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and "model" not in value and "name" in value:
            return {**value, "model": value["name"]}
        return value
