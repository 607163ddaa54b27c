"""A models directory full of what is no model: each file is listed with its fault, and the service answers."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from app.errors import GGUFError, HostError
from app.gguf import parse_header
from app.residency.registry import Entry, scan
from tests.api.server import answer, refusal, serving
from tests.gguf.cases import ACCEPTED_HERE, IMPOSTORS, LLAMA_CPP_ACCEPTS, LLAMA_CPP_REFUSES, REFUSED_HERE
from tests.gguf_builder import split_llama, tiny_llama

REFUSED = {**LLAMA_CPP_REFUSES, **REFUSED_HERE}
ACCEPTED = {**LLAMA_CPP_ACCEPTS, **ACCEPTED_HERE}
TINY = tiny_llama(n_layer=1)
END = parse_header(TINY).data_offset
DEPTH = 2100  # a path has 4096 bytes at most
CUTS = sorted({*range(0, END, 37), END - 1, END, END + 1, len(TINY) - 1})

NAMES = {
    "newline": "a\nb\r\nc.gguf",
    "escape": "\x1b[2J\x1b]0;owned\x07.gguf",
    "quotes": "'\"; rm -rf $HOME `id`.gguf",
    "percent": "%2e%2e%2f%00.gguf",
    "right-to-left": "\u202efugg.sgp.gguf",
    "emoji": "🦙🦙.gguf",
    "combining": "e\u0301\u0301.gguf",
    "long": "l" * 250 + ".gguf",
    "only-suffix-twice": ".gguf.gguf",
    "upper": "UPPER.GGUF",
    "space": " .gguf",
    "dots": "...gguf",
    "shard-0": "x-00000-of-00000.gguf",
    "shard-many": "x-00001-of-99999.gguf",
    "reserved": "load.gguf",
}


def put(path: Path, data: bytes = TINY) -> None:
    """Write a file, and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory with some 200 files that cannot be read as models, and a few that can."""
    models = tmp_path / "models"
    for name, case in REFUSED.items():
        put(models / "refused" / f"{name}.gguf", case.data)
    for number, (data, _) in enumerate(IMPOSTORS.values()):
        put(models / "impostors" / f"{number}.gguf", data)
    for name, data in ACCEPTED.items():
        put(models / "accepted" / f"{name}.gguf", data)
    for size in CUTS:
        put(models / "cut" / f"{size}.gguf", TINY[:size])
    for name in NAMES.values():
        put(models / "names" / name, b"no model")
    put(models / "good.gguf")
    return models


def error(entry: Entry) -> str:
    """Why an entry is invalid, in one line."""
    assert entry.model is None
    assert entry.error is not None
    assert str(entry.error).isprintable()
    return str(entry.error)


def test_each_malformed_file_is_listed_with_file_byte_and_field(models: Path) -> None:
    """The same error that the reader gives, and the name of the file."""
    entries = scan([models], {})
    for name, case in REFUSED.items():
        entry = entries[f"refused/{name.lower()}"]
        assert isinstance(entry.error, case.error), name
        assert (entry.error.offset, entry.error.field) == (case.offset, case.field)
        assert Path(entry.error.file or "").name == f"{name}.gguf"
        assert case.message in error(entry)
    for number, (_, words) in enumerate(IMPOSTORS.values()):
        assert words in error(entries[f"impostors/{number}"])


def test_a_file_cut_anywhere_is_invalid(models: Path) -> None:
    """With the byte at which something is missing; the whole one beside it is a model."""
    entries = scan([models], {})
    for size in CUTS:
        entry = entries[f"cut/{size}"]
        assert isinstance(entry.error, GGUFError), size
        assert f"{size}.gguf: " in error(entry)
    assert entries["good"].model is not None


def test_what_is_odd_and_allowed_is_listed_as_what_it_is(models: Path) -> None:
    """Files without an architecture, or without tensors, can be looked at."""
    entries = scan([models], {})
    for name in ACCEPTED:
        entry = entries[f"accepted/{name.lower()}"]
        assert entry.error is None, name


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path.parent),
        lambda path: path.symlink_to("/dev"),
    ],
    ids=["directory", "link-to-its-own", "link-to-another"],
)
def test_a_directory_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """However it is named: it is not listed, and links to one are not followed."""
    put(tmp_path / "a.gguf")
    make(tmp_path / "b.gguf")
    assert list(scan([tmp_path], {})) == ["a"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "not a regular file"),
        (lambda path: os.mknod(path, stat.S_IFSOCK), "not a regular file"),
        (lambda path: path.symlink_to("b.gguf"), "leads nowhere"),
        (lambda path: path.symlink_to("/dev/zero"), "leads out"),
        (lambda path: path.symlink_to("/proc/self/mem"), "leads out"),
        (lambda path: path.symlink_to("../outside.gguf"), "leads out"),
        (lambda path: path.symlink_to("x" * 255), "leads nowhere"),
    ],
    ids=["fifo", "socket", "loop", "device", "proc", "outside", "dangling"],
)
def test_what_is_no_file_is_not_opened(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    """It is listed with its reason, keeps nobody waiting, and is neither read nor followed."""
    put(tmp_path / "outside.gguf")
    put(tmp_path / "models" / "a.gguf")
    make(tmp_path / "models" / "b.gguf")
    entries = scan([tmp_path / "models"], {})
    assert isinstance(entries["b"].error, HostError)
    assert words in error(entries["b"])
    assert entries["a"].model is not None


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    """/dev/zero by another name would never end."""
    try:
        os.mknod(tmp_path / "zero.gguf", 0o020666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this user may not make devices")
    assert "not a regular file" in error(scan([tmp_path], {})["zero"])


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Folders in folders, deeper than the stack and than any path; taken away step by step, as shutil cannot."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=here)
        here = stepped(here, "d")
    yield tmp_path
    for _ in range(DEPTH):
        here = stepped(here, "..")
        os.rmdir("d", dir_fd=here)
    os.close(here)


def stepped(here: int, name: str) -> int:
    """Go from an open folder to another one beside or inside."""
    there = os.open(name, os.O_RDONLY, dir_fd=here)
    os.close(here)
    return there


def test_folders_deeper_than_the_stack(deep: Path) -> None:
    """A file at the end of 1,900 folders is listed, and those that no path can reach keep nobody from it."""
    folder = deep.joinpath(*["d"] * 1900)
    put(folder / "deep.gguf")
    entries = scan([deep], {})
    (folder / "deep.gguf").unlink()
    assert list(entries) == ["d/" * 1900 + "deep"]


def test_a_chain_of_links_is_followed_as_far_as_the_kernel_does(tmp_path: Path) -> None:
    """Ten are a file; a thousand are none, and no stack overflows."""
    put(tmp_path / "0.gguf")
    for number in range(1, 1001):
        (tmp_path / f"{number}.gguf").symlink_to(f"{number - 1}.gguf")
    entries = scan([tmp_path], {})
    assert entries["10"].model is not None
    assert "leads nowhere" in error(entries["1000"])


def test_a_file_that_claims_to_be_huge_is_not_read_whole(tmp_path: Path) -> None:
    """A terabyte of nothing behind a header with a string of a gigabyte: refused after a few reads."""
    claim = TINY[:24] + (5).to_bytes(8, "little") + b"a.key" + b"\x08\0\0\0" + (1 << 30).to_bytes(8, "little")
    put(tmp_path / "huge.gguf", claim)
    os.truncate(tmp_path / "huge.gguf", 1 << 40)
    assert "a.key" in error(scan([tmp_path], {})["huge"])


def test_shards_that_do_not_belong_together_are_one_invalid_model(tmp_path: Path) -> None:
    """A shard that is a FIFO, and one that is no GGUF file, are named."""
    first, second = split_llama(2)
    put(tmp_path / "a-00001-of-00002.gguf", first)
    os.mkfifo(tmp_path / "a-00002-of-00002.gguf")
    put(tmp_path / "b-00001-of-00002.gguf", first)
    put(tmp_path / "b-00002-of-00002.gguf", b"<html>" + second)
    entries = scan([tmp_path], {})
    assert "a-00002-of-00002.gguf: not a regular file" in error(entries["a"])
    assert "b-00002-of-00002.gguf: not a GGUF file" in error(entries["b"])


def test_the_service_lists_them_all_and_goes_on(models: Path, tmp_path: Path) -> None:
    """Each is `invalid` with its error, refuses to be used with 422, and the good one is loaded beside them."""
    os.mkfifo(models / "pipe.gguf")
    count = len(scan([models], {}))
    with serving(tmp_path / "state", models=(models,)) as client:
        listed = answer(client.get("/v1/models"))
        assert listed["total"] == count + 1  # the demo model
        invalid = [model for model in listed["data"] if model["state"] == "invalid"]
        assert len(invalid) > 150
        for model in invalid:
            assert model["error"]["message"]
            assert (model["parameters"], model["type"], model["architecture"]) == (None, None, None)
        refused = next(model for model in invalid if model["id"] == "refused/tensor-gap")
        assert {"file", "offset", "field"} <= refused["error"].keys()
        for model in invalid[::10]:
            path = f"/v1/models/{quote(model['id'])}"
            assert answer(client.get(path))["error"] == model["error"]
            assert refusal(client.post(f"{path}/verify", json={"wait": True}), 422)["code"] == "invalid_model"
            assert refusal(client.get(f"{path}/statistics"), 422)["code"] == "invalid_model"
        assert answer(client.post("/v1/models/good/load", json={"wait": True}))["state"] == "succeeded"
        assert answer(client.post("/v1/models/rescan"))["total"] == count + 1
        assert answer(client.post("/v1/models/good/unload", json={"wait": True}))["state"] == "succeeded"
