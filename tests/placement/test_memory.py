"""What a placement needs of each device: contexts where their layers are, buffers where the work is done."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model.caches import LayerCache
from app.placement.activations import output_matrix
from app.placement.context import ContextRequest
from app.placement.layout import Layout
from app.placement.llamacpp import place
from app.placement.memory import Needs, compute_bytes, context_bytes, model_needs
from tests.placement.models import small_model

GPUS = ("sim:0", "sim:1")


def needs(request: ContextRequest | None = None, *, n_layer: int = 4, n_expert: int = 0) -> Needs:
    """Measure a small model in a context."""
    model, caches = small_model(n_layer=n_layer, n_expert=n_expert)
    return model_needs(model, caches, request or ContextRequest(n_ctx=1024))


def test_the_small_model_is_sound() -> None:
    """The model that these tests measure has nothing wrong with it."""
    assert small_model()[0].problems == small_model(tied=True, n_expert=4)[0].problems == ()


def test_a_cache_is_where_its_layer_is() -> None:
    """Every layer keeps 2 x 32 numbers of two bytes for each of 1024 cells."""
    found = context_bytes(needs(), place(4, 4, GPUS, [1, 1]))

    assert found == {"cpu": 131072, "sim:0": 2 * 131072, "sim:1": 131072}


def test_a_cache_that_is_not_offloaded_is_on_the_host() -> None:
    """All of it, wherever the layers are."""
    found = context_bytes(needs(ContextRequest(n_ctx=1024, kv_offload=False)), place(4, 5, GPUS, [1, 1]))

    assert found == {"cpu": 4 * 131072, "sim:0": 0, "sim:1": 0}


def test_any_layout_will_do() -> None:
    """Layers need not lie as llama.cpp would put them."""
    layout = Layout(GPUS, ("sim:1", "cpu", "sim:0", "sim:1"), "sim:0")

    assert context_bytes(needs(), layout) == {"cpu": 131072, "sim:0": 131072, "sim:1": 2 * 131072}
    assert all(nbytes > 0 for nbytes in compute_bytes(needs(), layout).values())


def test_a_device_without_work_needs_no_buffer() -> None:
    """And the host needs some in any case, for the input is embedded there and the logits are handed over."""
    found = compute_bytes(needs(), place(4, 0, GPUS, [1, 1]))

    assert found["sim:0"] == found["sim:1"] == 0
    assert compute_bytes(needs(), place(4, 5, ["sim:0"], [1]))["cpu"] > 0


def test_the_output_s_device_holds_the_logits() -> None:
    """Four bytes for every token of a micro-batch and every word, and the row that they are made of."""
    found = compute_bytes(needs(), place(4, 1, ["sim:0"], [1]))

    assert found["sim:0"] == 4 * 512 * (100 + 64)


def test_the_output_buffer_has_a_row_for_each_sequence() -> None:
    """Three sequences more are three rows of logits more."""
    one, four = (needs(ContextRequest(n_ctx=1024, n_seq=n_seq)).output_buffer for n_seq in (1, 4))

    assert (one, four) == (4 * 100, 4 * 4 * 100)


def test_a_pipeline_keeps_four_copies_of_its_inputs() -> None:
    """Several devices that hold everything work on four micro-batches at once; an override ends that."""
    asked = needs(ContextRequest(n_ctx=65536))
    layout = place(4, 5, GPUS, [1, 1])
    apart = Layout(layout.devices, layout.blocks, layout.output, overridden=True)

    piped, plain = compute_bytes(asked, layout), compute_bytes(asked, apart)

    masks = 2 * 65536 * 512
    assert all(piped[device] - plain[device] > 3 * masks * 0.9 for device in piped)


def test_a_device_gets_the_masks_of_its_own_blocks() -> None:
    """A device whose blocks all slide a window needs no mask of the whole context."""
    model, caches = small_model()
    dense = caches.layers[0]
    sliding = LayerCache(tuple(replace(rows, sliding=True) for rows in dense.rows))
    mixed = replace(caches, layers=(dense, sliding, sliding, sliding), window=32)
    asked = model_needs(model, mixed, ContextRequest(n_ctx=65536))

    found = compute_bytes(asked, Layout(GPUS, ("sim:0", "cpu", "sim:1", "sim:1"), "cpu"))

    assert found["sim:0"] - found["sim:1"] == 2 * 512 * (65536 - 768)


def test_a_cache_on_the_host_comes_over_for_attention() -> None:
    """One layer's at a time: half a MiB of 4096 cells, whichever layers the device has."""
    there, away = (
        compute_bytes(needs(ContextRequest(n_ctx=4096, kv_offload=offload)), place(4, 5, ["sim:0"], [1]))["sim:0"]
        for offload in (True, False)
    )

    assert away - there > 4096 * 2 * 32 * 2


