"""Shrinking: layers leave their devices, the others stay as they are."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.placement import HostMode, PlacementRequest, SplitMode, Strategy, is_shrinkable, plan, shrunk
from tests.placement.layers import devices, model

LAYERS = model(*[1024] * 7)


@given(
    strategy=st.sampled_from([Strategy.FIRST, Strategy.LAST, Strategy.ENDS, Strategy.LLAMA_CPP]),
    split=st.sampled_from([SplitMode.LAYER, SplitMode.ROW]),
    data=st.data(),
)
def test_what_is_left_is_what_the_strategy_would_place(
    strategy: Strategy, split: SplitMode, data: st.DataObject
) -> None:
    """The layers on devices are those of a fresh plan with as many, each where it was."""
    if strategy is Strategy.LLAMA_CPP:
        split = SplitMode.LAYER
    n = data.draw(st.integers(0, 7))
    fewer = data.draw(st.integers(0, n))
    budgets = devices(10**6, 10**6)
    request = PlacementRequest(n, strategy, split_mode=split, split_weights="equal")
    before = plan(LAYERS, budgets, request).placement
    after = shrunk(before, fewer)

    fresh = plan(LAYERS, budgets, replace(request, n_gpu_layers=fewer)).placement
    assert {slab.layer for slab in after.slabs} == {slab.layer for slab in fresh.slabs}
    assert set(after.slabs) <= set(before.slabs)
    assert (after.strategy, after.n_gpu_layers) == (strategy, fewer)
    assert is_shrinkable(before)


@pytest.mark.parametrize(("host", "shrinks"), [(HostMode.MMAP, True), (HostMode.BUFFERED, False)])
def test_a_copy_on_the_host_would_have_to_be_made_first(host: HostMode, shrinks: bool) -> None:
    """Where the host keeps copies, taking a layer off a device is no release alone."""
    placement = plan(LAYERS, devices(10**6), PlacementRequest(3, host=host), host_bytes=10**6).placement
    assert is_shrinkable(placement) is shrinks
