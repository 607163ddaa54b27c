"""How layers are shared among devices: pure arithmetic on sizes and counts."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Final

WHOLE: Final = 1 << 24
"""A device's whole room, in the parts that shares are counted in: integers, for sizes go up to 2^63."""


def fill_evenly(sizes: Sequence[int], rooms: Sequence[int], used: Sequence[int]) -> list[int]:
    """Cut `sizes` into contiguous runs, one per device in order, so that the fullest device is the least full.

    `rooms[d]` is what device d can hold in bytes, `used[d]` what it holds already. Returns each item's device index.
    If any contiguous cut fits, the one returned fits. Where none does, the least overfull one is returned.
    """
    ends = list(accumulate(sizes, initial=0))

    def cut(share: int) -> list[int] | None:
        """Where each device's run stops if none is filled beyond `share`; None where that leaves items over."""
        stops = [0]
        for room, held in zip(rooms, used, strict=True):
            left = room * share // WHOLE - held
            stops.append(bisect_right(ends, ends[stops[-1]] + left) - 1 if left >= 0 else stops[-1])
        return stops if stops[-1] == len(sizes) else None

    low, high = 0, WHOLE
    while (best := cut(high)) is None and high < WHOLE << 40:
        low, high = high, high * 2
    if best is None:  # no room anywhere
        return [max(range(len(rooms)), key=rooms.__getitem__)] * len(sizes)
    while high - low > 1:
        middle = (low + high) // 2
        if (found := cut(middle)) is None:
            low = middle
        else:
            high, best = middle, found
    return [device for device, (start, stop) in enumerate(pairwise(best)) for _ in range(stop - start)]


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
