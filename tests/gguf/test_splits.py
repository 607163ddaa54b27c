"""Shards are one model where they belong together, and the one that does not belong is named."""

import pytest

from app.errors import Malformed
from app.gguf import parse_header
from app.gguf.splits import SHARD_NAME, check_splits
from tests import gguf_builder as b

ARCHITECTURE = ("general.architecture", b.STRING, "llama")
NAMES = [f"model-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
SHARDS = b.split_llama(3)


def tensor(name: str) -> b.Tensor:
    """Make the smallest tensor of a name."""
    return b.Tensor(name, b.I8, (1,), b"1")


def check(*shards: bytes) -> None:
    """Check shards under the names that they should have; one alone is called `model.gguf`."""
    check_splits([parse_header(shard) for shard in shards], NAMES if len(shards) == 3 else ["model.gguf"])


def refused(*shards: bytes) -> Malformed:
    """Return the error that shards are refused with."""
    with pytest.raises(Malformed) as caught:
        check(*shards)
    return caught.value


def shard(number: int, *names: str, extra: tuple[b.KeyValue, ...] = (), shards: int = 3, tensors: int = 3) -> bytes:
    """Write one shard with tensors of these names."""
    return b.build([*extra, *b.split_keys(number, shards, tensors)], [tensor(name) for name in names])


ONE, TWO, THREE = shard(0, "a"), shard(1, "b"), shard(2, "c")


def test_shards_that_belong_together() -> None:
    """What gguf-split writes is one model, and a first shard without tensors is as good."""
    check(*SHARDS)
    check(ONE, TWO, THREE)
    check(shard(0, extra=(ARCHITECTURE,)), shard(1, "a", "b"), THREE)


def test_shards_that_repeat_the_metadata() -> None:
    """A shard may say again what the first one says."""
    check(*(shard(number, str(number), extra=(ARCHITECTURE,)) for number in range(3)))


@pytest.mark.parametrize("keys", [[], b.split_keys(0, 1, 1), b.split_keys(0, 0, 1), [("split.count", b.UINT16, 1)]])
def test_a_file_that_is_whole_by_itself(keys: list[b.KeyValue]) -> None:
    """A file that says nothing of shards, or that there is one, is a model."""
    check(b.build(keys, [tensor("a")]))


def test_a_shard_without_the_others() -> None:
    """One shard under the name of a whole model is refused, and the error says how shards are named."""
    error = refused(ONE)

    assert (error.file, error.field, error.offset) == ("model.gguf", "split.count", 24 + 8 + 8 + 4 + 2 + 8 + 11 + 4)
    assert "one of 3 shards, without the others; they are named …-00001-of-00003.gguf" in error.message


@pytest.mark.parametrize(
    ("shards", "file", "field", "message"),
    [
        ((TWO, ONE, THREE), 0, "split.no", "split.no is 1; by its name this is shard 1, which has 0"),
        ((ONE, TWO, TWO), 2, "split.no", "split.no is 1; by its name this is shard 3, which has 2"),
        ((ONE, b.build(), THREE), 1, "split.no", "split.no is missing; by its name this is shard 2"),
        ((b.build(), TWO, THREE), 0, "split.count", "split.count is missing; there are 3 shards"),
        ((shard(0, "a", shards=2), TWO, THREE), 0, "split.count", "split.count is 2; there are 3 shards"),
        ((ONE, shard(1, "b", shards=4), THREE), 1, "split.count", "split.count is 4; model-00001-of-00003.gguf has"),
        ((ONE, TWO, shard(2, "c", tensors=9)), 2, "split.tensors.count", "is 9; model-00001-of-00003.gguf has"),
        ((shard(0), TWO, THREE), 0, "split.tensors.count", "split.tensors.count is 3; the shards have 2 tensors"),
        ((ONE, shard(1, "c"), THREE), 2, "tensors[0]", "a second tensor named 'c'; the first is in model-00002-of"),
        (
            (shard(0, "a", extra=(ARCHITECTURE,)), TWO, shard(2, "c", extra=((ARCHITECTURE[0], b.STRING, "bert"),))),
            2,
            "general.architecture",
            "general.architecture is 'bert'; model-00001-of-00003.gguf has another",
        ),
    ],
    ids=["swapped", "doubled", "no-shard", "first-is-no-shard", "other-count", "foreign-count", "foreign-tensors",
         "tensors-missing", "tensor-twice", "foreign-architecture"],
)  # fmt: skip
def test_the_shard_that_does_not_belong(shards: tuple[bytes, ...], file: int, field: str, message: str) -> None:
    """Each fault names the file, the key or tensor, and what was expected there."""
    error = refused(*shards)

    assert (error.file, error.field) == (NAMES[file], field)
    assert message in error.message


@pytest.mark.parametrize(
    ("key", "kind", "expected"),
    [
        ("split.no", b.UINT32, "UINT16"),
        ("split.count", b.INT32, "UINT16"),
        ("split.tensors.count", b.UINT32, "INT32"),
    ],
)
def test_a_key_of_another_type(key: str, kind: int, expected: str) -> None:
    """The types are exact, in every shard: a `split.no` of another type makes llama.cpp abort."""
    wrong = b.build([(key, kind, 1)], [tensor("b")])
    for shards in ((ONE, wrong, THREE), (wrong,)):
        error = refused(*shards)

        assert (error.field, error.offset) == (f"{key}.type", 24 + 8 + len(key))
        assert f"it must be {expected}" in error.message


def test_the_offset_is_where_the_value_stands() -> None:
    """The byte that an error gives is the value's own, so that it can be mended there."""
    error = refused(ONE, TWO, TWO)

    assert TWO[error.offset : error.offset + 2] == b"\1\0"
    mended = bytearray(TWO)
    mended[error.offset] = 2
    assert refused(ONE, TWO, bytes(mended)).field == "tensors[0]"


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("org/model-q4_k_m-00001-of-00003", ("org/model-q4_k_m", "00001", "00003")),
        ("a-00001-of-00002-00002-of-00002", ("a-00001-of-00002", "00002", "00002")),
        ("model-1-of-3", None),
        ("-00001-of-00003", None),
        ("model-\uff10\uff10\uff10\uff10\uff11-of-00003", None),
    ],
)
def test_the_names_of_shards(name: str, groups: tuple[str, str, str] | None) -> None:
    """A shard's name ends in two numbers of five digits."""
    match = SHARD_NAME.fullmatch(name)

    assert (match and match.groups()) == groups
