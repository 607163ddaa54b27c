"""llama.cpp's placement: the last layers first, the output before them, runs dealt out in 32-bit floats."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidValue
from app.model import Model, Tensor, group
from app.placement import Budget, ContextRequest, Override, PlacementRequest, Plan, Strategy, output_matrix, plan
from app.placement.layout import Layout
from app.placement.llamacpp import place, server_arguments
from app.placement.overrides import Overrides
from benchmarks.oracle import parse_arguments
from tests.placement.cases import tensor
from tests.placement.models import small_model

GPUS = ("cuda:0", "cuda:1")


def counts(layout: Layout) -> list[int]:
    """Count the units, the output among them, of the host and each device."""
    return [[*layout.blocks, layout.output].count(device) for device in ("cpu", *layout.devices)]


@pytest.mark.parametrize(
    ("n", "blocks", "output"),
    [
        (0, "cccc", "cpu"),
        (1, "cccc", "cuda:0"),
        (2, "cccg", "cuda:0"),
        (4, "cggg", "cuda:0"),
        (5, "gggg", "cuda:0"),
        (99, "gggg", "cuda:0"),
    ],
)
def test_the_last_layers_first_and_the_output_before_them(n: int, blocks: str, output: str) -> None:
    """The output counts: 1 moves nothing but it, one more than there are blocks moves all."""
    layout = place(4, n, ["cuda:0"], [1])

    assert ["c" if device == "cpu" else "g" for device in layout.blocks] == list(blocks)
    assert layout.output == output


@pytest.mark.parametrize(
    ("n", "weights", "expected"),
    [
        (33, [1, 1], [0, 17, 16]),
        (20, [1, 1], [13, 10, 10]),
        (33, [3, 1], [0, 25, 8]),
        (33, [0, 1], [0, 0, 33]),
        (33, [24e9, 8e9], [0, 25, 8]),
        (0, [1, 1], [33, 0, 0]),
    ],
)
def test_devices_get_runs_by_their_weights(n: int, weights: list[float], expected: list[int]) -> None:
    """Contiguous, in order; the figures are those of llama.cpp's notes."""
    layout = place(32, n, GPUS, weights)

    assert counts(layout) == expected
    assert [*layout.blocks, layout.output] == sorted([*layout.blocks, layout.output])


def test_without_devices_all_is_on_the_host() -> None:
    """However many layers are asked for."""
    assert place(4, 5, [], []) == Layout((), ("cpu",) * 4, "cpu")


@given(
    n_layer=st.integers(1, 512), n=st.integers(0, 600), dealt=st.lists(st.floats(0.001, 1000), min_size=1, max_size=16)
)
def test_counts_deal_out_the_same_again(n_layer: int, n: int, dealt: list[float]) -> None:
    """The counts of a placement, taken as weights, give the same placement: so `-ts` can always say it."""
    devices = [f"cuda:{number}" for number in range(len(dealt))]
    layout = place(n_layer, n, devices, dealt)
    units = counts(layout)[1:]

    assert sum(units) == min(n, n_layer + 1)
    assert not any(units) or place(n_layer, n, devices, units) == layout


def planned(model: Model, n: int, gpus: Sequence[str] = GPUS, **asked: Any) -> Plan:
    """Plan n of a model's units on roomy devices, equally."""
    request = PlacementRequest(n, Strategy.LLAMA_CPP, split_weights="equal", **asked)
    return plan(model.layers, [Budget(id_, 1 << 30) for id_ in gpus], request, output=output_matrix(model))


def weights(found: Plan) -> dict[str, int]:
    """Weights by device."""
    return {device.id: device.weights_bytes for device in found.devices}


def homes(found: Plan, model: Model) -> dict[str, str]:
    """Where each tensor is."""
    devices = {tensor.name: found.placement.tensor_devices(tensor) for tensor in model.tensors}
    assert all(len(held) == 1 for held in devices.values())
    return {name: next(iter(held)) for name, held in devices.items()}


def test_a_tied_output_is_a_copy_on_its_device() -> None:
    """The embedding stays on the host and counts once more where the output is; once if that is the host too."""
    model, _ = small_model(tied=True)
    embedding = model.tensors_by_name["token_embd.weight"]
    none, one = (planned(model, n, ["cuda:0"]) for n in (0, 1))

    assert homes(none, model)[embedding.name] == homes(one, model)[embedding.name] == "cpu"
    assert weights(none) == {"cuda:0": 0, "cpu": model.size_bytes}
    assert weights(one) == {"cuda:0": embedding.nbytes + 4 * 64, "cpu": model.size_bytes - 4 * 64}
    assert [part.tensor.name for slab in one.placement.slabs for part in slab.slices] == [
        "output_norm.weight",
        embedding.name,
    ]


def test_a_tied_output_without_tensors_is_a_copy_too() -> None:
    """A model that ends with its last block has an output nevertheless, and its slab holds nothing but the copy."""
    tensors = [tensor("token_embd.weight", "input", 16, 32)]
    tensors += [tensor(f"blk.{block}.ffn_up.weight", block, 16, 32) for block in range(2)]
    layers, embedding = group(tensors), tensors[0]
    request = PlacementRequest("all", Strategy.LLAMA_CPP)

    found = plan(layers, [Budget("sim:0", 9999)], request, output=embedding)

    assert weights(found) == {"sim:0": 3 * 512, "cpu": 512}
    assert [(slab.layer, slab.weights_bytes) for slab in found.placement.slabs] == [(0, 512), (1, 512), ("output", 512)]
    assert found.placement.tensor_devices(embedding) == {"cpu": 512}
    assert [row.layer for row in found.layers] == ["input", 0, 1]


