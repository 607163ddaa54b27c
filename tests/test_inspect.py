"""`loadmaster inspect FILE`: a page that a person wants to read, or JSON, of whatever file it is given."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import main
from tests.api.server import demo_file
from tests.gguf.cases import ACCEPTED_HERE, IMPOSTORS, LLAMA_CPP_ACCEPTS, LLAMA_CPP_REFUSES, REFUSED_HERE
from tests.gguf_builder import F32, FLOAT32, STRING, build, llama_metadata, llama_parts, split_llama, tiny_llama
from tests.materialise import HEADERS, UNKNOWN, materialised

SOUND, WITH_PROBLEMS, UNREADABLE = 0, 1, 2
VOCABULARIES = sorted((Path(__file__).parents[1] / "../shared/fixtures/vocab").resolve().glob("*.gguf"))
TRICKS = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202efugg\nforged: line"


def inspect(*arguments: str | Path, width: int = 80) -> Result:
    """Run the command on a terminal of this width."""
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)], env={"COLUMNS": str(width), "TERM": "dumb"})


def page(file: Path, *, width: int = 80, exit_code: int = SOUND) -> str:
    """The page of a file; no line of it is wider than the terminal, or holds what a terminal obeys."""
    ran = inspect(file, width=width)
    assert ran.exit_code == exit_code, ran.output
    assert ran.stderr == ""
    for line in ran.stdout.splitlines():
        assert len(line) <= width, line
        assert line.isprintable(), line
    return ran.stdout


def facts(file: Path, *, exit_code: int = SOUND) -> Any:
    """What `--json` prints, which is JSON to the letter: ASCII, and no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    ran = inspect(file, "--json")
    assert ran.exit_code == exit_code, ran.output
    assert ran.stdout.isascii()
    return json.loads(ran.stdout, parse_constant=refuse)


def lines(text: str) -> list[str]:
    """The lines of a page, without the room between their words."""
    return [" ".join(line.split()) for line in text.splitlines()]


def write(path: Path, data: bytes) -> Path:
    """Write a file."""
    path.write_bytes(data)
    return path


def tiny(path: Path, name: str, *, drop: str | None = None) -> Path:
    """Write a model of a name of choice, without one of its tensors."""
    metadata, tensors = llama_parts(2, 64, 128, 4, 96, None, 0, tied=True, uneven=False)
    pairs = [(key, kind, name if key == "general.name" else value) for key, kind, value in metadata]
    return write(path, build(pairs, [tensor for tensor in tensors if tensor.name != drop]))


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_page_of_the_demo_model(width: int) -> None:
    """Model, hyperparameters, layers that are alike in one row, quantisation, vocabulary and structure."""
    shown = lines(page(demo_file(), width=width))

    assert shown[0] == "Smollm2 135M 8k Lc100K Mix1 Ep2"
    for line in (
        "file SmolLM2-135M-Instruct.Q4_1.gguf",
        "size 93.8 MiB",
        "architecture llama",
        "quantisation Q4_1",
        "parameters 134,515,008",
        "bits per weight 5.74",
        "rope_freq_base 100000",
        "norm_rms_eps 1e-05",
        "0 … 29 30 9 2.1 MiB 3,540,096 Q4_1, F32",
        "Q4_1 210 63.3 MiB 106,168,320 5.00",
        "tokens 49,152",
        "chat template yes",
        "Structure: all 32 layers ok",
    ):
        assert line in shown
    titles = [line for line in shown if line.isalpha()]
    assert titles == ["Hyperparameters", "Layers", "Quantisation", "Vocabulary"]


def test_the_json_of_the_demo_model() -> None:
    """The same in the words of the HTTP API, and complete: its parts add up."""
    found = facts(demo_file())

    assert (found["architecture"], found["quantization"], found["parameters"]) == ("llama", "Q4_1", 134_515_008)
    assert (found["size_bytes"], found["files"][0]["size_bytes"]) == (98_362_432, 98_362_432)
    assert found["hyperparameters"]["n_embd"] == 576
    assert found["vocabulary"]["special"] == {"bos": 1, "eos": 2, "unk": 0, "pad": 2}
    assert (found["problems"], found["notes"]) == ([], [])
    rows = found["statistics"]["by_layer"]
    assert [len(rows), sum(row["parameters"] for row in rows)] == [32, 134_515_008]


