"""How to get from one placement to another: in one step where both fit side by side, else layer by layer.

A step stages new slabs, switches the model to them and releases others, in that order; each step is atomic for whoever
looks. Bytes travel from the file only, so that a release needs nothing and a move between devices is a copy like any
other. All sizes are in bytes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.placement.slabs import Slab, slab_sums


class MoveMode(StrEnum):
    """`atomic`: everything staged beside the old, one switch. `incremental`: one layer at a time."""

    ATOMIC = "atomic"
    INCREMENTAL = "incremental"


@dataclass(frozen=True, slots=True)
class Step:
    """Stage these, switch, then release those."""

    stage: tuple[Slab, ...]
    release: tuple[Slab, ...]


@dataclass(frozen=True, slots=True)
class Moves:
    """The steps between two placements; none where they are the same."""

    mode: MoveMode
    steps: tuple[Step, ...]

    @property
    def copied_bytes(self) -> int:
        """Tensor bytes that will be copied to devices."""
        return sum(slab.weights_bytes for step in self.steps for slab in step.stage)

    @property
    def released(self) -> dict[str, int]:
        """Slab bytes that will be given back, by device id."""
        return slab_sums(slab for step in self.steps for slab in step.release)

    @property
    def released_bytes(self) -> int:
        """The same of all devices together."""
        return sum(self.released.values())

    def claims(self) -> dict[str, int]:
        """By device id, the most that the model will hold beyond what it holds at the start."""
        return claims(self.steps)


def claims(steps: Collection[Step]) -> dict[str, int]:
    """By device id, the most slab bytes that these steps hold beyond those held before them, at any time."""
    extra: dict[str, int] = {}
    most: dict[str, int] = {}
    for step in steps:
        for device, nbytes in slab_sums(step.stage).items():
            extra[device] = extra.get(device, 0) + nbytes
            most[device] = max(most.get(device, 0), extra[device])
        for device, nbytes in slab_sums(step.release).items():
            extra[device] = extra.get(device, 0) - nbytes
    return most


def moves(current: Collection[Slab], target: Collection[Slab], room: Mapping[str, int]) -> Moves:
    """The steps from `current` to `target`, in an order in which no device overflows on the way.

    `room` is what the model may hold of each device, its present slabs included. Both ends must fit in it; then every
    state between does, with the slabs of a step's both sides counted while it runs.
    """
    here, there = set(current), set(target)
    stage = [slab for slab in target if slab not in here]
    release = [slab for slab in current if slab not in there]
    if not stage and not release:
        return Moves(MoveMode.ATOMIC, ())
    held = slab_sums(here)
    peak = slab_sums([*here, *stage])
    if all(peak[slab.device] <= room.get(slab.device, 0) for slab in stage):
        return Moves(MoveMode.ATOMIC, (Step(tuple(stage), tuple(release)),))
    return Moves(MoveMode.INCREMENTAL, tuple(_one_by_one(stage, release, held, room)))


def _one_by_one(stage: list[Slab], release: list[Slab], held: dict[str, int], room: Mapping[str, int]) -> list[Step]:
    """Stage whatever fits; where nothing does, take one layer that is in the way off its device.

    A layer that only changes devices stays readable on its old one until its copy is there, if there is room at all.
    """
    steps = []
    moving = {slab.layer for slab in stage}
    while stage:
        fitting = next((s for s in stage if held.get(s.device, 0) + s.nbytes <= room.get(s.device, 0)), None)
        if fitting is not None:
            replaced = tuple(slab for slab in release if slab.layer == fitting.layer)
            steps.append(Step((fitting,), replaced))
            stage.remove(fitting)
            held[fitting.device] = held.get(fitting.device, 0) + fitting.nbytes
        else:
            wanted = {slab.device for slab in stage}
            in_the_way = [slab for slab in release if slab.device in wanted]
            # First one that leaves for the host anyway; else one that makes room for the next to be staged.
            replaced = (min(in_the_way, key=lambda s: (s.layer in moving, s.device != stage[0].device)),)
            steps.append(Step((), replaced))
        for slab in replaced:
            release.remove(slab)
            held[slab.device] -= slab.nbytes
    if release:
        steps.append(Step((), tuple(release)))
    return steps
