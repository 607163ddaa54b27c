"""`fits` is what a plan says about fitting, without the plan."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidValue
from app.placement import (
    HOST,
    ContextRequest,
    HostMode,
    Override,
    Placement,
    PlacementRequest,
    SplitMode,
    Strategy,
    fits,
    model_needs,
    output_matrix,
    plan,
)
from tests.placement.cases import Case, cases
from tests.placement.layers import OWN_STRATEGIES, devices, model
from tests.placement.models import small_model


def placement_of(data: st.DataObject, case: Case) -> Placement | None:
    """Draw where the case's layers are now: nowhere, or where another request put them."""
    if data.draw(st.booleans()):
        return None
    n = data.draw(st.integers(0, sum(isinstance(layer.key, int) for layer in case.layers) if case.budgets else 0))
    strategy, mode = data.draw(st.sampled_from(OWN_STRATEGIES)), data.draw(st.sampled_from(SplitMode))
    return case.plan(n_gpu_layers=n, strategy=strategy, split_mode=mode).placement


@settings(max_examples=120)
@given(st.data())
def test_fits_is_what_the_plan_says(data: st.DataObject) -> None:
    """For every n, strategy, split, override, count of experts and host, from wherever the layers are."""
    case = data.draw(cases())
    request = replace(case.request, host=data.draw(st.sampled_from(HostMode)))
    changes: list[dict[str, Any]] = [{}, {"n_cpu_moe": 0}, {"n_gpu_layers": "auto", "n_cpu_moe": 0}]
    changes += [{"n_gpu_layers": "all"}] if case.budgets else []
    request = replace(request, **data.draw(st.sampled_from(changes)))
    options: dict[str, Any] = {
        "host_bytes": case.host_bytes,
        "current": placement_of(data, case),
        "output": case.output,
        "expert_share": case.expert_share,
    }

    found = plan(case.layers, case.budgets, request, **options)
    assert fits(case.layers, case.budgets, request, **options) == found.fits


@settings(max_examples=80)
@given(st.data())
def test_fits_is_what_the_plan_says_with_a_context(data: st.DataObject) -> None:
    """Caches and compute buffers count alike in both, also where the host is short of room."""
    described, caches = small_model(
        n_layer=data.draw(st.integers(1, 4)),
        tied=data.draw(st.booleans()),
        n_expert=data.draw(st.sampled_from([0, 4])),
    )
    most = described.size_bytes
    budgets = devices(*data.draw(st.lists(st.integers(0, 2 * most), min_size=1, max_size=3)))
    strategy = data.draw(st.sampled_from(Strategy))
    modes = [mode for mode in SplitMode if not (mode is SplitMode.ROW and strategy is Strategy.LLAMA_CPP)]
    context = ContextRequest(n_ctx=512, kv_offload=data.draw(st.booleans()), n_ubatch=32)
    overrides = (Override("ffn_down", data.draw(st.sampled_from((HOST, budgets[0].device)))),)
    request = PlacementRequest(
        n_gpu_layers=data.draw(st.one_of(st.sampled_from(["auto", "all"]), st.integers(0, described.n_layer or 0))),
        strategy=strategy,
        split_mode=data.draw(st.sampled_from(modes)),
        split_weights=data.draw(st.sampled_from(["free", "equal"])),
        host=data.draw(st.sampled_from(HostMode)),
        overrides=data.draw(st.sampled_from([(), (), overrides])),
        context=context,
    )
    options: dict[str, Any] = {
        "host_bytes": data.draw(st.integers(0, 2 * most)),
        "needs": model_needs(described, caches, context),
        "output": output_matrix(described),
    }
    elsewhere = replace(request, n_gpu_layers=1, overrides=(), strategy=Strategy.FIRST)
    there = plan(described.layers, budgets, elsewhere, **options).placement
    current = data.draw(st.sampled_from([None, there]))

    found = plan(described.layers, budgets, request, current=current, **options)
    assert fits(described.layers, budgets, request, current=current, **options) == found.fits


@pytest.mark.parametrize(
    "request_", [PlacementRequest(n_gpu_layers=4), PlacementRequest(overrides=(Override("x", "sim:9"),))]
)
def test_fits_refuses_what_a_plan_refuses(request_: PlacementRequest) -> None:
    """An n that the model does not have, or a device that is not there, is no question of room."""
    with pytest.raises(InvalidValue) as planned:
        plan(model(256, 256), devices(9999), request_)
    with pytest.raises(InvalidValue) as asked:
        fits(model(256, 256), devices(9999), request_)
    assert str(asked.value) == str(planned.value)
