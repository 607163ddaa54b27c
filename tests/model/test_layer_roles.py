"""Tensors find their layer by name, and layers stand in the order of the model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gguf import parse_header
from app.model import LayerKey, Role, Tensor, describe, group, layer_of
from tests.gguf_builder import tiny_llama


def tensor(name: str, type_: str = "F16", parameters: int = 1, nbytes: int = 2) -> Tensor:
    """Make a tensor in the layer its name asks for."""
    return Tensor(name, type_, (parameters,), parameters, nbytes, file=0, offset=0, layer=layer_of(name))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("token_embd.weight", "input"),
        ("position_embd.weight", "input"),
        ("token_embd_norm.weight", "input"),
        ("per_layer_token_embd.weight", "input"),
        ("rope_freqs.weight", "input"),
        ("blk.0.attn_q.weight", 0),
        ("blk.127.ffn_down_exps.weight", 127),
        ("blk.61.nextn.shared_head_head.weight", 61),
        ("enc.blk.3.attn_q.weight", 3),
        ("dec.blk.3.cross_attn_o.weight", 3),
        ("v.blk.3.attn_q.weight", "input"),
        ("blk.x.attn_q.weight", "input"),
        ("output.weight", "output"),
        ("output.scale", "output"),
        ("output_norm.bias", "output"),
        ("dec.output_norm.weight", "output"),
        ("cls.output.bias", "output"),
        ("output_hc_fn.weight", "output"),
    ],
)
def test_a_tensor_finds_its_layer(name: str, layer: LayerKey) -> None:
    """Blocks by their number, a table for the output, everything else before the blocks."""
    assert layer_of(name) == layer


def test_the_final_norm_of_lfm2_is_output() -> None:
    """LFM2's final norm has the name of the embedding's norm of other architectures."""
    assert layer_of("token_embd_norm.weight", "lfm2") == "output"


def test_layers_stand_in_the_order_of_the_model() -> None:
    """Input, blocks by number (10 after 2), output, however the file orders them."""
    names = ["output.weight", "blk.10.x.weight", "blk.2.x.weight", "token_embd.weight", "blk.10.y.weight"]
    layers = group([tensor(name) for name in names])

    assert [layer.key for layer in layers] == ["input", 2, 10, "output"]
    assert [layer.role for layer in layers] == [Role.INPUT, Role.BLOCK, Role.BLOCK, Role.OUTPUT]
    assert [member.name for member in layers[2].tensors] == ["blk.10.x.weight", "blk.10.y.weight"]


def test_a_layer_names_its_types_by_bytes() -> None:
    """The type with the most bytes comes first, not the one of the most tensors."""
    (layer,) = group(
        [tensor("blk.0.a", "F32", nbytes=4), tensor("blk.0.b", "F32", nbytes=4), tensor("blk.0.c", "Q4_K", nbytes=9)]
    )

    assert layer.types == ("Q4_K", "F32")


@pytest.mark.parametrize(("tied", "output"), [(True, 1), (False, 2)])
def test_a_tied_output_counts_as_input(tied: bool, output: int) -> None:
    """Without `output.weight` the output layer is its norm alone, and token_embd is in the input layer."""
    layers = describe([parse_header(tiny_llama(n_layer=2, tied=tied))]).layers

    assert [layer.key for layer in layers] == ["input", 0, 1, "output"]
    assert [member.name for member in layers[0].tensors] == ["token_embd.weight"]
    assert len(layers[-1].tensors) == output


@given(st.text(), st.text())
def test_any_name_has_a_layer(name: str, rest: str) -> None:
    """Whatever a file calls its tensors, each is in one layer and nothing is lost."""
    tensors = [tensor(name), tensor("blk." + rest), tensor(f"blk.{rest}.x")]

    assert sum(layer.size_bytes for layer in group(tensors)) == 6
