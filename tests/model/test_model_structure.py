"""Damaged models: every damage is found, with the exact tensor or key, and a sound model has no problem."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model import ProblemKind, describe, skeleton, structure_problems
from tests import gguf_builder as gguf
from tests.model.damage import HEADERS, architecture, read
from tests.model.llama import METADATA, SHAPES, Llama, Shape

MISSING, UNEXPECTED = ProblemKind.MISSING, ProblemKind.UNEXPECTED
WRONG, HYPERPARAMETER = ProblemKind.WRONG_DIMENSIONS, ProblemKind.HYPERPARAMETER


def experts() -> Llama:
    """Make the llama a mixture of four experts."""
    dense = tuple(f"blk.{block}.ffn_{part}." for block in (0, 1) for part in ("gate", "up", "down"))
    llama = Llama().with_key("llama.expert_count", gguf.UINT32, 4).with_key("llama.expert_used_count", gguf.UINT32, 2)
    llama = llama.without_tensor(*dense)
    for block in ("blk.0", "blk.1"):
        llama = llama.with_tensor(f"{block}.ffn_gate_inp.weight", 64, 4)
        llama = llama.with_tensor(f"{block}.ffn_gate_exps.weight", 64, 128, 4)
        llama = llama.with_tensor(f"{block}.ffn_up_exps.weight", 64, 128, 4)
        llama = llama.with_tensor(f"{block}.ffn_down_exps.weight", 128, 64, 4)
    return llama


def fused() -> Llama:
    """Put queries, keys and values into one matrix."""
    split = tuple(f"blk.{block}.attn_{part}." for block in (0, 1) for part in "qkv")
    llama = Llama().without_tensor(*split)
    return llama.with_tensor("blk.0.attn_qkv.weight", 64, 128).with_tensor("blk.1.attn_qkv.weight", 64, 128)


@pytest.mark.parametrize("sound", [Llama(), Llama().without_tensor("output.weight"), experts(), fused()])
def test_a_sound_model_has_no_problem(sound: Llama) -> None:
    """Dense or mixture, tied or not, with fused attention or without."""
    assert sound.described().problems == ()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape[0])
def test_a_missing_tensor_is_named(shape: Shape) -> None:
    """Take any tensor out: it is the one that is missing. Only the output may be tied."""
    problems = Llama().without_tensor(shape[0]).described().problems

    expected = [] if shape[0] == "output.weight" else [(MISSING, shape[0])]
    assert [(problem.kind, problem.tensor) for problem in problems] == expected


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape[0])
def test_wrong_dimensions_are_named(shape: Shape) -> None:
    """Make any tensor larger: what was expected and what was found are both in the problem."""
    name, _, dims = shape
    larger = (dims[0] + 1, *dims[1:])
    problem = Llama().with_tensor(name, *larger).problem()

    assert (problem.kind, problem.tensor) == (WRONG, name)
    assert (problem.expected, problem.found) == (str(list(dims)), str(list(larger)))


def test_every_tensor_of_the_mixture_is_checked() -> None:
    """Experts have a dimension of their own."""
    problem = experts().with_tensor("blk.1.ffn_up_exps.weight", 64, 128, 3).problem()

    assert (problem.kind, problem.layer, problem.expected) == (WRONG, 1, "[64, 128, 4]")


def test_the_embedding_must_have_a_row_for_every_token() -> None:
    """Fewer rows than tokens in the list, and no `vocab_size` that says otherwise."""
    llama = Llama().without_tensor("output.weight").with_tensor("token_embd.weight", 64, 95)

    assert (llama.problem().tensor, llama.problem().expected) == ("token_embd.weight", "[64, 96]")
    assert llama.with_key("llama.vocab_size", gguf.UINT32, 95).described().problems == ()


def test_a_block_without_tensors_is_named() -> None:
    """The whole block is one problem, not one for each of its tensors."""
    problem = Llama().with_key("llama.block_count", gguf.UINT32, 3).problem()

    assert (problem.kind, problem.layer, problem.key) == (MISSING, 2, "llama.block_count")


def test_a_block_beyond_the_count_is_named() -> None:
    """A block that the model does not have is unexpected."""
    problem = Llama().with_key("llama.block_count", gguf.UINT32, 1).problem()

    assert (problem.kind, problem.layer, problem.tensor) == (UNEXPECTED, 1, "blk.1.attn_norm.weight")


def test_a_block_for_multi_token_prediction_may_be_left_out() -> None:
    """NextN blocks are counted in block_count, but many files leave their tensors out."""
    llama = Llama().with_key("llama.block_count", gguf.UINT32, 3)

    assert llama.with_key("llama.nextn_predict_layers", gguf.UINT32, 1).described().problems == ()


@pytest.mark.parametrize("key", ["context_length", "embedding_length", "block_count"])
def test_a_missing_required_key_is_named(key: str) -> None:
    """Three keys are required of every architecture."""
    problem = Llama().without_key(f"llama.{key}").problem()

    assert (problem.kind, problem.key) == (MISSING, f"llama.{key}")


@pytest.mark.parametrize(
    ("key", "kind", "value"),
    [
        ("block_count", gguf.UINT32, 0),
        ("block_count", gguf.UINT32, 513),
        ("block_count", gguf.UINT32, 10**9),
        ("block_count", gguf.UINT64, 2**64 - 1),
        ("block_count", gguf.INT32, -1),
        ("block_count", gguf.STRING, "2"),
        ("block_count", gguf.BOOL, True),
        ("block_count", gguf.FLOAT32, 2.0),
        ("context_length", gguf.UINT32, 10**9),
        ("embedding_length", gguf.UINT32, 10**9),
        ("embedding_length", gguf.ARRAY, (gguf.UINT32, [64, 64])),
        ("attention.head_count", gguf.STRING, "4"),
        ("attention.head_count", gguf.ARRAY, (gguf.UINT32, [4])),
        ("attention.head_count", gguf.ARRAY, (gguf.STRING, ["4", "4"])),
        ("attention.head_count", gguf.ARRAY, (gguf.INT32, [4, -4])),
        ("attention.head_count_kv", gguf.ARRAY, (gguf.UINT32, [2, 2, 2])),
        ("feed_forward_length", gguf.BOOL, True),
        ("attention.key_length", gguf.STRING, "x" * 100_000),
        ("rope.freq_base", gguf.FLOAT32, float("nan")),
        ("rope.freq_base", gguf.STRING, "10000"),
        ("rope.scaling.type", gguf.UINT32, 1),
        ("expert_count", gguf.UINT32, 1025),
        ("vocab_size", gguf.UINT32, 2**32 - 1),
    ],
)
def test_a_value_that_cannot_be_is_named(key: str, kind: int, value: Any) -> None:
    """Wrong types and absurd sizes are problems that name the key, in few words, and nothing of that size is made."""
    problem = Llama().with_key(f"llama.{key}", kind, value).problem()

    assert (problem.kind, problem.key) == (HYPERPARAMETER, f"llama.{key}")
    assert len(problem.message) < 300


@pytest.mark.parametrize(
    "llama",
    [
        Llama().with_key("llama.attention.head_count", gguf.UINT32, 0),
        Llama().with_key("llama.attention.head_count", gguf.ARRAY, (gguf.UINT32, [0, 0])),
        Llama().without_key("llama.attention.head_count"),
    ],
)
def test_attention_needs_heads(llama: Llama) -> None:
    """A head_count of 0, or none, is a problem where there are attention tensors."""
    problem = llama.without_key("llama.attention.head_count_kv").described().problems[0]

    assert (problem.kind, problem.key) == (HYPERPARAMETER, "llama.attention.head_count")
    assert problem.tensor == "blk.0.attn_q.weight"


def test_key_value_heads_divide_the_heads() -> None:
    """Three key-value heads cannot serve four heads, whatever the matrices look like; it is said once."""
    llama = Llama().with_key("llama.attention.head_count_kv", gguf.UINT32, 3)
    problems = [problem for problem in llama.described().problems if problem.kind is HYPERPARAMETER]

    assert [(problem.layer, problem.key) for problem in problems] == [(0, "llama.attention.head_count_kv")]


def test_no_token_goes_to_more_experts_than_there_are() -> None:
    """Five of four experts is a problem."""
    problem = experts().with_key("llama.expert_used_count", gguf.UINT32, 5).problem()

    assert (problem.kind, problem.key) == (HYPERPARAMETER, "llama.expert_used_count")


def test_layers_may_differ() -> None:
    """With an array of head counts, each block is measured by its own."""
    llama = Llama().with_key("llama.attention.head_count_kv", gguf.ARRAY, (gguf.UINT32, [2, 4]))
    llama = llama.with_tensor("blk.1.attn_k.weight", 64, 64).with_tensor("blk.1.attn_v.weight", 64, 64)

    assert llama.described().problems == ()
    assert llama.described().hyperparameters.n_head_kv == (2, 4)


@pytest.mark.parametrize("value", [(gguf.UINT32, 7), None])
def test_the_architecture_must_be_a_string(value: tuple[int, Any] | None) -> None:
    """Without an architecture there is one problem, which names the key, and the name is empty."""
    llama = Llama().without_key("general.architecture")
    model = (llama.with_key("general.architecture", *value) if value else llama).described()

    assert model.architecture == ""
    assert [(problem.kind, problem.key) for problem in model.problems] == [(MISSING, "general.architecture")]


def qwen2() -> Llama:
    """Call the llama a qwen2, which is made likewise."""
    metadata = tuple((str(key).replace("llama.", "qwen2."), kind, value) for key, kind, value in METADATA[1:])
    return Llama(metadata=(("general.architecture", gguf.STRING, "qwen2"), *metadata))


def test_every_known_architecture_has_a_table() -> None:
    """What is asked of llama is asked of qwen2, by the same table."""
    assert qwen2().described().problems == ()
    assert qwen2().without_tensor("blk.0.ffn_gate").problem().tensor == "blk.0.ffn_gate.weight"
    assert qwen2().without_tensor("token_embd").problem().tensor == "token_embd.weight"


def test_a_key_that_contradicts_every_tensor_is_named_once() -> None:
    """All matrices agree with each other: the number is wrong, and no matrix is."""
    problem = Llama().with_key("llama.feed_forward_length", gguf.UINT32, 256).problem()

    assert (problem.kind, problem.key, problem.found) == (HYPERPARAMETER, "llama.feed_forward_length", "256")


@pytest.mark.parametrize(
    ("name", "kind", "dims"),
    [("blk.0.attn_norm.weight", gguf.Q8_0, (64,)), ("blk.1.ffn_up.weight", gguf.I32, (64, 128))],
)
def test_a_type_that_cannot_be_computed_with_is_named(name: str, kind: int, dims: tuple[int, ...]) -> None:
    """A norm is not quantised, and a weight is no integer."""
    shapes = tuple(shape for shape in SHAPES if shape[0] != name)
    problem = Llama(shapes=(*shapes, (name, kind, dims))).problem()

    assert (problem.kind, problem.tensor) == (ProblemKind.WRONG_TYPE, name)


def test_what_no_architecture_has_is_noted() -> None:
    """A name from no table is no reason not to load: a newer llama.cpp may know it."""
    model = Llama().with_tensor("blk.0.novelty.weight", 64).described()

    assert model.problems == ()
    assert [(note.kind, note.tensor) for note in model.notes if note.tensor] == [(UNEXPECTED, "blk.0.novelty.weight")]


@pytest.mark.parametrize("kind", ["adapter", "mmproj", "imatrix"])
def test_a_file_that_is_no_model_is_only_described(kind: str) -> None:
    """Adapters, projectors and the like are not expected to hold a model."""
    model = Llama(metadata=(("general.type", gguf.STRING, kind),)).described()

    assert (model.type, model.problems) == (kind, ())


def test_the_problems_of_a_model_are_those_of_its_structure() -> None:
    """Asking again gives the same answer."""
    model = Llama().without_tensor("blk.1.").described()

    assert model.problems
    assert structure_problems(model) == model.problems


def test_a_skeleton_has_dimensions_before_there_is_data() -> None:
    """The tensors of a described llama are those of its skeleton, with the same dimensions."""
    model = Llama().described()
    required = {row.name: row.dimensions for row in skeleton("llama", model.hyperparameters) if row.required}
    held = {tensor.name: tensor.dimensions for tensor in model.tensors}

    assert required.items() <= held.items()
    assert skeleton("no-such-architecture", model.hyperparameters) == ()


SCALARS = st.one_of(
    st.tuples(st.just(gguf.UINT32), st.integers(0, 2**32 - 1)),
    st.tuples(st.just(gguf.INT64), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just(gguf.FLOAT64), st.floats()),
    st.tuples(st.just(gguf.BOOL), st.booleans()),
    st.tuples(st.just(gguf.STRING), st.text(max_size=20)),
)
ARRAYS = st.tuples(
    st.just(gguf.ARRAY), st.tuples(st.just(gguf.INT32), st.lists(st.integers(-5, 2**31 - 1), max_size=4))
)
KEYS = [str(key) for key, _, _ in METADATA] + [
    "general.type", "llama.vocab_size", "llama.expert_count", "llama.expert_used_count",
    "llama.nextn_predict_layers", "llama.decoder_block_count", "llama.attention.key_length",
    "tokenizer.ggml.add_bos_token", "tokenizer.chat_template",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), st.none() | SCALARS | ARRAYS, max_size=5))
def test_whatever_the_metadata_says_it_is_described(damage: dict[str, tuple[int, Any] | None]) -> None:
    """No value of any key raises, and no table of facts holds more than there are layers."""
    llama = Llama()
    for key, value in damage.items():
        llama = llama.with_key(key, *value) if value else llama.without_key(key)
    model = llama.described()

    assert all(problem.message and (problem.key or problem.tensor) for problem in model.problems)
    assert all(len(fact) <= 512 for fact in model.hyperparameters.as_facts().values() if isinstance(fact, list))


@pytest.mark.skipif(not HEADERS, reason="no shared fixtures beside the checkout")
@given(st.data())
def test_whatever_any_architecture_says_it_is_described(data: st.DataObject) -> None:
    """No number in the metadata of any header makes the description raise."""
    header = read(data.draw(st.sampled_from(HEADERS)))
    keys = [key for key in header.metadata if key.startswith(f"{architecture(header)}.")]
    numbers = st.integers(-1, 2**31) | st.sampled_from([0, 1, 3, 64, 2**32 - 1]) | st.floats() | st.text(max_size=3)
    changed = data.draw(st.dictionaries(st.sampled_from(keys), numbers, max_size=4))
    model = describe([replace(header, metadata={**header.metadata, **changed})])

    assert all(problem.message and (problem.key or problem.tensor) for problem in model.problems)
