"""llama.cpp's placement: the last layers first, the output before them, runs dealt out in 32-bit floats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidValue
from app.placement.context import ContextRequest
from app.placement.layout import Layout
from app.placement.llamacpp import place, server_arguments, tensor_devices, tied_copy, weights_bytes, with_overrides
from app.placement.overrides import Override, Overrides, experts_on_host
from benchmarks.oracle import parse_arguments
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


def test_a_tied_output_is_a_copy_on_its_device() -> None:
    """The embedding stays on the host and counts once more where the output is; once if that is the host too."""
    model, _ = small_model(tied=True)
    embedding = model.tensors_by_name["token_embd.weight"]
    sums = {}
    for n in (0, 1):
        layout = place(4, n, ["cuda:0"], [1])
        homes = tensor_devices(model, layout, Overrides())
        sums[n] = weights_bytes(model, layout, homes)
        assert homes[embedding.name] == "cpu"
        assert tied_copy(model, layout, homes) == (embedding if n else None)

    assert sums[0] == {"cpu": model.size_bytes, "cuda:0": 0}
    assert sums[1] == {"cpu": model.size_bytes - 4 * 64, "cuda:0": embedding.nbytes + 4 * 64}


def test_an_output_of_its_own_is_no_copy() -> None:
    """Weights add up to the model's; the input is on the host although all layers are not."""
    model, _ = small_model()
    layout = place(4, 5, GPUS, [1, 1])

    sums = weights_bytes(model, layout, tensor_devices(model, layout, Overrides()))

    assert sum(sums.values()) == model.size_bytes
    assert sums["cpu"] == model.tensors_by_name["token_embd.weight"].nbytes


def test_the_first_override_found_decides() -> None:
    """Patterns are searched for, in order; what none finds stays with its layer."""
    model, _ = small_model()
    layout = place(4, 5, GPUS, [1, 1])
    overrides = Overrides([Override(r"blk\.0\.attn", "cuda:1"), Override("attn", "cpu"), Override("blk", "cuda:0")])

    homes = tensor_devices(model, layout, overrides)

    assert homes["blk.0.attn_q.weight"] == "cuda:1"
    assert homes["blk.1.attn_q.weight"] == "cpu"
    assert homes["blk.3.ffn_up.weight"] == "cuda:0"
    assert homes["output.weight"] == layout.output


def test_a_tied_embedding_s_override_holds_for_its_copy() -> None:
    """Both have one name, so that one pattern finds both and no second copy is made."""
    model, _ = small_model(tied=True)
    layout = place(4, 5, ["cuda:0"], [1])
    overrides = Overrides([Override("token_embd", "cpu")])
    homes = tensor_devices(model, layout, overrides)

    assert tied_copy(model, with_overrides(model, layout, overrides), homes) is None
    assert homes["output_norm.weight"] == "cuda:0"


@pytest.mark.parametrize(("n", "expected"), [(None, "cccc"), (3, "cccg"), (4, "cccc")])
def test_experts_may_stay_on_the_host(n: int | None, expected: str) -> None:
    """The experts of the first blocks, or of all; attention stays where its block is."""
    model, _ = small_model(n_expert=8)
    layout = place(4, 5, ["cuda:0"], [1])
    overrides = Overrides([experts_on_host(n)])

    homes = tensor_devices(model, layout, overrides)
    moved = with_overrides(model, layout, overrides)

    for block, letter in enumerate(expected):
        assert (homes[f"blk.{block}.ffn_up_exps.weight"] == "cpu") == (letter == "c")
        assert (moved.feed_forward[block] == "cpu") == (letter == "c")
        assert homes[f"blk.{block}.attn_q.weight"] == "cuda:0"
    assert moved.blocks == layout.blocks


@pytest.mark.parametrize("pattern", ["(", "(?=x)", "a{1001}{1001}", "\ud800", "[z-a]", r"\1"])
def test_what_is_no_pattern_is_refused_by_its_index(pattern: str) -> None:
    """RE2 has neither look-ahead nor references; the error says which override is at fault."""
    with pytest.raises(InvalidValue) as refused:
        Overrides([Override("fine", "cpu"), Override(pattern, "cpu")])

    assert refused.value.param == "overrides[1].pattern"


def test_no_pattern_can_hang() -> None:
    """A pattern that takes a backtracking engine for ever is over at once."""
    assert Overrides([Override(r"(a+)+(a+)+(a+)+$", "cpu")]).device_of("a" * 10_000 + "!") is None


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
    back = parse_arguments(printed, devices)
    assert back.context == context
    assert back.overrides == overrides + ((experts_on_host(n_cpu_moe),) if n_cpu_moe else ())
    assert place(32, back.n_gpu_layers, devices, back.weights) == layout


@pytest.mark.parametrize("pattern", ["a,b", "a{1,2}", "a=b"])
def test_some_patterns_cannot_be_said(pattern: str) -> None:
    """A list of assignments has no room for commas and equals signs: then there are no arguments, not wrong ones."""
    assert server_arguments(place(4, 5, GPUS, [1, 1]), [Override(pattern, "cpu")]) is None
