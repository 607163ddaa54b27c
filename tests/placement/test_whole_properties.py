"""What holds for plans of whole requests: every strategy and split, overrides, experts, a tied output."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise
from math import floor, prod

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.model import Role, group
from app.placement import (
    HOST,
    ContextRequest,
    HostMode,
    Override,
    PlacementRequest,
    Plan,
    Slice,
    SplitMode,
    Strategy,
    model_needs,
    output_matrix,
    plan,
)
from tests.placement.cases import Case, cases, tensor
from tests.placement.layers import OWN_STRATEGIES, devices, model, total
from tests.placement.models import small_model


def slices(found: Plan) -> list[tuple[str, Slice]]:
    """List what all slabs hold, with the devices."""
    return [(slab.device, part) for slab in found.placement.slabs for part in slab.slices]


def read_bytes(case: Case, found: Plan) -> int:
    """Add up what a token reads on accelerators: of experts those used, of an embedding that is not tied one row."""

    def read(part: Slice) -> int:
        name = part.tensor.name
        if "_exps" in name:
            return int(part.nbytes * case.expert_share)
        lookup = name == "token_embd.weight" and part.tensor != case.output
        return part.nbytes // part.tensor.dimensions[-1] if lookup else part.nbytes

    own = (part for slab in found.placement.slabs if slab.device != HOST for part in slab.own_slices)
    return sum(map(read, own))


@settings(max_examples=80)
@given(cases())
def test_every_byte_is_placed_once(case: Case) -> None:
    """Slabs' own slices and the host hold each byte once; only a tied embedding may be there twice, in the output."""
    found = case.plan()
    own = [part for slab in found.placement.slabs for part in slab.own_slices]
    for each in (each for layer in case.layers for each in layer.tensors):
        runs = sorted((part.start, part.start + part.nbytes) for part in own if part.tensor == each)
        assert all(stop <= start for (_, stop), (start, _) in pairwise(runs))
        held = sum(stop - start for start, stop in runs)
        assert held in ((each.nbytes,) if case.request.host is HostMode.BUFFERED else (0, each.nbytes))
        assert sum(found.placement.tensor_devices(each).values()) == each.nbytes
    copies = [p for slab in found.placement.slabs for p in slab.slices if p not in slab.own_slices]
    assert len(copies) <= (found.strategy == Strategy.LLAMA_CPP)
    assert all((p.tensor, p.nbytes) == (case.output, p.tensor.nbytes) for p in copies)
    weights = {row.id: row.weights_bytes for row in found.devices}
    assert sum(weights.values()) == total(case.layers) + sum(p.nbytes for p in copies)
    assert weights == dict.fromkeys(weights, 0) | found.placement.device_bytes(total(case.layers))


@settings(max_examples=50)
@given(cases())
def test_a_plan_fits_if_all_rows_do(case: Case) -> None:
    """Then no accelerator needs more than its budget less the margin; else the numbers say which does."""
    found = case.plan()
    *accelerators, host = found.devices
    slabs: Counter[str] = Counter()
    for slab in found.placement.slabs:
        slabs[slab.device] += slab.nbytes

    assert found.fits == all(row.fits for row in found.devices)
    for budget, row in zip(case.budgets, accelerators, strict=True):
        assert row.required_bytes == row.weights_bytes + row.padding_bytes == slabs[row.id]
        assert row.available_bytes == max(0, budget.available_bytes - case.request.margin_bytes)
        assert row.fits == (row.required_bytes <= row.available_bytes)
    limited = case.request.host is HostMode.BUFFERED and host.available_bytes is not None
    assert host.fits == (not limited or host.required_bytes <= (host.available_bytes or 0))


@settings(max_examples=60)
@given(cases(strategies=(*OWN_STRATEGIES, Strategy.LLAMA_CPP), experts=False))
def test_auto_is_the_largest_n_that_fits(case: Case) -> None:
    """`auto` is the first of all n, from the top, whose own plan fits; every plan names it as the largest."""
    expected = case.largest()
    found = case.plan(n_gpu_layers="auto")

    assert (found.n_gpu_layers, found.fits) == (expected or 0, expected is not None)
    assert found.largest_n_gpu_layers == expected == case.plan(n_gpu_layers=0).largest_n_gpu_layers


def test_rows_beside_an_override_count_once() -> None:
    """What an override puts on a device is there whether its layer is cut or not: `auto` finds the exact fit."""
    layers = group([tensor(f"blk.{block}.ffn_up.weight", block, 16, 32) for block in range(2)])
    overrides = (Override("ffn_up", "sim:0"),)

    found = plan(layers, devices(1024), PlacementRequest(split_mode=SplitMode.ROW, overrides=overrides))

    assert (found.fits, found.n_gpu_layers, found.devices[0].required_bytes) == (True, 2, 1024)


@settings(max_examples=40)
@given(cases(strategies=(*OWN_STRATEGIES, Strategy.LLAMA_CPP)))
def test_auto_keeps_as_few_experts_apart_as_brings_most_layers(case: Case) -> None:
    """With leave to keep experts on the host, n is the most that any number of blocks without theirs allows."""
    assume(case.has_experts)
    case = replace(case, request=replace(case.request, n_cpu_moe=0, n_gpu_layers="auto"))
    n_layer = sum(layer.role is Role.BLOCK for layer in case.layers)
    by_count = [case.largest(n_cpu_moe=count) or 0 for count in range(n_layer + 1)]
    found = case.plan()

    assert found.n_gpu_layers == max(by_count)
    fewest = by_count.index(max(by_count))
    assert found.n_cpu_moe == fewest
    assert found.placement == case.plan(n_gpu_layers=found.n_gpu_layers, n_cpu_moe=fewest).placement
    assert (fewest > 0) == any(advice.code == "experts_on_host" for advice in found.advice)


