"""What a caller may ask of the planner, with its defaults."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from app.placement.context import ContextRequest
from app.placement.overrides import Override


class Strategy(StrEnum):
    """Which n of the L blocks go to the GPU; input and output go there as soon as n is 1 or more.

    `llama.cpp` is its own: the last blocks, the output counted first, so that n goes up to L + 1; the input stays.
    `best` is whichever of the first three keeps most of what a token reads on the GPU.
    """

    FIRST = "first"
    LAST = "last"
    ENDS = "ends"
    LLAMA_CPP = "llama.cpp"
    BEST = "best"


class SplitMode(StrEnum):
    """How the offloaded layers are shared among several devices."""

    NONE = "none"
    LAYER = "layer"
    ROW = "row"


class HostMode(StrEnum):
    """How the layers that stay on the host are kept: the file's pages, the same locked, or a copy of our own."""

    MMAP = "mmap"
    MLOCK = "mlock"
    BUFFERED = "buffered"


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """One request to the planner, already checked for what can be checked without a model."""

    n_gpu_layers: int | Literal["all", "auto"] = "auto"
    strategy: Strategy = Strategy.FIRST
    devices: tuple[str, ...] | None = None
    """Ids of the accelerators that may be used, in order; None for all."""
    split_mode: SplitMode = SplitMode.LAYER
    split_weights: tuple[float, ...] | Literal["free", "equal"] = "free"
    margin_bytes: int = 0
    """Kept free on every device, beside what the placement needs."""
    host: HostMode = HostMode.MMAP
    overrides: tuple[Override, ...] = ()
    """The first one whose pattern is found in a tensor's name decides its device."""
    n_cpu_moe: int = 0
    """The experts of so many blocks, from the first, stay on the host."""
    context: ContextRequest | None = None
    """What an engine will need beside the weights; None where nothing is to be planned for it."""
