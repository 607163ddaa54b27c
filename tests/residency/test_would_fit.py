"""`would_fit` answers as `propose` would, for whoever only asks whether."""

from hypothesis import given, settings
from hypothesis import strategies as st

from app.placement import HOST, ContextRequest, HostMode, PlacementRequest, Strategy
from app.residency.reconcile import propose, would_fit
from tests.placement.models import small_model


@settings(max_examples=40)
@given(st.data())
def test_would_fit_is_what_the_proposal_says(data: st.DataObject) -> None:
    """With a context or without, on the devices that the request allows, from where the layers are."""
    model, _ = small_model(n_layer=3, n_expert=data.draw(st.sampled_from([0, 4])))
    rooms = st.integers(0, 2 * model.size_bytes)
    room = {"sim:0": data.draw(rooms), "sim:1": data.draw(rooms), HOST: data.draw(rooms)}
    request = PlacementRequest(
        n_gpu_layers=data.draw(st.sampled_from(["auto", "all", 2])),
        strategy=data.draw(st.sampled_from(Strategy)),
        devices=data.draw(st.sampled_from([None, ("sim:1",), ("sim:1", "sim:0")])),
        host=data.draw(st.sampled_from([HostMode.MMAP, HostMode.BUFFERED])),
        context=data.draw(st.sampled_from([None, ContextRequest(n_ctx=512)])),
    )
    there = propose(model, PlacementRequest(n_gpu_layers=1), None, room).placement
    current = data.draw(st.sampled_from([None, there]))

    assert would_fit(model, request, current, room) == propose(model, request, current, room).fits
