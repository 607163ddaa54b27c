"""What comes in: the bodies of requests, checked for all that can be checked without a model."""

import re
from dataclasses import fields, replace
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    WithJsonSchema,
    field_validator,
)

from app.errors import InvalidValue
from app.placement import ContextRequest, HostMode, Override, PlacementRequest, SplitMode, Strategy
from app.residency.eviction import Evict
from app.residency.wishes import Retention

MAX_INTEGER = 2**63 - 1
MAX_SECONDS = 10**9  # some thirty years


def _n_gpu_layers(value: object) -> object:
    if value in ("all", "auto") or (type(value) is int and 0 <= value <= MAX_INTEGER):
        return value
    raise ValueError('must be an integer from 0 to the model\'s number of layers, "all" or "auto"')


NGpuLayers = Annotated[
    int | Literal["all", "auto"],
    PlainValidator(_n_gpu_layers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"enum": ["all", "auto"]}]}),
]


def _weights(value: object) -> object:
    if value in ("free", "equal"):
        return value
    numbers = value if isinstance(value, list) else []
    finite = [number for number in numbers if type(number) in (int, float) and 0 <= number < float("inf")]
    if not numbers or len(finite) != len(numbers) or max(finite) > MAX_INTEGER or not any(finite):
        raise ValueError('must be "free", "equal", or a list of numbers, none below 0 and not all 0')
    return tuple(float(number) for number in finite)


Weights = Annotated[
    tuple[float, ...] | Literal["free", "equal"],
    PlainValidator(_weights),
    WithJsonSchema(
        {"anyOf": [{"enum": ["free", "equal"]}, {"type": "array", "items": {"type": "number", "minimum": 0}}]}
    ),
]


def _keep_alive(value: object) -> object:
    if isinstance(value, int | float) and type(value) is not bool and (value == -1 or 0 <= value <= MAX_SECONDS):
        return value
    raise ValueError(f"must be -1 or a number of seconds from 0 to {MAX_SECONDS}")


KeepAlive = Annotated[
    float,
    PlainValidator(_keep_alive),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": MAX_SECONDS}, {"const": -1}]}),
]


def _eviction(value: object) -> object:
    if value == "layers" or type(value) is bool:
        return value
    raise ValueError('must be true, false or "layers"')


Eviction = Annotated[
    bool | Literal["layers"],
    PlainValidator(_eviction),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"const": "layers"}]}),
]


class Split(BaseModel):
    """How the offloaded layers are shared among several devices."""

    model_config = ConfigDict(extra="forbid")

    mode: SplitMode = Field(
        default=SplitMode.LAYER,
        description="`none`: one device. `layer`: contiguous runs. `row`: each matrix cut by rows.",
    )
    weights: Weights = Field(
        default="free",
        description="`free`: every device filled to the same share. `equal`: n // devices each, the rest to the last. "
        "Numbers: in proportion, one for each device.",
    )


class OverrideBody(BaseModel):
    """Tensors in whose name the pattern is found go to the device."""

    model_config = ConfigDict(extra="forbid")

    pattern: Annotated[str, Field(min_length=1, max_length=1000)] = Field(description="A regular expression (RE2).")
    device: Annotated[str, Field(max_length=100)] = Field(description='An accelerator\'s id or UUID, or "cpu".')


Count = Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)]


class ContextBody(BaseModel):
    """What an engine will need beside the weights; the names are llama.cpp's."""

    model_config = ConfigDict(extra="forbid")

    n_ctx: Count | None = Field(default=None, description="Tokens of all sequences; the model's own if left out.")
    n_seq: Count = Field(default=1, description="Sequences at once.")
    kv_unified: StrictBool = Field(default=False, description="All sequences share the cells.")
    kv_offload: StrictBool = Field(default=True, description="The cache is where its layer is.")
    cache_type_k: str = Field(default="f16", max_length=20, description="As ggml names it, in lower case.")
    cache_type_v: str = Field(default="f16", max_length=20, description="As ggml names it, in lower case.")
    flash_attention: StrictBool = True
    n_batch: Count = 2048
    n_ubatch: Count = 512

    def request(self) -> ContextRequest:
        """The request; InvalidValue, naming the field, for what cannot be."""
        return ContextRequest(**self.model_dump())


