"""Who makes room: idle models, least recently used first, and no more of them than it takes. Pure; sizes in bytes."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Evict(StrEnum):
    """What a load that does not fit may do to idle models."""

    NONE = "none"
    MODELS = "models"
    LAYERS = "layers"


Freed = Mapping[str, int]
"""Bytes by device id."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An idle model, and what it can give back: nothing at level 0, all that it may be asked for at `levels`.

    `freed` of a level only grows with it, device by device. Of the same generation it is always the same.
    """

    model: str
    generation: int
    levels: int
    freed: Callable[[int], Freed]


def fewest(offers: Sequence[Offer], enough: Callable[[Freed], bool]) -> dict[str, int] | None:
    """The level that each model has to give, by id, without those that keep all; None where not even all is enough.

    `offers` are the least recently used first. One after the other gives all that it has, until that is `enough`;
    then each, the most recently used first, takes back whatever turned out not to be needed.
    """
    levels = [0] * len(offers)

    def is_enough() -> bool:
        return enough(sums(offer.freed(level) for offer, level in zip(offers, levels, strict=True)))

    for index, offer in enumerate(offers):
        if is_enough():
            break
        levels[index] = offer.levels
    if not is_enough():
        return None
    for index in reversed(range(len(offers))):

        def suffices(level: int, index: int = index) -> bool:
            levels[index] = level
            return is_enough()

        most = levels[index]
        levels[index] = bisect_left(range(most), True, key=suffices)
    return {offer.model: level for offer, level in zip(offers, levels, strict=True) if level}


def sums(parts: Iterable[Freed]) -> dict[str, int]:
    """All of them together, device by device."""
    total: dict[str, int] = {}
    for part in parts:
        for device, nbytes in part.items():
            total[device] = total.get(device, 0) + nbytes
    return total
