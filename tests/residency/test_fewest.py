"""Who makes room: as few idle models as it takes, the least recently used first, against brute force."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from app.residency.eviction import Freed, Offer, fewest, sums

DEVICES = ("sim:0", "sim:1")


def offer(model: str, steps: list[dict[str, int]]) -> Offer:
    """An offer that gives back one more of `steps` at each level."""
    return Offer(model, 1, len(steps), lambda level: sums(steps[:level]))


steps = st.lists(st.dictionaries(st.sampled_from(DEVICES), st.integers(1, 9)), min_size=1, max_size=4)
lists = st.lists(steps, max_size=4)
needs = st.dictionaries(st.sampled_from(DEVICES), st.integers(0, 25))


@given(lists, needs)
def test_nobody_gives_more_than_it_takes(offered: list[list[dict[str, int]]], need: dict[str, int]) -> None:
    """What is given is enough; none could give a level less; and nobody gives where those before could do it."""
    offers = [offer(str(number), steps) for number, steps in enumerate(offered)]

    def enough(freed: Freed) -> bool:
        return all(freed.get(device, 0) >= nbytes for device, nbytes in need.items())

    def suffices(levels: tuple[int, ...]) -> bool:
        return enough(sums(one.freed(level) for one, level in zip(offers, levels, strict=True)))

    found = fewest(offers, enough)
    choices = product(*(range(one.levels + 1) for one in offers))
    assert (found is None) is not any(map(suffices, choices))
    if found is None:
        return
    levels = tuple(found.get(one.model, 0) for one in offers)
    assert suffices(levels)
    assert 0 not in found.values()
    for index, level in enumerate(levels):
        if level:
            assert not suffices((*levels[:index], level - 1, *levels[index + 1 :]))
    last = max((index for index, level in enumerate(levels) if level), default=0)
    assert last == 0 or not suffices(tuple(one.levels if index < last else 0 for index, one in enumerate(offers)))


def test_the_least_recently_used_goes_first() -> None:
    """Of models that are the same size, those that were used longest ago; of an unneeded one nothing is taken."""
    small, large = [{"sim:0": 4}], [{"sim:0": 9}]

    def enough(freed: Freed) -> bool:
        return freed.get("sim:0", 0) >= 8

    assert fewest([offer("old", small), offer("mid", small), offer("new", small)], enough) == {"old": 1, "mid": 1}
    assert fewest([offer("old", small), offer("mid", large), offer("new", small)], enough) == {"mid": 1}
    assert fewest([offer("old", small)], enough) is None
