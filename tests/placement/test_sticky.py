"""A change of placement copies as little as it can: what is where it should be stays."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from app.model import Role
from app.placement import HOST, HostMode, Placement, PlacementRequest, SplitMode, moves, plan, slab_of
from tests.placement.layers import (
    OWN_STRATEGIES,
    WHOLE_LAYERS,
    budget_lists,
    cuts,
    devices,
    layer,
    model,
    models,
    padded,
    places,
    requests,
)

MIB = 1 << 20


def placed(*slabs: tuple[int, int, str]) -> Placement:
    """Make a placement of blocks: number, bytes, device."""
    return Placement("first", len(slabs), tuple(slab_of(layer(number, size), device) for number, size, device in slabs))


def test_from_12_of_30_layers_to_all_of_them_and_back_to_none() -> None:
    """Offload 30 after 12: none of the 12 moves, the missing layers are copied once; offload 0: nothing is copied."""
    layers = model(*[2 * MIB] * 30, input_bytes=28 * MIB, output_bytes=2304)
    budgets = devices(64 * MIB, 64 * MIB)
    room = {budget.device: budget.available_bytes for budget in budgets}

    twelve = plan(layers, budgets, PlacementRequest(n_gpu_layers=12))
    assert set(places(twelve)) == {"sim:0", "sim:1"}

    thirty = plan(layers, budgets, PlacementRequest(n_gpu_layers=30), current=twelve.placement)
    grown = moves(twelve.placement.slabs, thirty.placement.slabs, room)
    assert set(twelve.placement.slabs) < set(thirty.placement.slabs)
    assert grown.copied_bytes == 18 * 2 * MIB

    none = plan(layers, budgets, PlacementRequest(n_gpu_layers=0), current=thirty.placement)
    shrunk = moves(thirty.placement.slabs, none.placement.slabs, room)
    assert (none.placement.slabs, shrunk.copied_bytes, len(shrunk.steps)) == ((), 0, 1)


@given(st.data())
def test_layers_on_a_device_stay_if_that_fits(data: st.DataObject) -> None:
    """Layers move only where no contiguous run of the new ones fits beside them; then the plan is the fresh one."""
    layers, budgets = data.draw(models()), data.draw(budget_lists(fewest=1, most=3))
    n_layer = sum(layer.role is Role.BLOCK for layer in layers)
    ids = [budget.device for budget in budgets]
    there = [slab_of(layer, data.draw(st.sampled_from(ids))) for layer in layers if data.draw(st.booleans())]
    current = Placement("first", 0, tuple(slab for slab in there if slab.nbytes))
    request = PlacementRequest(
        n_gpu_layers=data.draw(st.one_of(st.just("auto"), st.integers(0, n_layer))),
        strategy=data.draw(st.sampled_from(OWN_STRATEGIES)),
    )

    fresh = plan(layers, budgets, request)
    found = plan(layers, budgets, request, current=current)

    assert fresh.n_gpu_layers == found.n_gpu_layers
    chosen = [row.layer for row in fresh.layers if row.device != HOST]
    staying = {slab for slab in current.slabs if slab.layer in chosen}
    if not staying <= set(found.placement.slabs):
        assert fresh.placement == found.placement
        held = {slab.layer for slab in staying}
        new = [padded(layer) for layer in layers if layer.key in chosen and layer.key not in held]
        assert not any(
            all(
                sum(size for size, index in zip(new, cut, strict=True) if ids[index] == budget.device)
                + sum(slab.nbytes for slab in staying if slab.device == budget.device)
                <= budget.available_bytes
                for budget in budgets
            )
            for cut in cuts(len(new), len(budgets))
        )


@given(st.data())
def test_the_same_request_again_moves_nothing(data: st.DataObject) -> None:
    """Asking for what is already so is a plan without moves, whatever was asked for."""
    layers, budgets = data.draw(models()), data.draw(budget_lists())
    request = data.draw(requests(budgets, sum(layer.role is Role.BLOCK for layer in layers)))

    first = plan(layers, budgets, request)
    again = plan(layers, budgets, request, current=first.placement)

    assert first.placement == again.placement


@given(st.data())
def test_without_a_current_placement_the_plan_is_fresh(data: st.DataObject) -> None:
    """To rebalance is to plan without a memory, and so does a model that has no slab yet."""
    layers, budgets = data.draw(models()), data.draw(budget_lists())
    request = data.draw(requests(budgets, sum(layer.role is Role.BLOCK for layer in layers)))

    assert plan(layers, budgets, request) == plan(layers, budgets, request, current=Placement("first", 0, ()))


@given(st.data())
def test_fewer_layers_copy_nothing(data: st.DataObject) -> None:
    """A smaller n of the same request only releases, even if the devices come in another order."""
    layers, budgets = data.draw(models()), data.draw(budget_lists(fewest=1))
    request = PlacementRequest(
        strategy=data.draw(st.sampled_from(OWN_STRATEGIES)),
        split_mode=data.draw(st.sampled_from(WHOLE_LAYERS)),
        split_weights="equal" if data.draw(st.booleans()) else "free",
    )
    before = plan(layers, budgets, request)
    fewer = data.draw(st.integers(0, before.n_gpu_layers))
    room = {budget.device: budget.available_bytes for budget in budgets}

    after = plan(
        layers, data.draw(st.permutations(budgets)), replace(request, n_gpu_layers=fewer), current=before.placement
    )

    assert moves(before.placement.slabs, after.placement.slabs, room).copied_bytes == 0


def test_one_device_stays_the_one_when_another_has_more_room() -> None:
    """In mode `none` the fresh choice is the roomiest device; a model that is on another one stays there if it fits."""
    layers = [layer(number, 1024) for number in range(4)]
    current = placed((0, 1024, "sim:0"), (1, 1024, "sim:0"))
    request = PlacementRequest(n_gpu_layers=3, split_mode=SplitMode.NONE)

    stays = plan(layers, devices(3072, 9000), request, current=current)
    moves_house = plan(layers, devices(3071, 9000), request, current=current)

    assert places(stays) == {"sim:0": [0, 1, 2]}
    assert places(moves_house) == {"sim:1": [0, 1, 2]}


def test_new_layers_fill_gaps_where_no_run_would_fit() -> None:
    """The large block fits on the first device only and the small ones on the second: out of order, but none moves."""
    sizes = [1024, 512, 512, 2048, 1024]
    layers = [layer(number, size) for number, size in enumerate(sizes)]
    current = placed((0, 1024, "sim:0"), (4, 1024, "sim:1"))

    found = plan(layers, devices(3072, 2048), PlacementRequest(n_gpu_layers="all"), current=current)

    assert places(found) == {"sim:0": [0, 3], "sim:1": [1, 2, 4]}


def test_what_is_there_already_may_be_more_than_a_fresh_plan_could_place() -> None:
    """Interleaved layers fit where no contiguous cut does; then n itself is the largest n."""
    layers = [layer(number, size) for number, size in enumerate([1024, 2048, 1024])]
    current = placed((0, 1024, "sim:0"), (1, 2048, "sim:1"), (2, 1024, "sim:0"))
    budgets = devices(2048, 2048)

    fresh = plan(layers, budgets, PlacementRequest(n_gpu_layers=3))
    found = plan(layers, budgets, PlacementRequest(n_gpu_layers=3), current=current)

    assert (fresh.fits, fresh.largest_n_gpu_layers) == (False, 2)
    assert (found.fits, found.largest_n_gpu_layers, found.placement.slabs) == (True, 3, current.slabs)


def test_a_device_that_may_not_be_used_is_left() -> None:
    """Layers stay only on devices of the request, and on none whose weight is 0."""
    layers = [layer(number, 1024) for number in range(2)]
    current = placed((0, 1024, "sim:0"), (1, 1024, "sim:1"))

    elsewhere = plan(layers, devices(8192, 8192)[1:], PlacementRequest(n_gpu_layers=2), current=current)
    weighted = PlacementRequest(n_gpu_layers=2, split_weights=(0.0, 1.0))

    assert places(elsewhere) == {"sim:1": [0, 1]}
    assert places(plan(layers, devices(8192, 8192), weighted, current=current)) == {"sim:1": [0, 1]}


def test_a_buffered_host_keeps_its_copies() -> None:
    """With one layer more on the device, the host's other copies stay as they are."""
    layers = [layer(number, 1024) for number in range(3)]
    one = plan(layers, devices(4096), PlacementRequest(n_gpu_layers=1, host=HostMode.BUFFERED))

    two = plan(layers, devices(4096), PlacementRequest(n_gpu_layers=2, host=HostMode.BUFFERED), current=one.placement)

    new = set(two.placement.slabs) - set(one.placement.slabs)
    assert [(slab.layer, slab.device) for slab in new] == [(1, "sim:0")]
