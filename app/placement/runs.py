"""Runs: what each device would need for any run of the layers that are to be dealt out. Sizes are in bytes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import groupby
from typing import Final, NamedTuple

from app.model import LayerKey
from app.placement.graph import NOTHING, Share
from app.placement.split import Step, fill_evenly, fill_gaps

_ANY: Final = ""
"""Stands for all devices that nothing is on before."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How devices' parts of the graph grow as layers join them, for one n of one strategy."""

    share_of: Callable[[LayerKey, str], Share]
    """What a layer adds to the part of the device that it is on."""
    fixed: Mapping[str, Share]
    """Of each device that an override names, the part that it has wherever the layers go."""
    nbytes: Callable[[Share], int]
    turns: frozenset[LayerKey]
    """The layers with which a part may need less than without them."""


WEIGHTS_ONLY: Final = Growth(lambda _key, _device: NOTHING, {}, lambda _part: 0, frozenset())


class _Group(NamedTuple):
    """Layers that are alike, one after the other, up to `stop`; `stage` counts the turns until then."""

    stop: int
    share: Share
    stage: int


class Runs:
    """The layers that are new on these devices, in order, beside those that are kept there."""

    def __init__(
        self,
        layers: Iterable[LayerKey],
        nbytes: Mapping[LayerKey, int],
        rooms: Mapping[str, int],
        kept: Mapping[LayerKey, str],
        growth: Growth,
    ) -> None:
        self._layers = [key for key in layers if key not in kept]
        self._sizes = [nbytes[key] for key in self._layers]
        self._devices, self._rooms = list(rooms), list(rooms.values())
        self._growth = growth
        self._held = dict.fromkeys(rooms, 0)
        self._shares = dict(growth.fixed)
        for key, device in kept.items():
            self._held[device] += nbytes[key]
            self._shares[device] = self._shares.get(device, NOTHING).joined(growth.share_of(key, device))
        self._groups = cache(self._groups_on)
        self._steps = cache(self._steps_from)

    def dealt(self) -> dict[LayerKey, str]:
        """A contiguous run for each device: runs that fit, if any do.

        If none do, and layers are kept, what fits into the gaps beside them, in any order.
        """
        chosen = fill_evenly(self._sizes, self._rooms, self.steps)
        if any(self._held.values()) and not self._fits(chosen):
            chosen = fill_gaps(self._sizes, self._gaps()) or chosen
        return {key: self._devices[index] for key, index in zip(self._layers, chosen, strict=True)}

    def steps(self, index: int, start: int) -> Sequence[Step]:
        """What a device needs beside the layers' own bytes, for the runs from `start`, by where they stop."""
        device = self._devices[index]
        alike = device if device in self._shares else _ANY
        groups, numbers = self._groups(alike)
        return self._steps(alike, numbers[start]) if groups else ()

    def _groups_on(self, device: str) -> tuple[list[_Group], list[int]]:
        """The groups, and the number of the one that a run begins with, by where it starts."""
        groups: list[_Group] = []
        numbers: list[int] = []
        stage = 0
        shares = ((self._growth.share_of(key, device), key in self._growth.turns) for key in self._layers)
        for (share, turn), members in groupby(shares):
            numbers += (len(groups) for _ in members)
            stage += turn
            groups.append(_Group(len(numbers), share, stage))
        return groups, [*numbers, len(groups)]

    def _steps_from(self, device: str, first: int) -> list[Step]:
        steps: list[Step] = []
        share, held = self._shares.get(device, NOTHING), self._held.get(device, 0)
        for stop, joining, stage in self._groups(device)[0][first:]:
            share = share.joined(joining)
            step = Step(stop, held + self._growth.nbytes(share), stage)
            if steps and steps[-1][1:] == step[1:]:
                steps.pop()
            steps.append(step)
        return steps

    def _fits(self, chosen: Sequence[int]) -> bool:
        for index, (device, room) in enumerate(zip(self._devices, self._rooms, strict=True)):
            mine = [number for number, home in enumerate(chosen) if home == index]
            if self._beside(device, mine) + sum(self._sizes[number] for number in mine) > room:
                return False
        return True

    def _gaps(self) -> list[int]:
        """What each device has left, with a graph for all of the new layers."""
        everything = range(len(self._layers))
        return [
            room - self._beside(device, everything) for device, room in zip(self._devices, self._rooms, strict=True)
        ]

    def _beside(self, device: str, numbers: Iterable[int]) -> int:
        """What a device needs for these layers beside their bytes."""
        parts = (self._growth.share_of(self._layers[number], device) for number in numbers)
        share = reduce(Share.joined, parts, self._shares.get(device, NOTHING))
        return self._held[device] + self._growth.nbytes(share)
