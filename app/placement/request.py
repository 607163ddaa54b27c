"""What a caller may ask of the planner, with its defaults."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Strategy(StrEnum):
    """Which n of the L blocks go to the GPU; input and output go there as soon as n is 1 or more."""

    FIRST = "first"
    LAST = "last"
    ENDS = "ends"


class SplitMode(StrEnum):
    """How the offloaded layers are shared among several devices."""

    NONE = "none"
    LAYER = "layer"


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