@settings(max_examples=40)
@given(cases(strategies=[Strategy.BEST]))
def test_best_keeps_most_of_what_is_read_on_devices(case: Case) -> None:
    """Of the strategies that fit none keeps more of a token's bytes on devices; `best` fits if any of them does."""
    found = case.plan()
    others = [case.plan(strategy=strategy) for strategy in OWN_STRATEGIES]

    assert found.fits == any(other.fits for other in others)
    assert found.strategy in OWN_STRATEGIES
    for other in others:
        assert not other.fits or read_bytes(case, found) >= read_bytes(case, other)


@settings(max_examples=40)
@given(cases())
def test_each_row_of_the_table_is_a_plan(case: Case) -> None:
    """A row for every n, with the numbers of the plan that asks for this n and the n_cpu_moe that `auto` chose."""
    whole = case.plan(table=True)
    assert whole.table is not None
    assert [row.n_gpu_layers for row in whole.table] == list(range(case.top + 1))
    for row in whole.table:
        single = case.plan(n_gpu_layers=row.n_gpu_layers, n_cpu_moe=whole.n_cpu_moe)
        assert (row.fits, row.devices) == (single.fits, single.devices)


@settings(max_examples=40)
@given(cases(strategies=(*OWN_STRATEGIES, Strategy.BEST)))
def test_a_row_split_cuts_whole_rows_in_proportion(case: Case) -> None:
    """Each device's rows of a matrix end at the floor of its part of the sum; what has no rows is on the first."""
    assume(case.budgets)
    case = replace(case, request=replace(case.request, split_mode=SplitMode.ROW, overrides=(), n_cpu_moe=0))
    weights = case.request.split_weights
    rooms = [float(max(0, budget.available_bytes - case.request.margin_bytes)) for budget in case.budgets]
    shares = list(weights if isinstance(weights, tuple) else rooms if weights == "free" else [1.0] * len(rooms))
    shares = shares if any(shares) else [1.0] * len(shares)
    sums = list(accumulate(map(Fraction, map(repr, shares))))
    used = [share > 0 or not isinstance(weights, tuple) for share in shares]
    first = case.budgets[used.index(True)].device

    held = slices(case.plan(n_gpu_layers="all"))
    for each in (each for layer in case.layers for each in layer.tensors):
        width, *others = each.dimensions
        rows = prod(others) if others else 1
        stops = [floor(rows * upto / sums[-1]) * width for upto in sums]
        expected = [
            (budget.device, start, stop - start)
            for budget, start, stop in zip(case.budgets, [0, *stops], stops, strict=False)
            if stop > start
        ]
        whole = [(first, 0, each.nbytes)]
        found = [(device, part.start, part.nbytes) for device, part in held if part.tensor == each]
        assert sorted(found) == (expected if rows > 1 else whole), each.name


@settings(max_examples=30)
@given(st.data())
def test_auto_is_the_largest_n_with_a_context_too(data: st.DataObject) -> None:
    """Caches and compute buffers count as weights do, whatever the strategy and the split."""
    described, caches = small_model(n_layer=data.draw(st.integers(1, 4)), tied=data.draw(st.booleans()))
    strategy = data.draw(st.sampled_from((*OWN_STRATEGIES, Strategy.LLAMA_CPP)))
    modes = (SplitMode.NONE, SplitMode.LAYER) if strategy is Strategy.LLAMA_CPP else tuple(SplitMode)
    context = ContextRequest(n_ctx=512, kv_offload=data.draw(st.booleans()), n_ubatch=32)
    budgets = devices(*data.draw(st.lists(st.integers(0, 1_500_000), min_size=1, max_size=3)))
    weights = data.draw(st.sampled_from(["free", "equal"]))
    mode = data.draw(st.sampled_from(modes))

    def planned(n: int | str) -> Plan:
        request = PlacementRequest(n, strategy, None, mode, weights, context=context)  # type: ignore[arg-type]
        needs = model_needs(described, caches, context)
        return plan(described.layers, budgets, request, needs=needs, output=output_matrix(described))

    top = planned("all").n_gpu_layers
    expected = next((n for n in range(top, -1, -1) if planned(n).fits), None)

    found = planned("auto")
    assert (found.n_gpu_layers, found.fits) == (expected or 0, expected is not None)


@pytest.mark.parametrize(
    ("weights", "on_first"),
    [((1e-300, 3e-300), 1), ((5e-324, 5e-324), 2), ((1e308, 1e308), 2), ((1e308, 1.0), 4), ((1.0, 1e308), 0)],
)
def test_llama_cpp_s_weights_may_be_of_any_size(weights: tuple[float, float], on_first: int) -> None:
    """Only their proportion matters, be they too small or too large for the 32 bits that llama.cpp counts in."""
    request = PlacementRequest("all", Strategy.LLAMA_CPP, split_weights=weights)
    found = plan(model(256, 256, 256), devices(9999, 9999), request)

    assert sum(row.device == "sim:0" for row in found.layers) == on_first