def test_scores_are_kept_without_flash_attention() -> None:
    """Four bytes for each head, token and cell."""
    with_, without = (
        compute_bytes(needs(ContextRequest(n_ctx=65536, flash_attention=on)), place(4, 5, ["sim:0"], [1]))["sim:0"]
        for on in (True, False)
    )

    assert without - with_ > 4 * 4 * 512 * 65536


def test_experts_on_the_host_are_computed_there() -> None:
    """Their activations move with them, from the device to the host."""
    model, caches = small_model(n_expert=8)
    asked = model_needs(model, caches, ContextRequest(n_ctx=256))
    layout = place(4, 5, ["sim:0"], [1])

    before = compute_bytes(asked, layout)
    after = compute_bytes(asked, replace(layout, experts=("cpu",) * 4, overridden=True))

    assert after["sim:0"] < before["sim:0"]
    assert after["cpu"] > before["cpu"]


@pytest.mark.parametrize("tied", [False, True])
def test_the_output_matrix_is_the_embedding_where_there_is_no_other(tied: bool) -> None:
    """A tied model makes its logits with the embedding."""
    matrix = output_matrix(small_model(tied=tied)[0])

    assert matrix is not None
    assert matrix.name == ("token_embd.weight" if tied else "output.weight")


def test_a_model_without_layers_has_needs_too() -> None:
    """Nothing to keep, nothing to divide by."""
    asked = needs(n_layer=0)

    assert context_bytes(asked, place(0, 1, ["sim:0"], [1])) == {"cpu": 0, "sim:0": 0}
    assert compute_bytes(asked, place(0, 1, GPUS, [1, 1]))["cpu"] > 0


CONTEXTS = st.builds(
    ContextRequest,
    n_ctx=st.integers(1, 1 << 16),
    n_seq=st.integers(1, 8),
    kv_unified=st.booleans(),
    kv_offload=st.booleans(),
    flash_attention=st.booleans(),
    n_batch=st.integers(1, 4096),
    n_ubatch=st.integers(1, 4096),
)


@given(context=CONTEXTS, homes=st.lists(st.sampled_from(["cpu", *GPUS]), min_size=5, max_size=5))
def test_context_adds_up_wherever_the_layers_are(context: ContextRequest, homes: list[str]) -> None:
    """The whole cache is somewhere, once, and no figure is negative."""
    asked = needs(context)
    layout = Layout(GPUS, tuple(homes[:4]), homes[4])

    found, compute = context_bytes(asked, layout), compute_bytes(asked, layout)

    assert sum(found.values()) == sum(asked.layers)
    assert set(found) == set(compute) == {"cpu", *GPUS}
    assert min(*found.values(), *compute.values()) >= 0


@given(context=CONTEXTS, n=st.integers(0, 5), larger=st.integers(1, 4096))
def test_a_larger_micro_batch_never_takes_less(context: ContextRequest, n: int, larger: int) -> None:
    """Buffers grow with the tokens that are computed at once."""
    layout = place(4, n, GPUS, [1, 1])
    grown = ContextRequest(
        n_ctx=context.n_ctx,
        n_seq=context.n_seq,
        kv_unified=context.kv_unified,
        kv_offload=context.kv_offload,
        flash_attention=context.flash_attention,
        n_batch=8192,
        n_ubatch=context.n_ubatch + larger,
    )

    small, large = compute_bytes(needs(context), layout), compute_bytes(needs(grown), layout)

    assert all(small[device] <= large[device] for device in small)
