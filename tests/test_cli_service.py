"""The commands that ask a service: pages and JSON, exit codes, and sentences where it says no or is not there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import main
from tests.api.server import DEMO_ID, serving
from tests.gguf_builder import tiny_llama

HOSTILE = "evil\x1b[31m\x07\u202e"
HOSTILE_SHOWN = "evil\\x1b[31m\\x07\\u202e"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with the demo model, a small one in a folder, and one whose name plays tricks with terminals."""
    models = tmp_path_factory.mktemp("models")
    (models / "org" / "deep").mkdir(parents=True)
    (models / "org" / "deep" / "tiny.gguf").write_bytes(tiny_llama())
    (models / f"{HOSTILE}.gguf").write_bytes(tiny_llama())
    with serving(tmp_path_factory.mktemp("state"), models=(models,)) as http:
        yield str(http.base_url)


def run(url: str, *arguments: str, columns: int = 80) -> Result:
    """The command with these arguments, in a window so wide."""
    return CliRunner().invoke(main, list(arguments), env={"LOADMASTER_URL": url, "COLUMNS": str(columns)})


def document(url: str, *arguments: str) -> object:
    """The JSON that a command prints, and nothing beside it."""
    result = run(url, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_session(url: str) -> None:
    """Load, look, move, check, unload; 0 each time."""
    for arguments, sentence in (
        (("load", DEMO_ID, "-n", "12", "--device", "sim:0"), "12/30 layers on devices, 54.1 MiB copied, generation"),
        (("ps",), "12/30"),
        (("top",), "sim:0"),
        (("offload", DEMO_ID, "-n", "0"), "0/30 layers on devices, nothing copied"),
        (("show", DEMO_ID), "49,152 tokens, gpt2/smollm"),
        (("verify", DEMO_ID, "--deep"), "no problems"),
        (("unload", DEMO_ID), "unloaded"),
        (("plan", DEMO_ID, "-n", "12", "--device", "sim:1"), "12 layers on the devices by first"),
    ):
        result = run(url, *arguments)
        assert result.exit_code == 0, result.output
        assert sentence in " ".join(result.stdout.split()), arguments
        if arguments[0] in ("ps", "top", "show", "plan"):
            assert max(map(len, result.stdout.splitlines())) <= 80, arguments


def test_json_is_what_the_service_answers(url: str) -> None:
    """One document; of a change the job as it ended."""
    listed = document(url, "ls")
    assert isinstance(listed, list)
    assert DEMO_ID in [model["id"] for model in listed]
    for arguments, key, value in (
        (("load", DEMO_ID, "-n", "2"), "state", "succeeded"),
        (("show", DEMO_ID), "n_gpu_layers", 2),
        (("ps",), "jobs", []),
        (("verify", DEMO_ID), "kind", "verify"),
        (("plan", DEMO_ID, "-n", "1", "--table"), "n_gpu_layers", 1),
        (("unload", DEMO_ID), "kind", "unload"),
    ):
        found = document(url, *arguments)
        assert isinstance(found, dict)
        assert found[key] == value, arguments
    assert isinstance(present := document(url, "top"), dict)
    assert {"models", "jobs", "memory"} <= set(present)


def test_a_name_may_be_the_last_part_of_an_id(url: str) -> None:
    """Where one id alone ends in it."""
    assert run(url, "show", "tiny").stdout.splitlines()[0] == "org/deep/tiny"
    assert run(url, "show", "deep/tiny").stdout.splitlines()[0] == "org/deep/tiny"
    assert run(url, "show", "iny").exit_code == 1


def test_a_job_is_listed_and_called_off(tmp_path: Path) -> None:
    """By the id that `--detach` prints; one that has ended stays as it ended, and 1 says so."""
    with serving(tmp_path / "state", devices="sim:128MiB@1MiB/s") as http:
        at = str(http.base_url)
        begun = document(at, "load", DEMO_ID, "-n", "all", "--detach")
        assert isinstance(begun, dict)
        cancelled = run(at, "cancel", begun["id"])
        listed = document(at, "jobs")
        again = run(at, "unload", DEMO_ID, "--json")
        ended = run(at, "cancel", json.loads(again.stdout)["id"])
        unknown = run(at, "cancel", "nothing")

    assert (cancelled.exit_code, cancelled.stdout) == (0, f"{DEMO_ID}: load cancelled\n")
    assert isinstance(listed, list)
    assert [(job["id"], job["state"]) for job in listed] == [(begun["id"], "cancelled")]
    assert (ended.exit_code, unknown.exit_code) == (1, 1)


def test_overrides_say_where_tensors_go(url: str) -> None:
    """`PATTERN=DEVICE`, as often as wanted."""
    found = document(url, "load", DEMO_ID, "-n", "2", "--override", "ffn=cpu", "--override", "attn=sim:1")
    assert isinstance(found, dict)
    assert found["state"] == "succeeded"
    memory = json.loads(run(url, "ps", "--json").stdout)["memory"]
    assert run(url, "unload", DEMO_ID).exit_code == 0
    assert all(memory["models"][0]["devices"][device] for device in ("cpu", "sim:1"))


def test_a_terminal_sees_no_control_characters(url: str) -> None:
    """A file's name is shown with escapes, in pages, in JSON and in complaints; as an argument it is itself."""
    for arguments in (("ls",), ("ls", "--json"), ("show", HOSTILE), ("plan", HOSTILE), ("show", f"no{HOSTILE}")):
        result = run(url, *arguments, columns=200)
        shown = result.stdout + result.stderr
        assert not any(char in shown for char in "\x1b\x07\u202e"), arguments
    assert HOSTILE_SHOWN in run(url, "ls", columns=200).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("show", "nothing"), 1, "no model 'nothing'"),
        (("load", DEMO_ID, "-n", "all", "--device", "sim:0"), 1, "n_gpu_layers 16 would"),
        (("offload", DEMO_ID, "-n", "1"), 1, "is not loaded"),
        (("plan", DEMO_ID, "-n", "all", "--device", "sim:0"), 1, ""),
        (("load", DEMO_ID, "-n", "99"), 2, "n_gpu_layers: 99 is not between 0 and the model's 30"),
        (("load", DEMO_ID, "--strategy", "worst"), 2, "strategy: "),
        (("load", DEMO_ID, "--margin", "1GB"), 2, "--margin 1GB: must be an integer"),
        (("load", DEMO_ID, "--evict", "all"), 2, "--evict all: must be yes, layers, no"),
        (("load", DEMO_ID, "--override", "ffn"), 2, "--override ffn: must be PATTERN=DEVICE"),
        (("ls", "--state", "asleep"), 2, "state: "),
        (("load",), 2, "Missing argument"),
    ],
)
def test_exit_codes(url: str, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    """1 where the service says no, 2 for a value that cannot be; a sentence on standard error."""
    result = run(url, *arguments)

    assert result.exit_code == code, result.output
    assert sentence in result.stderr


@pytest.mark.parametrize("command", ["ls", "ps", "show x", "plan x", "load x", "unload x", "verify x", "watch", "top"])
def test_a_service_that_is_not_there(command: str) -> None:
    """3, the address, and what to do about it."""
    result = run("http://127.0.0.1:9", *command.split())

    assert result.exit_code == 3
    assert "no service answers at http://127.0.0.1:9: " in result.stderr
    assert "LOADMASTER_URL" in result.stderr


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines"])
def test_a_key_that_cannot_be_is_not_shown(url: str, key: str) -> None:
    """It is refused in words before anything is sent, and the words do not hold it."""
    result = run(url, "ls", "--api-key", key)

    assert (result.exit_code, "visible ASCII characters" in result.stderr) == (1, True)
    assert key.split(maxsplit=1)[0] not in result.stderr


def test_an_address_needs_no_scheme(url: str) -> None:
    """`host:port` is HTTP, as for curl."""
    assert run(url.removeprefix("http://"), "ls").exit_code == 0


def test_a_key_for_clients_is_no_setting(tmp_path: Path) -> None:
    """The client's variables do not keep the service from starting, but for a key that would be none of its own."""
    env = {"LOADMASTER_URL": "http://127.0.0.1:9", "LOADMASTER_API_KEY": "k", "LOADMASTER_STATE_DIR": str(tmp_path)}

    refused = CliRunner().invoke(main, ["serve"], env=env)
    del env["LOADMASTER_API_KEY"]
    other = CliRunner().invoke(main, ["serve", "--port", "x"], env=env)

    assert (refused.exit_code, "LOADMASTER_API_KEY is what a client sends" in refused.stderr) == (2, True)
    assert "LOADMASTER_URL" not in other.stderr


@pytest.mark.slow
def test_a_thousand_models_are_listed(tmp_path: Path) -> None:
    """Whole in a pipe, one line each, and without a cut id in a narrow window."""
    models = tmp_path / "models"
    for number in range(1000):
        path = models / f"org-{number % 10}" / f"a-model-with-a-long-name-{number:04}-instruct.q4_k_m.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny_llama(n_layer=1))
    with serving(tmp_path / "state", models=(models,)) as http:
        piped = CliRunner().invoke(main, ["ls"], env={"LOADMASTER_URL": str(http.base_url), "COLUMNS": None})
        narrow = run(str(http.base_url), "ls")

    assert len(piped.stdout.splitlines()) == 1002
    assert "org-9/a-model-with-a-long-name-0999-instruct.q4_k_m  available" in piped.stdout
    assert max(map(len, narrow.stdout.splitlines())) <= 80
    assert "0999-instruct.q4_k_m" in "".join(line.split("  ")[0].strip() for line in narrow.stdout.splitlines())
