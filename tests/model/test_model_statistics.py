"""Statistics: parts that add up, and the quantisation as people say it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gguf import parse_header
from app.model import Model, describe, statistics
from tests.gguf_builder import BOOL, F16, F32, Q8_0, STRING, UINT32, build, tensor_size, tiny_llama


def described(file_type: tuple[int, object] | None) -> Model:
    """Describe a model with a long F32 vector, a matrix of Q8_0 and a smaller one of F16."""
    shapes = [("norm", F32, (4096,)), ("a.weight", Q8_0, (64, 64)), ("b.weight", F16, (8, 8))]
    tensors = [(name, kind, dims, bytes(tensor_size(kind, dims))) for name, kind, dims in shapes]
    metadata = [("general.architecture", STRING, "llama")]
    declared = [("general.file_type", *file_type)] if file_type else []
    return describe([parse_header(build([*metadata, *declared], tensors))])


@pytest.mark.parametrize(
    ("file_type", "name"),
    [
        ((UINT32, 0), "F32"),
        ((UINT32, 1), "F16"),
        ((UINT32, 3), "Q4_1"),
        ((UINT32, 15), "Q4_K_M"),
        ((UINT32, 15 + 1024), "Q4_K_M"),
        ((UINT32, 9999), "Q8_0"),
        ((BOOL, 1), "Q8_0"),
        ((STRING, "Q4_K_M"), "Q8_0"),
        (None, "Q8_0"),
    ],
)
def test_the_quantisation_has_the_name_people_use(file_type: tuple[int, object] | None, name: str) -> None:
    """The declared file type (guessed or not), else the type with the most bytes among the matrices."""
    assert described(file_type).quantization == name


@given(n_layer=st.integers(1, 5), tied=st.booleans(), uneven=st.booleans())
def test_the_parts_add_up_to_the_whole(n_layer: int, tied: bool, uneven: bool) -> None:
    """Over types and over layers: parameters, tensors and bytes."""
    model = describe([parse_header(tiny_llama(n_layer=n_layer, tied=tied, uneven=uneven))])
    whole = statistics(model)

    assert (whole.parameters, whole.size_bytes) == (model.parameters, model.size_bytes)
    for rows in (whole.by_type, whole.by_layer):
        assert sum(row.parameters for row in rows) == whole.parameters
        assert sum(row.size_bytes for row in rows) == whole.size_bytes
        assert sum(row.tensors for row in rows) == whole.tensors


def test_bits_per_weight_count_the_scales() -> None:
    """Q8_0 takes eight and a half bits for each weight, F16 sixteen."""
    bits = {row.type: row.bits_per_weight for row in statistics(described(None)).by_type}

    assert bits == {"F32": 32.0, "Q8_0": 8.5, "F16": 16.0}


def test_the_largest_tensors_come_first() -> None:
    """Ten at most, by bytes."""
    largest = statistics(describe([parse_header(tiny_llama(n_layer=4))])).largest

    assert len(largest) == 10
    assert [tensor.nbytes for tensor in largest] == sorted((tensor.nbytes for tensor in largest), reverse=True)


def test_a_file_without_tensors_has_no_bits_per_weight() -> None:
    """Nothing divided by nothing is unknown."""
    empty = statistics(describe([parse_header(build([("general.architecture", STRING, "llama")]))]))

    assert (empty.parameters, empty.bits_per_weight, empty.by_type, empty.largest) == (0, None, (), ())


def test_experts_have_a_share() -> None:
    """Parameters and bytes of the tensors of which a token uses some; a shared expert is not among them."""
    shapes = [("blk.0.ffn_up_exps.weight", F16, (8, 8, 4)), ("blk.0.ffn_up_shexp.weight", F16, (8, 8))]
    tensors = [(name, kind, dims, bytes(tensor_size(kind, dims))) for name, kind, dims in shapes]
    whole = statistics(describe([parse_header(build([("general.architecture", STRING, "llama")], tensors))]))

    assert (whole.expert_parameters, whole.expert_bytes, whole.parameters) == (256, 512, 320)


@pytest.mark.parametrize(
    ("file_type", "noted"), [(15, True), (7, False), (1, False), (0, True), (7 + 1024, False), (None, False)]
)
def test_a_file_type_that_the_tensors_contradict_is_noted(file_type: int | None, noted: bool) -> None:
    """The file says Q4_K_M and holds no Q4_K: odd, and no reason not to load it."""
    model = described(None if file_type is None else (UINT32, file_type))

    assert [note.key for note in model.notes if note.key] == (["general.file_type"] if noted else [])
