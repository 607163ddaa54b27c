"""Overrides: single tensors placed apart from their layer, by patterns on their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import re2

from app.errors import InvalidValue
from app.placement.slabs import HOST

_EXPERTS: Final = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""The tensors of a block's routed experts, as llama.cpp's `--cpu-moe` names them (common/common.h)."""


@dataclass(frozen=True, slots=True)
class Override:
    """Tensors in whose name the pattern is found go to the device. RE2's syntax: no pattern can hang."""

    pattern: str
    device: str


def experts_on_host(n_blocks: int | None = None) -> Override:
    """Keep the experts of the first `n_blocks` blocks on the host, 1 or more, or of all blocks."""
    if n_blocks is None:
        return Override(_EXPERTS, HOST)
    numbers = "|".join(map(str, range(n_blocks)))
    return Override(rf"blk\.({numbers}){_EXPERTS}", HOST)


class Overrides:
    """A list of overrides, compiled. Raises InvalidValue, the index in its `param`, for what is no pattern."""

    def __init__(self, overrides: Sequence[Override] = ()) -> None:
        self._rules = [
            (_compiled(override.pattern, f"overrides[{index}].pattern"), override.device)
            for index, override in enumerate(overrides)
        ]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def device_of(self, name: str) -> str | None:
        """The device of the first override whose pattern is found in the name; None where none is."""
        return next((device for pattern, device in self._rules if pattern.search(name)), None)


def _compiled(pattern: str, param: str) -> Any:
    options = re2.Options()
    options.log_errors = False  # it would write to stderr
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
    except UnicodeEncodeError:
        reason = "not valid Unicode"
    raise InvalidValue(f"{param}: {reason}", param=param, pattern=pattern[:200])
