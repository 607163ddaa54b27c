"""The `loadmaster` command: what it refuses, in a sentence and with an exit code, never with a traceback."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import app
from app.cli import main
from app.config import Settings
from tests.api.process import environment, refused, running
from tests.api.server import answer

CANNOT_BE, CANNOT_START = 2, 3


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("devices", "sim:abc", "devices: 'sim:abc': expected a size such as 8GiB"),
        ("devices", "gpu", "devices: 'gpu': expected `cuda`"),
        ("devices", "sim:1GiB:oom=0", "devices: 'sim:1GiB:oom=0': expected an integer from 1"),
        ("memory_limit", "80", "memory_limit: '80': expected `all`, a size such as 20GiB"),
        ("memory_limit", "cpu=1GiB,cpu=2GiB", "memory_limit: 'cpu=2GiB': expected one limit for cpu"),
        ("port", "99999", "port: "),
        ("models_dir", "", "models_dir: at least one directory is needed"),
        ("models_dir", ":", "models_dir: at least one directory is needed"),
        ("host", "0.0.0.0", "set LOADMASTER_ALLOW_UNAUTHENTICATED=true"),  # noqa: S104 - it is refused
        ("host", "::", "set LOADMASTER_ALLOW_UNAUTHENTICATED=true"),
        ("host", "example.org", "set LOADMASTER_ALLOW_UNAUTHENTICATED=true"),
    ],
)
@pytest.mark.parametrize("by", ["environment", "option"])
def test_a_setting_that_cannot_be_is_named(by: str, name: str, value: str, sentence: str) -> None:
    """One line that names the setting and what is wrong with it; exit code 2."""
    variables = {f"LOADMASTER_{name.upper()}": value} if by == "environment" else {}
    options = [f"--{name.replace('_', '-')}={value}"] if by == "option" else []

    refusal = CliRunner().invoke(main, ["serve", *options], env=variables)

    assert (refusal.exit_code, len(refusal.stderr.splitlines())) == (CANNOT_BE, 1)
    assert refusal.stderr.startswith("loadmaster: ")
    assert sentence in refusal.stderr


def test_an_open_door_must_be_meant() -> None:
    """Another address than loopback is taken where somebody says that it is on purpose."""
    settings = Settings(host="0.0.0.0", allow_unauthenticated=True)  # noqa: S104 - on purpose

    assert settings.allow_unauthenticated
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert Settings(host=host).host == host


def test_options_override_the_environment() -> None:
    """What is given as an option counts, and what is not given comes from the environment."""
    environment = {"LOADMASTER_DEVICES": "one", "LOADMASTER_PORT": "x"}

    refusal = CliRunner().invoke(main, ["serve", "--devices", "another"], env=environment)

    assert "'another'" in refusal.stderr
    assert "'one'" not in refusal.stderr
    assert "port: " in refusal.stderr


def test_directories_are_joined_by_colons() -> None:
    """Several models directories in one setting; `~` is the home directory."""
    settings = Settings(models_dir="/a:~/b:")  # type: ignore[arg-type]

    assert settings.models_dir == (Path("/a"), Path.home() / "b")


@pytest.mark.slow
def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """A models directory or a device: a sentence, exit code 3, no traceback."""
    nowhere = tmp_path / "nowhere"
    cases = {
        f"models directory {nowhere}: No such file or directory": {"MODELS_DIR": str(nowhere)},
        "cuda:999": {"DEVICES": "cuda:999"},
    }

    for sentence, settings in cases.items():
        code, output = refused(environment(tmp_path / "state", **settings))
        assert code == CANNOT_START
        assert sentence in output
        assert "Traceback" not in output


@pytest.mark.slow
def test_a_limit_for_a_device_that_is_not_there_cannot_be(tmp_path: Path) -> None:
    """What only the devices can tell is the setting's fault all the same: a sentence, exit code 2, no traceback."""
    for name in ("sim:1", "cuda:0", "GPU-1"):
        limits = {"DEVICES": "sim:1GiB", "MEMORY_LIMIT": f"50%,{name}=1GiB"}

        code, output = refused(environment(tmp_path / "state", **limits))

        assert code == CANNOT_BE
        assert f"LOADMASTER_MEMORY_LIMIT: '{name}': expected a device that is there" in output
        assert "sim:0, cpu" in output
        assert "Traceback" not in output


@pytest.mark.slow
def test_a_second_process_is_refused_the_state_directory_and_the_port(tmp_path: Path) -> None:
    """Both are taken by the first one, which goes on undisturbed."""
    with running(tmp_path / "log", environment(tmp_path / "state")) as (_, client):
        cases = {
            "another process uses it": environment(tmp_path / "state"),
            "Address already in use": environment(tmp_path / "other", PORT=str(client.base_url.port)),
        }
        for sentence, env in cases.items():
            code, output = refused(env)
            assert code == CANNOT_START
            assert sentence in output
            assert "Traceback" not in output

        answer(client.get("/healthz"))


def test_the_version_is_printed() -> None:
    """And nothing else."""
    assert CliRunner().invoke(main, ["--version"]).stdout == f"{app.__version__}\n"