def test_problems_are_shown_and_exit_with_1(tmp_path: Path) -> None:
    """Where, and what; in JSON as the API has them."""
    file = tiny(tmp_path / "bad.gguf", "Bad", drop="blk.1.ffn_up.weight")

    shown = page(file, exit_code=WITH_PROBLEMS)
    assert "blk.1.ffn_up.weight blk.1.ffn_up.weight is missing" in lines(shown)
    assert "Structure: all" not in shown
    (problem,) = facts(file, exit_code=WITH_PROBLEMS)["problems"]
    assert (problem["kind"], problem["tensor"], problem["layer"]) == ("missing", "blk.1.ffn_up.weight", 1)


def test_notes_are_shown_and_exit_with_0(tmp_path: Path) -> None:
    """A file type that the tensors contradict is odd, and no problem."""
    pairs = llama_metadata(n_layer=2, n_embd=64, n_ff=128, n_head=4, n_head_kv=4, n_vocab=96)
    metadata = [(key, kind, 0 if key == "general.file_type" else value) for key, kind, value in pairs]
    _, tensors = llama_parts(2, 64, 128, 4, 96, None, 0, tied=True, uneven=False)
    shown = page(write(tmp_path / "odd.gguf", build(metadata, tensors)))

    assert "Structure: all 4 layers ok" in shown
    assert "Notes" in lines(shown)
    assert "general.file_type says F32" in " ".join(shown.split())


