"""How layers are shared among devices: pure arithmetic on sizes and counts."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

SHARE_STEPS = 24  # halvings of the fill share: finer than one part in ten million


def fill_evenly(sizes: Sequence[int], rooms: Sequence[int], used: Sequence[int]) -> list[int]:
    """Cut `sizes` into contiguous runs, one per device in order, so that the fullest device is the least full.

    `rooms[d]` is what device d can hold in bytes, `used[d]` what it holds already. Returns each item's device index.
    If any contiguous cut fits, the one returned fits. Where none does, the least overfull one is returned.
    """
    ends = list(accumulate(sizes, initial=0))

    def cut(share: float) -> list[int] | None:
        devices: list[int] = []
        for device, room in enumerate(rooms):
            start = len(devices)
            left = int(room * share) - used[device]
            stop = bisect_right(ends, ends[start] + left) - 1 if left >= 0 else start
            devices += [device] * (stop - start)
        return devices if len(devices) == len(sizes) else None

    low, high, best = 0.0, 1.0, cut(1.0)
    while best is None and high < 1 << 40:
        low, high = high, high * 2
        best = cut(high)
    if best is None:  # no room anywhere
        return [max(range(len(rooms)), key=rooms.__getitem__)] * len(sizes)
    for _ in range(SHARE_STEPS):
        middle = (low + high) / 2
        found = cut(middle)
        if found is None:
            low = middle
        else:
            high, best = middle, found
    return best


def equally(n: int, devices: int) -> list[int]:
    """How many of `n` blocks each device gets: n // devices, and the remainder to the last."""
    each = n // devices
    return [each] * (devices - 1) + [n - each * (devices - 1)]


def in_proportion(n: int, weights: Sequence[float]) -> list[int]:
    """How many of `n` blocks each device gets, its run ending at the floor of n times the prefix sums' share.

    Weights are above 0. The counts add up to n.
    """
    largest = max(weights)
    sums = list(accumulate(weight / largest for weight in weights))  # scaled: 1e308 twice must not become infinity
    stops = [int(n * (upto / sums[-1])) for upto in sums]
    return [stop - start for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