class PlacementBody(BaseModel):
    """Where a model's layers should be. Shared by load, plan and offload; all fields may be left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"n_gpu_layers": 12},
                {"n_gpu_layers": "auto", "strategy": "ends", "split": {"mode": "layer", "weights": "equal"}},
                {"strategy": "llama.cpp", "context": {"n_ctx": 4096, "cache_type_k": "q8_0"}, "n_cpu_moe": 4},
                {"n_gpu_layers": "all", "devices": ["sim:1"], "margin_bytes": 1048576, "wait": True},
                {"n_gpu_layers": "all", "evict": "layers", "pinned": True, "keep_alive": 300},
            ]
        },
    )

    n_gpu_layers: NGpuLayers = Field(default="auto", description="`auto`: the largest number that fits.")
    strategy: Strategy = Field(
        default=Strategy.FIRST,
        description="First, last or both ends, llama.cpp's, or the best.",
    )
    devices: Annotated[list[Annotated[str, Field(max_length=100)]], Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Ids or UUIDs of the accelerators to use, in order; all if left out."
    )
    split: Split = Split()
    margin_bytes: Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)] = Field(
        default=0, description="Bytes to keep free on every device."
    )
    host: HostMode = Field(
        default=HostMode.MMAP, description="How what stays on the host is kept: mapped, locked, or as a copy."
    )
    overrides: Annotated[list[OverrideBody], Field(max_length=256)] = Field(
        default=[], description="The first one whose pattern is found in a tensor's name decides its device."
    )
    n_cpu_moe: Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)] = Field(
        default=0, description="The experts of so many blocks, from the first, stay on the host."
    )
    context: ContextBody | None = Field(
        default=None, description="What an engine will need beside the weights: planned for, and shown."
    )
    rebalance: StrictBool = Field(default=False, description="Deal all layers out anew instead of moving few.")
    evict: Eviction = Field(
        default=True,
        description="What idle models do where this does not fit otherwise, the least recently used first: `true`, as "
        'few as needed are unloaded; `"layers"`, they stay loaded and take layers off devices; `false`, nothing.',
    )
    pinned: StrictBool = Field(default=False, description="Never evicted to make room for another model.")
    keep_alive: KeepAlive = Field(
        default=-1, description="Seconds without use after which it is unloaded; 0 as soon as it is idle, -1 never."
    )
    allow_unknown_architecture: StrictBool = Field(default=False, description="Load it even if we do not know it.")
    wait: StrictBool = Field(default=False, description="Answer when the work is done.")

    @field_validator("devices")
    @classmethod
    def _no_device_twice(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("names a device twice")
        return value

    def request(self) -> PlacementRequest:
        """The whole request, with the defaults for what was left out."""
        return self.changed(PlacementRequest())

    def retention(self) -> Retention:
        """How long the model is to stay, with the defaults for what was left out."""
        return Retention(self.pinned, self.keep_alive)

    def retained(self, former: Retention) -> Retention:
        """The former retention with the fields that were given."""
        given = self.model_fields_set & {field.name for field in fields(Retention)}
        return replace(former, **{name: getattr(self, name) for name in given})

    @property
    def names_a_place(self) -> bool:
        """Whether any field is given that says where layers are to be."""
        placing = {field.name for field in fields(PlacementRequest)} | {"split", "rebalance"}
        return bool(self.model_fields_set & placing)

    def eviction(self) -> Evict:
        """What may be done to idle models."""
        return Evict.LAYERS if self.evict == "layers" else Evict.MODELS if self.evict else Evict.NONE

    def changed(self, former: PlacementRequest) -> PlacementRequest:
        """The former request with the fields that were given; of `split`, with the parts that were."""
        planned = self.model_fields_set & {field.name for field in fields(PlacementRequest)}
        given = {name: getattr(self, name) for name in planned}
        given |= {f"split_{part}": getattr(self.split, part) for part in self.split.model_fields_set}
        if self.devices is not None:
            given["devices"] = tuple(self.devices)
        if "overrides" in given:
            given["overrides"] = tuple(Override(one.pattern, one.device) for one in self.overrides)
        if self.context is not None:
            given["context"] = self.context.request()
        return replace(former, **given)


class PlanBody(PlacementBody):
    """A placement to be planned."""

    table: StrictBool = Field(default=False, description="Add a row for every n_gpu_layers, by the plan's n_cpu_moe.")


class WaitBody(BaseModel):
    """The body of an unload."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"wait": True}]})

    wait: StrictBool = Field(default=False, description="Answer when the memory is free again.")


class VerifyBody(WaitBody):
    """The body of a verification."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"deep": True, "wait": True}]})

    deep: StrictBool = Field(default=False, description="Look at every byte: valid data, and true copies on devices.")


class TokenizeBody(BaseModel):
    """A text to be tokenized."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"content": "Hello world"},
                {"content": "<|im_start|>user", "add_special": True, "with_pieces": True},
            ]
        },
    )

    content: Annotated[str, Field(strict=True)]
    add_special: StrictBool = Field(
        default=False, description="Put before and after it what the model wants there, `<s>` or so."
    )
    parse_special: StrictBool = Field(
        default=True, description="Find special tokens in the text; else only those that users have defined."
    )
    with_pieces: StrictBool = Field(default=False, description="Say of each token what it stands for.")


class DetokenizeBody(BaseModel):
    """Tokens to be made text again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"tokens": [19556, 905]}]})

    tokens: list[Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)]]


def generation_of(if_match: str | None) -> int | None:
    """The generation that an If-Match header names; None where it names none, or any (`*`)."""
    if if_match is None or if_match.strip() == "*":
        return None
    named = re.fullmatch(r'\s*"?(\d{1,18})"?\s*', if_match)
    if named is None:
        raise InvalidValue(f"If-Match: must be one generation in quotes, got {if_match[:100]!r}", param="If-Match")
    return int(named[1])