def test_any_shard_shows_the_whole_model(tmp_path: Path) -> None:
    """Given one of three, all are read; where one is missing, it is named."""
    files = [tmp_path / f"split-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    for file, data in zip(files, split_llama(3), strict=True):
        file.write_bytes(data)
    (tmp_path / "other-00001-of-00003.gguf").write_bytes(tiny_llama())
    (tmp_path / "split-00001-of-00002.gguf").write_bytes(tiny_llama())

    for file in files:
        assert "file split-00001-of-00003.gguf and 2 more" in lines(page(file))
    assert [file["name"] for file in facts(files[2])["files"]] == [file.name for file in files]
    assert facts(files[1])["parameters"] == facts(write(tmp_path / "whole.gguf", tiny_llama()))["parameters"]

    files[1].unlink()
    refused = inspect(files[0])
    assert (refused.exit_code, "2 shards of 3; missing: 2" in refused.stderr) == (UNREADABLE, True)


def test_shards_that_are_links_into_a_store(tmp_path: Path) -> None:
    """As in a cache of downloads, where only the links have the shards' names."""
    for number, data in enumerate(split_llama(2), 1):
        blob = write(tmp_path / f"blob{number}", data)
        (tmp_path / f"m-{number:05}-of-00002.gguf").symlink_to(blob.name)

    assert "Structure: all 6 layers ok" in page(tmp_path / "m-00002-of-00002.gguf")


@pytest.mark.parametrize("name", [*LLAMA_CPP_REFUSES, *REFUSED_HERE])
def test_what_cannot_be_read_exits_with_2(tmp_path: Path, name: str) -> None:
    """One line: file, fault, byte and field; no traceback, nothing on the page."""
    case = {**LLAMA_CPP_REFUSES, **REFUSED_HERE}[name]
    for arguments in ([], ["--json"]):
        refused = inspect(write(tmp_path / "bad.gguf", case.data), *arguments)
        assert (refused.exit_code, refused.stdout) == (UNREADABLE, "")
        (line,) = refused.stderr.splitlines()
        assert line.startswith("loadmaster: ")
        assert "bad.gguf: " in line
        assert case.message in line
        assert f"(byte {case.offset}, {case.field})" in line


@pytest.mark.parametrize(("data", "kind"), IMPOSTORS.values(), ids=IMPOSTORS)
def test_other_formats_are_called_by_name(tmp_path: Path, data: bytes, kind: str) -> None:
    """An HTML page, a pointer of git-lfs, a file of the time before GGUF."""
    refused = inspect(write(tmp_path / "download.gguf", data))
    assert (refused.exit_code, kind in refused.stderr) == (UNREADABLE, True)


def test_what_is_no_file_exits_with_2(tmp_path: Path) -> None:
    """A directory, a pipe, a device, a link that leads nowhere, a name too long: named, and nobody waits."""
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    for path, reason in {
        tmp_path / "nothing.gguf": "nothing.gguf: No such file or directory",
        tmp_path: "not a regular file",
        tmp_path / "pipe.gguf": "pipe.gguf: not a regular file",
        Path("/dev/zero"): "not a regular file",
        tmp_path / "loop.gguf": "Too many levels of symbolic links",
        tmp_path / ("x" * 300): "File name too long",
    }.items():
        refused = inspect(path)
        assert (refused.exit_code, refused.stdout) == (UNREADABLE, "")
        assert reason in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_names_play_no_tricks_with_the_terminal(tmp_path: Path) -> None:
    """Escapes, line breaks and reversed text in a name, a key or a tensor are shown as what they are."""
    metadata = [
        ("general.architecture", STRING, TRICKS),
        ("general.type", STRING, TRICKS),
        ("general.name", STRING, TRICKS),
        ("tokenizer.ggml.model", STRING, TRICKS),
        (f"{TRICKS}.rope.freq_base", FLOAT32, 1.0),
        (f"{TRICKS}.rope.scaling.type", STRING, TRICKS),
    ]
    tensors = [(f"blk.{number}.{TRICKS[:40]}", F32, (2,), bytes(8)) for number in range(2)]
    file = write(tmp_path / "tricks\x1b[31m\n.gguf", build(metadata, tensors))

    for width in (80, 200):
        assert "\\x1b[2J" in page(file, width=width)
    assert facts(file)["name"] == TRICKS
    tiny(file, TRICKS, drop="blk.1.ffn_up.weight")
    assert "\\x1b[2J" in page(file, exit_code=WITH_PROBLEMS)
    assert "\\x1b[31m\\n" in inspect(write(file, b"<html>")).stderr


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_null(tmp_path: Path, value: float) -> None:
    """On the page they are shown."""
    metadata, tensors = llama_parts(1, 64, 128, 4, 96, None, 0, tied=True, uneven=False)
    file = write(tmp_path / "odd.gguf", build([*metadata, ("llama.rope.freq_base", FLOAT32, value)], tensors))
    assert facts(file, exit_code=inspect(file).exit_code)["hyperparameters"]["rope_freq_base"] is None


@pytest.mark.parametrize("name", [*LLAMA_CPP_ACCEPTS, *ACCEPTED_HERE])
def test_odd_files_have_a_page(tmp_path: Path, name: str) -> None:
    """Without an architecture, without tensors, with dimensions of 0: shown, in both ways."""
    file = write(tmp_path / "odd.gguf", {**LLAMA_CPP_ACCEPTS, **ACCEPTED_HERE}[name])
    code = inspect(file).exit_code
    assert code in (SOUND, WITH_PROBLEMS)
    page(file, exit_code=code)
    facts(file, exit_code=code)


@pytest.mark.skipif(not HEADERS, reason="no shared fixtures beside the checkout")
@pytest.mark.parametrize("head", HEADERS, ids=lambda head: head.name.removesuffix(".gguf.head.gz"))
def test_every_architecture_has_a_page(tmp_path: Path, head: Path) -> None:
    """What llama.cpp wrote is sound, known or not, at any width."""
    file = materialised(head, tmp_path)
    for width in (80, 120):
        shown = page(file, width=width)
        assert "layers ok" in shown
    found = facts(file)
    assert ("(unknown here)" in shown) == (found["architecture"] in UNKNOWN) == (not found["architecture_known"])


@pytest.mark.skipif(not VOCABULARIES, reason="no shared fixtures beside the checkout")
@pytest.mark.parametrize("file", VOCABULARIES, ids=lambda file: file.stem)
def test_every_vocabulary_has_a_page(file: Path) -> None:
    """A file without tensors: its vocabulary, and no layers."""
    shown = page(file)
    assert "Vocabulary" in lines(shown)
    assert "Layers" not in lines(shown)
    assert facts(file)["statistics"]["tensors"] == 0
