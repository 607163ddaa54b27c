"""`loadmaster plan`: a plan for devices that are not there, from a file alone."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import main
from tests.gguf_builder import tiny_llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A llama of four blocks, in a file."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_llama())
    return path


def run(*arguments: str | Path) -> Result:
    """The command with these arguments."""
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def test_a_plan_is_a_page(model: Path) -> None:
    """Devices with their sizes, and where the layers go; 0 says that it fits."""
    result = run(model, "--device", "1MiB", "--device", "1MiB", "-n", "4")

    assert result.exit_code == 0, result.output
    assert "gpu:0" in result.output
    assert "gpu:1" in result.output
    assert "4 layers on the devices by first" in result.output


def test_json_is_what_the_service_answers(model: Path) -> None:
    """The plan of the API, with a row for every number of layers where a table is asked for."""
    result = run(model, "--device", "64MiB", "--table", "--json", "-c", "256", "--strategy", "llama.cpp")
    plan = json.loads(result.output)

    assert (plan["strategy"], plan["n_gpu_layers"], plan["fits"]) == ("llama.cpp", 5, True)
    assert [row["n_gpu_layers"] for row in plan["table"]] == [0, 1, 2, 3, 4, 5]
    assert plan["llama_server_args"][:2] == ["-ngl", "5"]
    assert sum(device["context_bytes"] for device in plan["devices"]) > 0


def test_experts_on_the_host_are_said(model: Path) -> None:
    """How many blocks leave theirs there is in the sentence and in the JSON."""
    asked = ("--device", "64MiB", "--n-cpu-moe", "2")

    assert "by first, the experts of the first 2 blocks on the host" in " ".join(run(model, *asked).output.split())
    assert json.loads(run(model, *asked, "--json").output)["n_cpu_moe"] == 2


def test_what_does_not_fit_is_an_exit_code(model: Path) -> None:
    """1, with the number of layers that would fit."""
    result = run(model, "--device", "1KiB", "-n", "all")

    assert result.exit_code == 1
    assert "does not fit; 0 would" in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "24GB"], "--device 24GB: must be an integer and B, KiB"),
        (["--device", "1MiB", "-n", "99"], "n_gpu_layers: 99 is not between 0 and the model's 4"),
        (["--device", "1MiB", "-n", "-1"], "n_gpu_layers: must be an integer"),
        (["--device", "1MiB", "--weights", "1,2"], "split.weights: 2 weights for 1 devices"),
        (["--device", "1MiB", "--weights", "x"], "split.weights: must be"),
        (["--strategy", "worst"], "strategy: Input should be"),
        (["-c", "0"], "context.n_ctx: Input should be greater than or equal to 1"),
        (["-c", "64", "--cache-type", "q9"], "context.cache_type_k: no cache type 'q9'"),
    ],
)
def test_a_value_that_cannot_be_is_a_sentence(model: Path, arguments: list[str], sentence: str) -> None:
    """2, and the option or field with what is wrong."""
    result = run(model, *arguments)

    assert result.exit_code == 2
    assert sentence in result.output


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """2, and which file."""
    result = run(tmp_path / "nothing.gguf")

    assert result.exit_code == 2
    assert "nothing.gguf" in result.output
