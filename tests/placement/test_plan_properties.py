"""What holds for every plan, whatever the model, the devices and the request."""

from hypothesis import given
from hypothesis import strategies as st

from app.model import Layer, Role
from app.placement import ALIGNMENT, HOST, Budget, HostMode, PlacementRequest, Plan, plan
from tests.placement.layers import budget_lists, host_sizes, models, padded, requests, total


@st.composite
def planned(draw: st.DrawFn) -> tuple[list[Layer], list[Budget], PlacementRequest, Plan]:
    """Draw a plan and what it was made of; now and then the model is loaded already, by another plan."""
    layers, budgets, host_bytes = draw(models()), draw(budget_lists()), draw(host_sizes)
    n_layer = sum(layer.role is Role.BLOCK for layer in layers)
    current = None
    if draw(st.booleans()):
        current = plan(layers, budgets, draw(requests(budgets, n_layer))).placement
    request = draw(requests(budgets, n_layer))
    return layers, budgets, request, plan(layers, budgets, request, host_bytes=host_bytes, current=current)


Planned = tuple[list[Layer], list[Budget], PlacementRequest, Plan]


@given(planned())
def test_every_tensor_is_placed_exactly_once(case: Planned) -> None:
    """A tensor is whole in one slab, or else on the host, and all slabs hold tensors of their own layer."""
    layers, _, _, found = case
    held = [part for slab in found.placement.slabs for part in slab.slices]
    names = [part.tensor.name for part in held]

    assert len(names) == len(set(names))
    assert all((part.start, part.nbytes) == (0, part.tensor.nbytes) for part in held)
    assert all(part.tensor.layer == slab.layer for slab in found.placement.slabs for part in slab.slices)
    for layer in layers:
        for tensor in layer.tensors:
            assert sum(found.placement.tensor_devices(tensor).values()) == tensor.nbytes
        assert sum(found.placement.layer_devices(layer).values()) == layer.size_bytes


@given(planned())
def test_slices_are_aligned_and_do_not_overlap(case: Planned) -> None:
    """In a slab each slice starts at the next multiple of 256 after the one before, and so does the slab's end."""
    for slab in case[-1].placement.slabs:
        end = 0
        for part in slab.slices:
            assert part.slab_offset == -(-end // ALIGNMENT) * ALIGNMENT
            end = part.slab_offset + part.nbytes
        assert slab.nbytes == -(-end // ALIGNMENT) * ALIGNMENT > 0


@given(planned())
def test_weights_add_up_to_the_model_and_padding_is_exact(case: Planned) -> None:
    """The weights of all rows are the model's bytes; what a device needs beyond them is its slabs' padding."""
    layers, budgets, _, found = case
    slabs = found.placement.slabs

    assert [row.id for row in found.devices] == [*(budget.device for budget in budgets), HOST]
    assert sum(row.weights_bytes for row in found.devices) == total(layers)
    for row in found.devices:
        inside = [slab for slab in slabs if slab.device == row.id]
        assert row.padding_bytes == sum(slab.nbytes - slab.weights_bytes for slab in inside)
        assert row.required_bytes == row.weights_bytes + row.padding_bytes
        if row.id != HOST:
            assert row.required_bytes == sum(slab.nbytes for slab in inside)
        planned_there = sum(layer.devices.get(row.id, 0) for layer in found.layers)
        assert planned_there == row.weights_bytes


@given(planned())
def test_no_budget_is_exceeded_when_the_plan_fits(case: Planned) -> None:
    """A plan fits if and only if every row does; then no device has less than its budget's margin left."""
    _, budgets, request, found = case
    rows = {row.id: row for row in found.devices}

    assert found.fits == all(row.fits for row in found.devices)
    for budget in budgets:
        row = rows[budget.device]
        assert row.available_bytes == max(0, budget.available_bytes - request.margin_bytes)
        assert row.fits == (row.required_bytes <= row.available_bytes)
    host = rows[HOST]
    if request.host is not HostMode.MMAP and host.available_bytes is not None:
        assert host.fits == (host.required_bytes <= host.available_bytes)
    else:
        assert host.fits


@given(planned())
def test_the_largest_n_tells_whether_there_is_one(case: Planned) -> None:
    """A plan that fits is not above the largest n, and `auto` is that n."""
    found = case[-1]

    if found.fits:
        assert found.largest_n_gpu_layers is not None
        assert found.n_gpu_layers <= found.largest_n_gpu_layers
    if case[2].n_gpu_layers == "auto":
        assert found.fits == (found.largest_n_gpu_layers is not None)
        assert found.n_gpu_layers == (found.largest_n_gpu_layers or 0)


@given(planned())
def test_n_layers_are_offloaded_and_input_and_output_with_them(case: Planned) -> None:
    """Exactly n blocks leave the host; what stands before and after the blocks leaves it with the first of them."""
    layers, _, request, found = case
    away = {row.layer for row in found.layers if row.device != HOST}
    ends = {layer.key for layer in layers if layer.role is not Role.BLOCK}

    assert found.strategy == request.strategy == found.placement.strategy
    assert sum(isinstance(key, int) for key in away) == found.n_gpu_layers == found.placement.n_gpu_layers
    assert away & ends == (ends if found.n_gpu_layers else set())


@given(planned())
def test_the_host_holds_slabs_only_as_a_copy(case: Planned) -> None:
    """A buffered host holds the layers that stay in slabs on "cpu"; otherwise they are the file's pages."""
    layers, _, request, found = case
    stay = {row.layer for row in found.layers if row.device == HOST}
    expected = {layer.key for layer in layers if layer.key in stay and padded(layer)}

    copied = {slab.layer for slab in found.placement.slabs if slab.device == HOST}
    assert copied == (expected if request.host is HostMode.BUFFERED else set())
