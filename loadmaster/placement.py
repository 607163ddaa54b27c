"""How layers are to be placed: the fields of the service's own body, as types for editors and mypy.

They go out as they are: a field that a newer service knows, and this library does not, can be given all the same.
"""

from typing import Literal, TypedDict


class Split(TypedDict, total=False):
    """How layers are shared among devices: `mode` is none, layer or row; `weights` free, equal, or numbers."""

    mode: Literal["none", "layer", "row"]
    weights: Literal["free", "equal"] | list[float]


class Override(TypedDict):
    """Tensors in whose name the pattern (RE2) is found go to the device."""

    pattern: str
    device: str


class Context(TypedDict, total=False):
    """What an engine will need beside the weights."""

    n_ctx: int
    n_seq: int
    kv_unified: bool
    kv_offload: bool
    cache_type_k: str
    cache_type_v: str
    flash_attention: bool
    n_batch: int
    n_ubatch: int


class Placement(TypedDict, total=False):
    """Where layers should be: the fields of the service's own body, all of which may be left out."""

    n_gpu_layers: int | Literal["all", "auto"]
    strategy: Literal["first", "last", "ends", "llama.cpp", "best"]
    devices: list[str]
    split: Split
    overrides: list[Override]
    n_cpu_moe: int
    context: Context | None
    margin_bytes: int
    host: Literal["mmap", "mlock", "buffered"]
    rebalance: bool
    evict: bool | Literal["layers"]
    pinned: bool
    keep_alive: float
    allow_unknown_architecture: bool
