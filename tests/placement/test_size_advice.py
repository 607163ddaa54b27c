"""Advice on quantisations: each claim is put to the test by planning a model of those sizes."""

import gzip
import re
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.gguf import parse_header
from app.model import Layer, LayerKey, Tensor, describe, group
from app.placement import (
    Budget,
    ContextRequest,
    HostMode,
    PlacementRequest,
    Plan,
    SplitMode,
    Strategy,
    model_needs,
    output_matrix,
    plan,
)
from app.placement.quantizations import QUANTIZATIONS, estimated_bytes, in_quantization
from tests.materialise import HEADERS
from tests.placement.layers import devices, total

WIDTH = 512


def claims_of(found: Plan) -> dict[str, str | None]:
    """What the plan says of quantisations that would fit or not, by the advice's code."""
    return {each.code: each.quantization for each in found.advice if each.code.endswith(("_quantization", "_fits"))}


def holding(
    layers: Sequence[Layer],
    output: Tensor | None,
    budgets: Sequence[Budget],
    request: PlacementRequest,
    **options: Any,
) -> list[str]:
    """Plan all layers in every common quantisation that is smaller than the file: the names of those that fit."""
    names = []
    for quantization in QUANTIZATIONS:
        others = in_quantization(layers, output, quantization)
        matrix = next(each for layer in others for each in layer.tensors if output and each.name == output.name)
        whole = plan(others, budgets, replace(request, n_gpu_layers="all"), output=matrix, **options)
        if whole.fits and total(others) < total(layers):
            names.append(quantization.name)
    return names


def check(found: Plan, fitting: Sequence[str], top: int) -> None:
    """The advice names the largest of those that fit, or says that none does; nothing where the file fits whole."""
    if found.largest_n_gpu_layers == top:
        assert claims_of(found) == {}
    elif fitting:
        assert claims_of(found) == {"smaller_quantization": fitting[0]}
    else:
        assert claims_of(found) == {"no_quantization_fits": None}


@st.composite
def f16_models(draw: st.DrawFn) -> list[Layer]:
    """Draw a model in F16 whose rows all quantisations divide."""

    def matrix(name: str, key: LayerKey, rows: int) -> Tensor:
        dimensions = (WIDTH, rows)
        return Tensor(name, "F16", dimensions, prod(dimensions), 2 * prod(dimensions), file=0, offset=0, layer=key)

    rows = st.sampled_from([8, 64, 300, 700])
    tensors = [matrix("token_embd.weight", "input", draw(rows))]
    for block in range(draw(st.integers(1, 9))):
        tensors += [
            matrix(f"blk.{block}.{part}.weight", block, draw(rows)) for part in ("attn_v", "ffn_down", "ffn_up")
        ]
    if draw(st.booleans()):
        tensors.append(matrix("output.weight", "output", draw(rows)))
    return list(group(tensors))


@settings(max_examples=60)
@given(st.data())
def test_what_the_advice_claims_holds(data: st.DataObject) -> None:
    """On one device or several, however the layers are dealt out among them, and where the host is short of room."""
    layers = data.draw(f16_models())
    tensors = {tensor.name: tensor for layer in layers for tensor in layer.tensors}
    output = tensors.get("output.weight") or tensors["token_embd.weight"]
    count = data.draw(st.integers(1, 4))
    shares = st.integers(0, 20).map(lambda sixteenths: total(layers) * sixteenths // 16 // count)
    budgets = devices(*data.draw(st.lists(shares, min_size=count, max_size=count)))
    strategy = data.draw(st.sampled_from(Strategy))
    modes = [mode for mode in SplitMode if not (mode is SplitMode.ROW and strategy is Strategy.LLAMA_CPP)]
    request = PlacementRequest(
        strategy=strategy,
        split_mode=data.draw(st.sampled_from(modes)),
        split_weights=data.draw(st.sampled_from(["free", "equal"])),
        host=data.draw(st.sampled_from(HostMode)),
    )
    host_bytes = data.draw(st.sampled_from([None, total(layers) // 8]))

    found = plan(layers, budgets, request, host_bytes=host_bytes, output=output)
    fitting = holding(layers, output, budgets, request, host_bytes=host_bytes)
    check(found, fitting, sum(isinstance(layer.key, int) for layer in layers) + (strategy is Strategy.LLAMA_CPP))


def test_room_in_parts_is_not_room_for_all() -> None:
    """Where the sum of the room would be enough and no device takes a layer, no quantisation is said to fit."""
    blocks = [Tensor(f"blk.{n}.ffn_up.weight", "F16", (512, 512), 1 << 18, 1 << 19, 0, 0, layer=n) for n in range(2)]
    smallest = min(estimated_bytes(group(blocks), None, each) for each in QUANTIZATIONS)

    found = plan(group(blocks), devices(*[smallest // 4] * 8), PlacementRequest())

    assert claims_of(found) == {"no_quantization_fits": None}


def test_sentences_are_for_people_and_fields_for_programs() -> None:
    """A sentence says `8.0 KiB`; what it says is there in bytes, too, also of the quantisation that does not fit."""
    blocks = [Tensor(f"blk.{n}.ffn_up.weight", "F16", (512, 512), 1 << 18, 1 << 19, 0, 0, layer=n) for n in range(2)]
    smallest, f16 = (estimated_bytes(group(blocks), None, each) for each in (QUANTIZATIONS[-1], QUANTIZATIONS[0]))

    advice = {each.code: each for each in plan(group(blocks), devices(8192), PlacementRequest()).advice}
    nothing_fits, rule = advice["no_quantization_fits"], advice["rule_of_thumb"]

    assert (nothing_fits.size_bytes, nothing_fits.available_bytes) == (smallest, 8192)
    assert (rule.available_bytes, rule.f16_bytes) == (8192, f16)
    assert "8.0 KiB for weights is less than half of the 1.0 MiB of F16" in rule.message
    assert not re.search(r"\d{5}", nothing_fits.message + rule.message)


@pytest.mark.skipif(not HEADERS, reason="the shared fixtures are not here")
@pytest.mark.parametrize(
    ("name", "count", "strategy"),
    [
        ("llama-2-7b-q4km", 1, Strategy.FIRST),
        ("llama-2-7b-q4km", 8, Strategy.BEST),
        ("mixtral-8x7b-q4km", 3, Strategy.FIRST),
        ("mixtral-8x7b-q4km", 2, Strategy.LLAMA_CPP),
        ("gemma-3-4b-q4km", 2, Strategy.LLAMA_CPP),
    ],
)
def test_advice_on_popular_models_holds(name: str, count: int, strategy: Strategy) -> None:
    """With a context, on devices that together have room for some tenths of the file."""
    head = next(path for path in HEADERS if path.name == f"{name}.gguf.head.gz")
    model = describe([parse_header(gzip.decompress(head.read_bytes()))])
    context, output = ContextRequest(n_ctx=4096), output_matrix(model)
    needs = model_needs(model, model.caches, context)
    for tenths in (6, 9):
        budgets = devices(*[model.size_bytes * tenths // 10 // count] * count)
        request = PlacementRequest(strategy=strategy, context=context)
        found = plan(model.layers, budgets, request, needs=needs, output=output)
        fitting = holding(model.layers, output, budgets, request, needs=needs)
        check(found, fitting, (model.n_layer or 0) + (strategy is Strategy.LLAMA_CPP))
