"""The registry: which files become which models, and what it says of those that do not."""

import os
from pathlib import Path

import pytest

from app.errors import HostError, InvalidModel, Truncated
from app.residency.registry import SUBRESOURCES, Entry, scan
from tests.gguf_builder import INT32, STRING, UINT16, UINT32, build, tiny_llama

TINY = tiny_llama(n_layer=1)


def put(path: Path, data: bytes = TINY) -> Path:
    """A file, with its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def shard(number: int, count: int) -> bytes:
    """A shard of a split model, without tensors unless it is the first."""
    metadata = [
        ("general.architecture", STRING, "llama"),
        ("split.no", UINT16, number),
        ("split.count", UINT16, count),
        ("split.tensors.count", INT32, 0),
        ("llama.block_count", UINT32, 0),
    ]
    return build(metadata)


def message(entry: Entry) -> str:
    """Why an entry is invalid."""
    assert entry.model is None
    assert entry.error is not None
    with pytest.raises(InvalidModel) as caught:
        entry.require_model()
    assert str(entry.error) in str(caught.value)
    return str(entry.error)


def test_an_id_is_the_path_in_lower_case(tmp_path: Path) -> None:
    """Directories stay in the id, case and suffix do not; dots do."""
    put(tmp_path / "Org" / "My.Model" / "File-Q4_K_M.GGUF")
    put(tmp_path / "plain.gguf")
    entries = scan([tmp_path], {})
    assert sorted(entries) == ["org/my.model/file-q4_k_m", "plain"]
    assert all(entry.model is not None for entry in entries.values())
    assert entries["plain"].size_bytes == len(TINY)


def test_what_is_no_gguf_or_hidden_is_not_listed(tmp_path: Path) -> None:
    """Other suffixes, hidden files and hidden directories are no models."""
    for name in ("a.bin", "b.gguf.part", ".c.gguf", ".gguf", ".cache/d.gguf", "gguf"):
        put(tmp_path / name)
    assert scan([tmp_path], {}) == {}


def test_a_directory_named_like_a_model_is_a_directory(tmp_path: Path) -> None:
    """`x.gguf/` is looked into, as any other directory."""
    put(tmp_path / "x.gguf" / "y.gguf")
    assert list(scan([tmp_path], {})) == ["x.gguf/y"]


def test_the_first_directory_wins(tmp_path: Path) -> None:
    """The same relative path in two directories is the first one's; the rest of the second is there, too."""
    first, second = tmp_path / "first", tmp_path / "second"
    winner = put(first / "a.gguf")
    put(second / "A.gguf", b"not even read")
    put(second / "b.gguf")
    entries = scan([first, second], {})
    assert sorted(entries) == ["a", "b"]
    assert entries["a"].files[0].path == str(winner)


def test_ids_that_collide_are_listed_by_their_paths(tmp_path: Path) -> None:
    """Two files that differ by case alone: neither has the id, both say why."""
    put(tmp_path / "Model.gguf")
    put(tmp_path / "model.gguf")
    entries = scan([tmp_path], {})
    assert sorted(entries) == ["Model.gguf", "model.gguf"]
    for entry in entries.values():
        assert "Model.gguf and model.gguf have the same id 'model'" in message(entry)


def test_a_file_and_shards_of_the_same_name_are_both_listed(tmp_path: Path) -> None:
    """They collide, and each is listed by the name of its first file."""
    put(tmp_path / "m.gguf")
    put(tmp_path / "m-00001-of-00002.gguf")
    put(tmp_path / "m-00002-of-00002.gguf")
    put(tmp_path / "m-00001-of-00003.gguf")
    entries = scan([tmp_path], {})
    assert sorted(entries) == ["m-00001-of-00002.gguf", "m-00001-of-00003.gguf", "m.gguf"]
    assert all("the same id 'm'" in message(entry) for entry in entries.values())


@pytest.mark.parametrize("name", sorted(SUBRESOURCES))
def test_a_name_that_ends_like_a_route_is_invalid(tmp_path: Path, name: str) -> None:
    """It could not be asked for, so it is listed by its path and says so."""
    put(tmp_path / "org" / f"{name.upper()}.gguf")
    entries = scan([tmp_path], {})
    assert list(entries) == [f"org/{name.upper()}.gguf"]
    assert f"ends in {name!r}" in message(entries[f"org/{name.upper()}.gguf"])


def test_the_first_directory_wins_among_the_invalid_too(tmp_path: Path) -> None:
    """What the second directory has under the same invalid name does not replace it."""
    put(tmp_path / "first" / "load.gguf")
    put(tmp_path / "second" / "load.gguf", TINY + TINY)
    entries = scan([tmp_path / "first", tmp_path / "second"], {})
    assert entries["load.gguf"].size_bytes == len(TINY)


def test_links_within_the_directories_are_followed(tmp_path: Path) -> None:
    """A link to a file of this or another models directory is a model; a link to a directory is not entered."""
    first, second = tmp_path / "first", tmp_path / "second"
    put(second / "deep" / "real.gguf")
    first.mkdir()
    (first / "link.gguf").symlink_to(second / "deep" / "real.gguf")
    (first / "folder").symlink_to(second / "deep")
    (first / "folder.gguf").symlink_to(second / "deep")
    entries = scan([first, second], {})
    assert sorted(entries) == ["deep/real", "link"]
    assert entries["link"].model is not None


