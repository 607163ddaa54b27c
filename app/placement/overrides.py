"""Overrides: single tensors placed apart from their layer, by patterns on their names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import re2

from app.errors import InvalidValue
from app.model import Tensor
from app.placement.slabs import HOST

_EXPERTS: Final = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")
"""As llama.cpp's `--cpu-moe` finds them (common/common.h)."""


def is_expert(tensor: Tensor) -> bool:
    """Whether it holds weights of a block's routed experts, of which a token uses a few: what `n_cpu_moe` is about."""
    return _EXPERTS.search(tensor.name) is not None


@dataclass(frozen=True, slots=True)
class Override:
    """Tensors in whose name the pattern is found go to the device. RE2's syntax: no pattern can hang."""

    pattern: str
    device: str


class Overrides:
    """What single tensors are placed by: a list of overrides, after it the experts of the first blocks on the host."""

    def __init__(self, overrides: Sequence[Override] = (), n_cpu_moe: int = 0) -> None:
        self._overrides = tuple(overrides)
        self._n_cpu_moe = n_cpu_moe

    def devices_of(self, tensors: Sequence[Tensor]) -> dict[str, str]:
        """By name, the devices of those tensors that are placed apart: by the first override found in the name.

        Raises InvalidValue, the index in its `param`, for what is no pattern. Slow for many patterns that are meant
        ill, the first time: look once where that keeps nobody waiting.
        """
        found = dict(_found(self._overrides, tuple(tensor.name for tensor in tensors)))
        for tensor in tensors if self._n_cpu_moe else ():
            if isinstance(tensor.layer, int) and tensor.layer < self._n_cpu_moe and is_expert(tensor):
                found.setdefault(tensor.name, HOST)
        return found


@lru_cache(maxsize=32)
def _found(overrides: tuple[Override, ...], names: tuple[str, ...]) -> Mapping[str, str]:
    rules = [(_compiled(o.pattern, f"overrides[{index}].pattern"), o.device) for index, o in enumerate(overrides)]
    first = {name: next((device for pattern, device in rules if pattern.search(name)), None) for name in names}
    return {name: device for name, device in first.items() if device is not None}


def _compiled(pattern: str, param: str) -> Any:
    try:
        return re2.compile(pattern, _options())
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
    except UnicodeEncodeError:
        reason = "not valid Unicode"
    raise InvalidValue(f"{param}: {reason}", param=param, pattern=pattern[:200])


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False  # it would write to stderr
    return options
