"""The damage table: eight kinds of damage to the headers of 63 architectures, and the exact name for each.

Where llama.cpp itself loads a file without a tensor, or nothing in the file depends on a key, there is no damage to
find; LOADS_WITHOUT and NOTHING_FOLLOWS list those, each with the reason.
"""

import re
from pathlib import Path

import pytest

from app.errors import Malformed, Truncated
from app.gguf import Header, parse_header
from app.model import Model, ProblemKind, describe, is_known
from tests.model import damage
from tests.model.damage import HEADERS, Damaged

SMALL = [path for path in HEADERS if "q4km" not in path.name]
ONE_OF_A_FAMILY = ("llama-dense", "gpt2-dense", "deepseek2-moe", "jamba-dense", "qwen3next-moe", "hy_v4-moe")

LOADS_WITHOUT = {
    r"output\.weight": "the output is tied to the embedding where it is absent",
    r"rope_(freqs|factors_long|factors_short)\.weight": "the frequencies follow from the metadata",
    r"cls\.output\.weight": "for rerankers only",
    r"output\.bias": "optional for the architecture",
    r"blk\.\d+\.(attn_[qkv]|attn_output|ffn_up|ffn_down|ssm_conv1d|exp_probs_b)\.bias": "optional for the architecture",
    r"blk\.\d+\.attn_sinks\.weight": "mimo2 has them in some of its blocks",
    r"position_embd\.weight|output_norm\.bias": "mpt may have either, or neither",
    r"blk\.\d+\.(ssm_in|attn_qkv|attn_gate)\.weight": "qwen3next has one or the other; this file has both",
}
NOTHING_FOLLOWS = {("attention.head_count", "mamba"): "it has no attention"}
ANY_SIZE = {("qwen3vl", "output.weight"): "its reranker's output has a size of its own"}

pytestmark = pytest.mark.skipif(not HEADERS, reason="no shared fixtures beside the checkout")


def of_each_header(*, every: bool = True) -> pytest.MarkDecorator:
    """Run a test for each architecture's header; without `every` most of them only among the slow tests."""
    quick = (*ONE_OF_A_FAMILY,)
    parameters = [
        pytest.param(path, id=name, marks=() if every or name in quick else pytest.mark.slow)
        for path in SMALL
        for name in [path.name.removesuffix(".gguf.head.gz")]
    ]
    return pytest.mark.parametrize("path", parameters)


def described(damaged: Damaged) -> tuple[Model, set[str | None]]:
    """Describe a damaged header; the names of all tensors that have a problem."""
    model = describe([damaged.header])
    return model, {problem.tensor for problem in model.problems}


def loads_without(name: str) -> bool:
    """Tell whether llama.cpp takes a file without the tensor."""
    return any(re.fullmatch(pattern, name) for pattern in LOADS_WITHOUT)


@of_each_header(every=False)
def test_a_missing_tensor_is_named(path: Path) -> None:
    """That one and no other; of an architecture that nobody knows, where a sibling tells."""
    header = damage.read(path)
    found = 0
    for damaged in damage.without_a_tensor(header):
        model, named = described(damaged)
        found += damaged.name in named
        if is_known(damage.architecture(header)) and not loads_without(damaged.name):
            assert named == {damaged.name}
        assert named <= {damaged.name}
        assert all(problem.kind is ProblemKind.MISSING for problem in model.problems)
    assert found


@of_each_header(every=False)
def test_a_renamed_tensor_is_named(path: Path) -> None:
    """The old name is missing, and the new one is noted; it takes a known architecture to tell which is which."""
    header = damage.read(path)
    for damaged in damage.with_a_renamed_tensor(header):
        model, named = described(damaged)
        if is_known(damage.architecture(header)):
            assert {note.kind for note in model.notes} == {ProblemKind.UNEXPECTED}
            assert named == {damaged.name} or (named == set() and loads_without(damaged.name))


@of_each_header(every=False)
def test_a_changed_dimension_is_named(path: Path) -> None:
    """Whichever dimension of whichever tensor: that tensor and no other."""
    header = damage.read(path)
    for damaged in damage.with_a_wider_tensor(header):
        model, named = described(damaged)
        if is_known(damage.architecture(header)) and (model.architecture, damaged.name) not in ANY_SIZE:
            assert named == {damaged.name}
        assert named <= {damaged.name}
        assert all(problem.kind is ProblemKind.WRONG_DIMENSIONS for problem in model.problems)


@of_each_header(every=False)
def test_a_wrong_type_is_named(path: Path) -> None:
    """A quantised norm or bias, a matrix of integers; of an architecture that nobody knows, by the usual names."""
    header = damage.read(path)
    for damaged in damage.with_a_wrong_type(header):
        model, named = described(damaged)
        if is_known(model.architecture):
            assert named == {damaged.name}
        assert [problem.kind for problem in model.problems] == [ProblemKind.WRONG_TYPE] * len(named)


@of_each_header()
def test_a_doubled_tensor_is_refused_by_name(path: Path) -> None:
    """The parser names the tensor and its place in the index."""
    header = damage.read(path)
    with pytest.raises(Malformed, match=re.escape(header.tensors[0].name)) as caught:
        parse_header(damage.with_a_doubled_tensor(header))

    assert caught.value.field == f"tensors[{len(header.tensors)}].name"


@of_each_header()
def test_truncated_data_is_refused_by_name(path: Path) -> None:
    """The first tensor that does not end within the file is named."""
    header = damage.read(path)
    for index in (0, len(header.tensors) // 2, len(header.tensors) - 1):
        tensor = header.tensors[index]
        with pytest.raises(Truncated, match=re.escape(repr(tensor.name))) as caught:
            header.check_data(header.data_offset + tensor.offset + tensor.nbytes - 1)
        assert caught.value.field == f"tensors[{index}]"


def keys_named(header: Header, name: str, add: int) -> set[str | None]:
    """Change a number of the metadata; the keys that have a problem then."""
    (damaged,) = damage.with_a_wrong_number(header, name, add=add)
    return {problem.key for problem in described(damaged)[0].problems}


@of_each_header()
@pytest.mark.parametrize("add", [1, -1])
def test_a_wrong_block_count_is_named(path: Path, add: int) -> None:
    """A block too many or too few, of any architecture, known or not."""
    header = damage.read(path)

    assert f"{damage.architecture(header)}.block_count" in keys_named(header, "block_count", add)


@of_each_header()
@pytest.mark.parametrize("add", [1, 2])
def test_a_wrong_head_count_is_named(path: Path, add: int) -> None:
    """More heads than the matrices have; nobody knows which matrices those are of an unknown architecture."""
    header = damage.read(path)
    name, architecture = "attention.head_count", damage.architecture(header)
    if not is_known(architecture):
        pytest.skip("which tensors follow from the number of heads is the architecture's to say")
    found = f"{architecture}.{name}" in keys_named(header, name, add)

    assert found == ((name, architecture) not in NOTHING_FOLLOWS)


@of_each_header()
def test_a_wrong_width_is_named(path: Path) -> None:
    """An embedding_length that no tensor has is named itself, and not every tensor for it."""
    header = damage.read(path)
    architecture = damage.architecture(header)
    if not is_known(architecture):
        pytest.skip("which tensors are as wide as the model is the architecture's to say")

    assert keys_named(header, "embedding_length", 32) >= {f"{architecture}.embedding_length"}
