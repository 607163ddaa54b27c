"""Overrides: single tensors placed apart from their layer, by patterns on their names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import re2

from app.errors import InvalidValue
from app.model import Tensor
from app.placement.slabs import HOST

_EXPERTS: Final = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")
"""The tensors of a block's routed experts, as llama.cpp's `--cpu-moe` names them (common/common.h)."""


@dataclass(frozen=True, slots=True)
class Override:
    """Tensors in whose name the pattern is found go to the device. RE2's syntax: no pattern can hang."""

    pattern: str
    device: str


class Overrides:
    """What single tensors are placed by: a list of overrides, after it the experts of the first blocks on the host.

    Raises InvalidValue, the index in its `param`, for what is no pattern.
    """

    def __init__(self, overrides: Sequence[Override] = (), n_cpu_moe: int = 0) -> None:
        self._rules = [
            (_compiled(override.pattern, f"overrides[{index}].pattern"), override.device)
            for index, override in enumerate(overrides)
        ]
        self._n_cpu_moe = n_cpu_moe

    def __bool__(self) -> bool:
        return bool(self._rules or self._n_cpu_moe)

    def device_of(self, tensor: Tensor) -> str | None:
        """The device of the first override whose pattern is found in the name; None where none is."""
        for pattern, device in self._rules:
            if pattern.search(tensor.name):
                return device
        expert = isinstance(tensor.layer, int) and tensor.layer < self._n_cpu_moe and _EXPERTS.search(tensor.name)
        return HOST if expert else None


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
