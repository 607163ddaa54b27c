"""The arithmetic of sharing: counts that add up, and in proportion to what was written."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.placement.split import Step, equally, fill_evenly, fill_gaps, in_proportion
from tests.placement.layers import cuts

weights = st.floats(min_value=5e-324, max_value=1e308)


@given(st.integers(0, 200), st.integers(1, 9))
def test_equal_is_the_same_number_each_and_the_remainder_to_the_last(n: int, devices: int) -> None:
    """All but the last get n // devices, and all together n."""
    found = equally(n, devices)

    assert found[:-1] == [n // devices] * (devices - 1)
    assert sum(found) == n


@given(st.integers(0, 200), st.lists(weights, min_size=1, max_size=6))
def test_counts_in_proportion_add_up(n: int, weights: list[float]) -> None:
    """Whatever the weights are, every block is counted once and no count is below 0."""
    found = in_proportion(n, weights)

    assert (sum(found), len(found)) == (n, len(weights))
    assert min(found) >= 0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.sampled_from([-300, -2, -1, 0, 300]))
def test_weights_that_are_the_counts_give_the_counts(counts: list[int], exponent: int) -> None:
    """Weights as they are written, in any unit, share exactly: no rounding of floats moves a block."""
    written = [float(f"{count}e{exponent}") for count in counts]

    assert counts == in_proportion(sum(counts), written)


@pytest.mark.parametrize(("weights", "counts"), [([0.1, 0.2, 0.7], [1, 2, 7]), ([1.0] * 49, [1] * 49)])
def test_shares_that_floats_get_wrong(weights: list[float], counts: list[int]) -> None:
    """49 * (1 / 49) is below 1 in floats, and 0.1 + 0.2 above 0.3."""
    assert counts == in_proportion(sum(counts), weights)


@given(
    st.lists(st.integers(0, 50), max_size=8),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 60)), min_size=1, max_size=3),
)
def test_the_fullest_device_is_the_least_full(sizes: list[int], devices: list[tuple[int, int]]) -> None:
    """No contiguous cut leaves the fullest device with more room, as a share of what it has: to a 256th of it."""
    rooms, used = [room for room, _ in devices], [held for _, held in devices]

    def fullest(chosen: tuple[int, ...] | list[int]) -> float:
        shares = [0.0]
        for device, (room, held) in enumerate(devices):
            given = [size for size, index in zip(sizes, chosen, strict=True) if index == device]
            if sum(given):
                shares.append((held + sum(given)) / room if room else float("inf"))
        return max(shares)

    found = fill_evenly(sizes, rooms, lambda device, _: [Step(len(sizes), used[device], 0)])
    others = (cut for cut in product(range(len(rooms)), repeat=len(sizes)) if list(cut) == sorted(cut))

    assert found == sorted(found)
    assert fullest(found) <= min(map(fullest, others)) + 1 / 256


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=6),
    st.lists(st.integers(0, 70), min_size=1, max_size=3),
    st.integers(0, 5),
    st.integers(0, 40),
)
def test_a_run_may_need_less_than_a_shorter_one(sizes: list[int], rooms: list[int], turn: int, without: int) -> None:
    """Where all runs but those with one item need something more, each way to cut that fits is still found."""
    turn = min(turn, len(sizes) - 1)

    def steps(_: int, start: int) -> list[Step]:
        before, after = Step(turn, without, 0), Step(len(sizes), 0, 1)
        return [before, after] if start < turn else [after] if start == turn else [Step(len(sizes), without, 1)]

    def fits(chosen: list[int]) -> bool:
        for device, room in enumerate(rooms):
            run = [item for item, index in enumerate(chosen) if index == device]
            if run and sum(sizes[item] for item in run) + (0 if turn in run else without) > room:
                return False
        return True

    assert fits(fill_evenly(sizes, rooms, steps)) == any(map(fits, cuts(len(sizes), len(rooms))))


@given(st.lists(st.integers(0, 50), max_size=8), st.lists(st.integers(-5, 120), min_size=1, max_size=3))
def test_gaps_are_never_overfilled(sizes: list[int], gaps: list[int]) -> None:
    """What is found fits, device by device."""
    chosen = fill_gaps(sizes, gaps)

    if chosen is not None:
        for device, gap in enumerate(gaps):
            filled = [size for size, index in zip(sizes, chosen, strict=True) if index == device]
            assert not filled or sum(filled) <= gap