def test_links_that_lead_out_nowhere_or_in_circles_say_so(tmp_path: Path) -> None:
    """None is opened; each is listed with its reason."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "out.gguf").symlink_to(put(tmp_path / "secret.gguf"))
    (models / "dotted.gguf").symlink_to("../secret.gguf")
    (models / "dangling.gguf").symlink_to(tmp_path / "nothing")
    (models / "loop.gguf").symlink_to("loop.gguf")
    entries = scan([models], {})
    assert "leads out" in message(entries["out"])
    assert "leads out" in message(entries["dotted"])
    assert "leads nowhere" in message(entries["dangling"])
    assert "leads nowhere" in message(entries["loop"])


def test_a_sibling_with_the_same_prefix_is_outside(tmp_path: Path) -> None:
    """`models-private` does not lie below `models`."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").symlink_to(put(tmp_path / "models-private" / "a.gguf"))
    assert "leads out" in message(scan([tmp_path / "models"], {})["a"])


def test_a_models_directory_may_be_a_link(tmp_path: Path) -> None:
    """Its files lie below what it leads to."""
    put(tmp_path / "real" / "a.gguf")
    (tmp_path / "models").symlink_to(tmp_path / "real")
    assert scan([tmp_path / "models"], {})["a"].model is not None


def test_a_pipe_is_no_model_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A FIFO is not even opened."""
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "not a regular file" in message(scan([tmp_path], {})["pipe"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    """Permission denied is the entry's error, and the others are listed."""
    put(tmp_path / "a.gguf").chmod(0)
    put(tmp_path / "b.gguf")
    entries = scan([tmp_path], {})
    assert "Permission denied" in message(entries["a"])
    assert entries["b"].model is not None


def test_names_that_are_not_utf8_can_be_sent(tmp_path: Path) -> None:
    """Id and error of a file whose name is no text are text, and such a model can be opened."""
    good, bad = os.fsencode(tmp_path) + b"/caf\xe9.gguf", os.fsencode(tmp_path) + b"/\xff\xfe.gguf"
    Path(os.fsdecode(good)).write_bytes(TINY)
    Path(os.fsdecode(bad)).write_bytes(b"GGUF")
    entries = scan([tmp_path], {})
    assert sorted(entries) == ["??", "caf?"]
    assert entries["caf?"].model is not None
    assert entries["caf?"].files[0].name == "caf?.gguf"
    message(entries["??"]).encode()
    assert entries["??"].error is not None
    str(entries["??"].error.facts).encode()


def test_a_name_with_line_breaks_is_a_name(tmp_path: Path) -> None:
    """A shard's suffix is the end of the name, not of a line."""
    put(tmp_path / "a-00001-of-00002\n.gguf")
    assert list(scan([tmp_path], {})) == ["a-00001-of-00002\n"]


def test_complete_shards_are_one_model(tmp_path: Path) -> None:
    """Named without the suffix, as large as all of them, in the order of their numbers."""
    for number in (2, 3, 1):
        put(tmp_path / f"Big-0000{number}-of-00003.gguf", shard(number - 1, 3))
    entries = scan([tmp_path], {})
    assert list(entries) == ["big"]
    assert [file.name[4:9] for file in entries["big"].files] == ["00001", "00002", "00003"]
    assert entries["big"].size_bytes == sum(len(shard(n, 3)) for n in range(3))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1-of-00003"], "1 shards of 3; missing: 2, 3"),
        (["2-of-00002"], "1 shards of 2; missing: 1"),
        (["1-of-00002", "3-of-00002"], "2 shards of 2; missing: 2"),
        (["0-of-00000"], "1 shards of 0"),
        (["1-of-99999"], "missing: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"),
    ],
)
def test_missing_shards_are_named(tmp_path: Path, names: list[str], words: str) -> None:
    """The entry says how many there are, and the first ten that are not."""
    for name in names:
        put(tmp_path / f"m-0000{name}.gguf", shard(0, 2))
    assert words in message(scan([tmp_path], {})["m"])


@pytest.mark.parametrize(("size", "offset"), [(0, 0), (3, 3), (4, 4), (20, 16), (len(TINY) // 4, None)])
def test_a_cut_file_is_invalid_with_the_byte(tmp_path: Path, size: int, offset: int | None) -> None:
    """Empty and truncated files are listed with file, field and the byte where it ended."""
    path = put(tmp_path / "cut.gguf", TINY[:size])
    error = scan([tmp_path], {})["cut"].error
    assert isinstance(error, Truncated)
    assert offset in (None, error.offset)
    assert error.offset <= len(TINY)
    assert error.needed_bytes > size
    assert str(error).startswith(f"{path}: ")
    assert error.facts["file"] == str(path)


def test_a_missing_models_directory_is_named(tmp_path: Path) -> None:
    """It is the one thing that a scan cannot do without."""
    with pytest.raises(HostError, match="No such file"):
        scan([tmp_path / "nothing"], {})
    with pytest.raises(HostError, match="not a directory"):
        scan([put(tmp_path / "file")], {})
