"""Shrinking: layers leave their devices, the others stay as they are."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.placement import (
    HOST,
    HostMode,
    Override,
    PlacementRequest,
    SplitMode,
    Strategy,
    counted,
    is_shrinkable,
    plan,
    shrunk,
    without,
)
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


@given(
    strategy=st.sampled_from([Strategy.FIRST, Strategy.LAST, Strategy.ENDS, Strategy.LLAMA_CPP]),
    split=st.sampled_from([SplitMode.LAYER, SplitMode.ROW]),
    host=st.sampled_from(HostMode),
    n=st.integers(0, 7),
    device=st.sampled_from(["sim:0", "sim:1", "sim:2"]),
)
def test_a_device_that_is_lost_leaves_no_tensor_in_part(
    strategy: Strategy, split: SplitMode, host: HostMode, n: int, device: str
) -> None:
    """What is left is where it was, nothing on that device; each tensor is held whole or not at all, and n fits."""
    if strategy is Strategy.LLAMA_CPP:
        split = SplitMode.LAYER
    request = PlacementRequest(n, strategy, split_mode=split, split_weights="equal", host=host)
    before = plan(LAYERS, devices(10**6, 10**6, 10**6), request, host_bytes=10**6).placement
    after = without(before, device)

    assert counted(before.strategy, before.slabs) == before.n_gpu_layers
    assert counted(after.strategy, after.slabs) == after.n_gpu_layers
    assert set(after.slabs) <= set(before.slabs)
    assert after.strategy == before.strategy
    assert device not in {slab.device for slab in after.slabs}
    for layer in LAYERS:
        for tensor in layer.tensors:
            places = after.tensor_devices(tensor)
            assert places == before.tensor_devices(tensor) or places == {HOST: tensor.nbytes}
    if split is SplitMode.LAYER:
        assert set(after.slabs) == {slab for slab in before.slabs if slab.device != device}


def test_a_layer_that_was_placed_by_tensors_keeps_those_that_are_there() -> None:
    """Where an override put a tensor elsewhere, the loss of the one device takes nothing from the other."""
    request = PlacementRequest("all", overrides=(Override(r"^3\.", "sim:1"),), split_mode=SplitMode.NONE)
    before = plan(LAYERS, devices(10**6, 10**6), request).placement

    assert {slab.layer for slab in without(before, "sim:0").slabs} == {3}
    assert without(before, "sim:0").n_gpu_layers == 1
    assert without(before, "sim:1").n_gpu_layers == 6
    assert without(before, "sim:7") is before
