"""How layers are shared among devices: pure arithmetic on sizes and counts."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Final, NamedTuple

WHOLE: Final = 1 << 24
"""A device's whole room, in the parts that shares are counted in: integers, for sizes go up to 2^63."""
_NEAR: Final = WHOLE >> 8
"""Shares that are so near are the same: what is above the least is a 256th of a room at most."""


class Step(NamedTuple):
    """Runs of items that stop after the step before, and at `stop` at the latest."""

    stop: int
    beside: int
    """What a device needs for one of them in bytes, its items' sizes apart, and with all that it holds already."""
    stage: int
    """Steps of one stage need no less than those before, and no more from a later start in the same stage."""


def fill_evenly(sizes: Sequence[int], rooms: Sequence[int], steps: Callable[[int, int], Sequence[Step]]) -> list[int]:
    """Cut `sizes` into contiguous runs, one per device in order, so that the fullest device is the least full, nearly.

    `rooms[d]` is what device d can hold in bytes, `steps(d, start)` what it needs for runs from `start`. Returns each
    item's device index. If any contiguous cut fits, the one returned fits. Where none does, the least overfull one is
    returned.
    """
    ends = list(accumulate(sizes, initial=0))
    whole = _cut(ends, rooms, steps, WHOLE)
    # No share can be less than that of all sizes in all rooms; and the least is seldom far above.
    low, width = WHOLE * ends[-1] // max(1, sum(rooms)), WHOLE >> 4
    if whole is None:
        low = max(low, WHOLE)
    best, high = None, low
    while best is None and width < WHOLE << 40:
        high = min(low + width, WHOLE) if whole else low + width  # what fits must not become what does not
        best = whole if high == WHOLE else _cut(ends, rooms, steps, high)
        low, width = (low, width) if best else (high, 2 * width)
    if best is None:  # no room anywhere
        return [max(range(len(rooms)), key=rooms.__getitem__)] * len(sizes)
    while high - low > _NEAR:
        middle = (low + high) // 2
        if (found := _cut(ends, rooms, steps, middle)) is None:
            low = middle
        else:
            high, best = middle, found
    return [device for device, (start, stop) in enumerate(pairwise(best)) for _ in range(stop - start)]


def _cut(
    ends: Sequence[int], rooms: Sequence[int], steps: Callable[[int, int], Sequence[Step]], share: int
) -> tuple[int, ...] | None:
    """Where each device's run stops if none is filled beyond `share`; None where that leaves items over."""
    furthest: dict[int, tuple[int, ...]] = {0: (0,)}  # by stage: who gets furthest leaves the least to those after him
    for device, room in enumerate(rooms):
        limit = room * share // WHOLE
        reached = {stage: (*stops, stops[-1]) for stage, stops in furthest.items()}  # with nothing on this one
        for stops in furthest.values():
            first = start = stops[-1]
            most = ends[start] + limit
            for stop, beside, stage in steps(device, start):
                if ends[first] > most:
                    break
                end = bisect_right(ends, most - beside, first + 1, stop + 1) - 1
                if end > first and (stage not in reached or end > reached[stage][-1]):
                    reached[stage] = (*stops, end)
                first = stop
        furthest = reached
    best = max(furthest.values(), key=itemgetter(-1))
    return best if best[-1] == len(ends) - 1 else None


def fill_gaps(sizes: Sequence[int], gaps: Sequence[int]) -> list[int] | None:
    """Each item's device index, the largest item first and each into the tightest gap that takes it.

    For what no contiguous cut fits; None where this finds no fit either, which does not prove that there is none.
    """
    left = list(gaps)
    chosen = [0] * len(sizes)
    for item in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
        roomy = [device for device, gap in enumerate(left) if sizes[item] <= gap]
        if not roomy:
            return None
        chosen[item] = min(roomy, key=left.__getitem__)
        left[chosen[item]] -= sizes[item]
    return chosen


def equally(n: int, devices: int) -> list[int]:
    """How many of `n` blocks each device gets: n // devices, and the remainder to the last."""
    each = n // devices
    return [each] * (devices - 1) + [n - each * (devices - 1)]


def in_proportion(n: int, weights: Sequence[float]) -> list[int]:
    """How many of `n` blocks each device gets, its run ending at the floor of n times the prefix sums' share.

    Weights are above 0. The counts add up to n.
    """
    # As written and exactly: 0.1, 0.2 and 0.7 of ten blocks are 1, 2 and 7, and 1e308 twice is no infinity.
    sums = list(accumulate((Fraction(repr(weight)) for weight in weights), initial=Fraction(0)))
    return [int(n * upto / sums[-1]) - int(n * before / sums[-1]) for before, upto in pairwise(sums)]
