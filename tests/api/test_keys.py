"""Keys as they are set: what is taken, what is refused in words, and that nothing ever prints one."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from app.cli import main
from app.config import Settings
from tests.api.process import environment, running
from tests.api.server import answer, refusal

SECRET, OTHER = "0123456789abcdef" * 2, "Other~key:with/+=._-colon"

REFUSED = {
    "": "LOADMASTER_API_KEYS is set and holds no key",
    " , ": "LOADMASTER_API_KEYS is set and holds no key",
    SECRET: "LOADMASTER_API_KEYS, key 1: expected name:role:key",
    f"me:{SECRET}": "key 1: expected name:role:key",
    f"me:owner:{SECRET}": "key 1: expected name:role:key",
    f"me:ADMIN:{SECRET}": "key 1: expected name:role:key",
    f"my key:admin:{SECRET}": "key 1: expected name:role:key",
    f":admin:{SECRET}": "key 1: expected name:role:key",
    f"{SECRET}:admin:short": "key 1: the key must be 16 to 512 visible ASCII characters",
    f"a:read:{OTHER},me:admin:": "key 2: the key must be 16 to 512 visible ASCII characters",
    f"me:admin:{SECRET} {SECRET}": "key 1: the key must be",
    f"me:admin:{SECRET}ü": "key 1: the key must be",
    f"me:admin:{SECRET * 17}": "key 1: the key must be",
    f"me:admin:{SECRET},me:read:{OTHER}": "key 2: the name me is there twice",
    f"me:admin:{SECRET},you:read:{SECRET}": "key 2: you has the same key as me",
}


def held(settings: Settings) -> list[tuple[str, str]]:
    """Names and roles of all keys."""
    return [(key.name, str(key.role)) for key in settings.keys]


def test_keys_come_from_the_variable_and_the_file(tmp_path: Path) -> None:
    """Both together; of the file one a line, with comments, blank lines and any line ends."""
    file = tmp_path / "keys"
    file.write_bytes(f"# who\r\n\r\n  b:admin:{OTHER}  \r\nc:read:{OTHER}c".encode())

    settings = Settings(api_keys=f" a:read:{SECRET} ,", api_keys_file=file)  # type: ignore[arg-type]

    assert held(settings) == [("a", "read"), ("b", "admin"), ("c", "read")]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_key_is_refused_in_words(text: str) -> None:
    """Which one, and what it should be; nothing of what it is, whichever part of it may be the key."""
    ended = CliRunner().invoke(main, ["serve"], env={"LOADMASTER_API_KEYS": text})

    assert ended.exit_code == 2
    assert REFUSED[text] in ended.output
    for part in (SECRET, OTHER, "short", "owner"):
        assert part not in ended.output


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "LOADMASTER_API_KEYS_FILE is set, and its file holds no key"),
        (b"# me:admin:x\n", "LOADMASTER_API_KEYS_FILE is set, and its file holds no key"),
        (f"# one\nme:admin:{SECRET}\n{SECRET}".encode(), "LOADMASTER_API_KEYS_FILE, line 3: expected name:role:key"),
        (b"\xff" + SECRET.encode(), "is not UTF-8 text"),
        (b"#" * (2 << 20), "is larger than 1048576 bytes"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_words(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    """Also an empty one: whoever named a file meant to have keys."""
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)

    ended = CliRunner().invoke(main, ["serve", f"--api-keys-file={file}"])

    assert ended.exit_code == 2
    assert sentence in " ".join(ended.output.split())
    assert SECRET not in ended.output


def test_with_keys_other_machines_may_call() -> None:
    """What is refused without."""
    settings = Settings(host="0.0.0.0", api_keys=f"me:admin:{SECRET}")  # type: ignore[arg-type] # noqa: S104

    assert held(settings) == [("me", "admin")]
    with pytest.raises(ValidationError, match="LOADMASTER_API_KEYS_FILE, listen on 127"):
        Settings(host="0.0.0.0")  # noqa: S104 - it is refused


def test_no_representation_shows_a_key() -> None:
    """Neither of the settings, nor of a key, nor of the error when another setting is wrong."""
    settings = Settings(api_keys=f"me:admin:{SECRET}")  # type: ignore[arg-type]
    with pytest.raises(ValidationError) as refused:
        Settings(api_keys=f"me:admin:{SECRET}", port=-1, host="0.0.0.0")  # type: ignore[arg-type] # noqa: S104

    shown = [repr(settings), str(settings), settings.model_dump_json(), repr(settings.keys), str(refused.value)]
    assert [text for text in shown if SECRET in text or settings.keys[0].digest.hex() in text] == []


@pytest.mark.slow
def test_a_log_holds_no_key(tmp_path: Path) -> None:
    """Of a process with keys in its environment and in a file, called with right, wrong and misplaced ones."""
    file, log = tmp_path / "keys", tmp_path / "log"
    file.write_text(f"reader:read:{OTHER}\n")
    env = environment(tmp_path / "state", API_KEYS=f"me:admin:{SECRET}", API_KEYS_FILE=str(file), HOST="0.0.0.0")  # noqa: S104

    with running(log, env) as (_, client):
        answer(client.get("/v1/memory", headers={"Authorization": f"Bearer {SECRET}"}))
        refusal(client.post("/v1/models/rescan", headers={"X-Api-Key": OTHER}), 403)
        refusal(client.get("/v1/memory", headers={"X-Api-Key": SECRET + "x"}), 401)
        refusal(client.get("/v1/memory", headers={"Authorization": SECRET}), 401)

    written = log.read_text()
    assert "401" in written
    assert SECRET not in written
    assert OTHER not in written
