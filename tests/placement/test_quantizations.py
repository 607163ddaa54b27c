"""Sizes in other quantisations: the estimate for the one that a file has already is the file's own size."""

import gzip

import pytest

from app.gguf import GGMLType, parse_header
from app.model import Model, describe
from app.placement import output_matrix
from app.placement.quantizations import QUANTIZATIONS, Quantization, estimated_bytes, in_quantization
from tests.api.server import demo_file
from tests.materialise import HEADERS

Q4_K_M = next(each for each in QUANTIZATIONS if each.name == "Q4_K_M")
Q4_1 = Quantization("Q4_1", GGMLType.Q4_1, GGMLType.Q4_1, GGMLType.Q6_K)
"""Not a common one, but the demo model's."""


def off(model: Model, quantization: Quantization) -> float:
    """How far the estimate is from the tensors' real bytes, as a part of them."""
    return estimated_bytes(model.layers, output_matrix(model), quantization) / model.size_bytes - 1


def test_the_demo_model_s_size_is_exact() -> None:
    """Rows of 576 are no whole blocks of 256, so that the tied embedding has a stand-in, as llama.cpp chooses it."""
    assert off(describe([parse_header(demo_file().read_bytes())]), Q4_1) == 0


@pytest.mark.skipif(not HEADERS, reason="the shared fixtures are not here")
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("llama-2-7b", 0),
        ("llama-3.1-8b", 0),
        ("mixtral-8x7b", 0),
        ("qwen2.5-7b", 0),
        ("gemma-3-4b", 0.08),  # its tied embedding is Q4_K, where llama.cpp's own tool takes Q6_K for the output
    ],
)
def test_popular_models_sizes_are_met(name: str, most: float) -> None:
    """Q4_K_M is exact, to the byte, where the file is mixed as llama.cpp mixes it; else on the safe side."""
    head = next(path for path in HEADERS if path.name == f"{name}-q4km.gguf.head.gz")

    assert 0 <= off(describe([parse_header(gzip.decompress(head.read_bytes()))]), Q4_K_M) <= most


@pytest.mark.skipif(not HEADERS, reason="the shared fixtures are not here")
@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=lambda each: each.name)
def test_the_layers_of_a_quantisation_add_up_to_its_size(quantization: Quantization) -> None:
    """Made tensor by tensor or only counted, a quantisation has one size."""
    head = next(path for path in HEADERS if path.name == "llama-2-7b-q4km.gguf.head.gz")
    model = describe([parse_header(gzip.decompress(head.read_bytes()))])
    layers = in_quantization(model.layers, output_matrix(model), quantization)

    assert sum(layer.size_bytes for layer in layers) == estimated_bytes(
        model.layers, output_matrix(model), quantization
    )