def test_an_output_of_its_own_is_no_copy() -> None:
    """Weights add up to the model's; the input is on the host although all layers are not."""
    model, _ = small_model()

    sums = weights(planned(model, 5))

    assert sum(sums.values()) == model.size_bytes
    assert sums["cpu"] == model.tensors_by_name["token_embd.weight"].nbytes


def test_the_first_override_found_decides() -> None:
    """Patterns are searched for, in order; what none finds stays with its layer."""
    model, _ = small_model()
    overrides = (Override(r"blk\.0\.attn", "cuda:1"), Override("attn", "cpu"), Override("blk", "cuda:0"))

    found = homes(planned(model, 5, overrides=overrides), model)

    assert found["blk.0.attn_q.weight"] == "cuda:1"
    assert found["blk.1.attn_q.weight"] == "cpu"
    assert found["blk.3.ffn_up.weight"] == "cuda:0"
    assert found["output.weight"] == "cuda:1"


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "cuda:1"])
def test_a_tied_embedding_s_override_holds_for_its_copy(device: str) -> None:
    """Both have one name, so that one pattern finds both and no second copy is made."""
    model, _ = small_model(tied=True)

    found = planned(model, 5, overrides=(Override("token_embd", device),))

    assert sum(weights(found).values()) == model.size_bytes
    assert homes(found, model)["token_embd.weight"] == device
    assert homes(found, model)["output_norm.weight"] == "cuda:1"


@pytest.mark.parametrize(("n", "expected"), [(0, "gggg"), (3, "cccg"), (4, "cccc")])
def test_experts_may_stay_on_the_host(n: int, expected: str) -> None:
    """The experts of the first blocks, or of all; attention stays where its block is."""
    model, _ = small_model(n_expert=8)

    found = homes(planned(model, 5, ["cuda:0"], n_cpu_moe=n), model)

    for block, letter in enumerate(expected):
        for part in ("up", "down", "gate"):
            assert (found[f"blk.{block}.ffn_{part}_exps.weight"] == "cpu") == (letter == "c")
        assert found[f"blk.{block}.attn_q.weight"] == found[f"blk.{block}.ffn_gate_inp.weight"] == "cuda:0"


@pytest.mark.parametrize("pattern", ["(", "(?=x)", "a{1001}{1001}", "\ud800", "[z-a]", r"\1"])
def test_what_is_no_pattern_is_refused_by_its_index(pattern: str) -> None:
    """RE2 has neither look-ahead nor references; the error says which override is at fault."""
    with pytest.raises(InvalidValue) as refused:
        Overrides([Override("fine", "cpu"), Override(pattern, "cpu")]).devices_of([])

    assert refused.value.param == "overrides[1].pattern"


def test_no_pattern_can_hang() -> None:
    """A pattern that takes a backtracking engine for ever is over at once."""
    name = "a" * 10_000 + "!"
    tensor = Tensor(name, "I8", (1,), parameters=1, nbytes=1, file=0, offset=0, layer=0)

    assert Overrides([Override(r"(a+)+(a+)+(a+)+$", "cpu")]).devices_of([tensor]) == {}


def test_the_arguments_say_all_of_it() -> None:
    """Layers, devices, split, overrides, experts and the context."""
    layout = place(4, 4, GPUS, [3, 1])
    context = ContextRequest(n_ctx=8192, n_seq=2, kv_unified=True, kv_offload=False, flash_attention=False)

    found = server_arguments(layout, [Override("attn_k", "cuda:1")], n_cpu_moe=2, context=context)

    assert found is not None
    assert " ".join(found) == (
        "-ngl 4 -dev CUDA0,CUDA1 -ts 3,1 -ot attn_k=CUDA1 -ncmoe 2 "
        "-c 8192 -np 2 -kvu -nkvo -ctk f16 -ctv f16 -fa off -b 2048 -ub 512"
    )


@given(
    n=st.integers(0, 34),
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    n_cpu_moe=st.integers(0, 3),
    context=st.builds(
        ContextRequest,
        n_ctx=st.integers(1, 1 << 17),
        n_seq=st.integers(1, 8),
        kv_unified=st.booleans(),
        kv_offload=st.booleans(),
        cache_type_k=st.sampled_from(["f16", "q8_0"]),
        flash_attention=st.booleans(),
        n_ubatch=st.integers(1, 4096),
    ),
)
def test_arguments_read_back_are_the_same_request(
    n: int, weights: list[int], n_cpu_moe: int, context: ContextRequest
) -> None:
    """What a plan prints, llama-server would place and size exactly so."""
    devices = [f"cuda:{number}" for number in range(len(weights))]
    layout = place(32, n, devices, weights)
    overrides = (Override(r"blk\.1\.ffn", "cpu"),)

    printed = server_arguments(layout, overrides, n_cpu_moe, context)

    assert printed is not None
    back = parse_arguments(printed, devices, 32)
    assert (back.context, back.overrides, back.n_cpu_moe) == (context, overrides, n_cpu_moe)
    dealt = back.split_weights if isinstance(back.split_weights, tuple) else [1] * len(devices)
    assert place(32, n, devices, dealt) == layout
    assert back.n_gpu_layers == min(n, 33)


@pytest.mark.parametrize("pattern", ["a,b", "a{1,2}", "a=b"])
def test_some_patterns_cannot_be_said(pattern: str) -> None:
    """A list of assignments has no room for commas and equals signs: then there are no arguments, not wrong ones."""
    assert server_arguments(place(4, 5, GPUS, [1, 1]), [Override(pattern, "cpu")]) is None
