"""`loadmaster serve` as a process of its own: for signals, exit codes, and what a killed one leaves."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.api.server import DEADLINE_SECONDS, demo_file, until

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from app.cli import main; main()", "serve"]


def environment(state_dir: Path, **settings: str) -> dict[str, str]:
    """The settings of a service as environment variables, with nothing of ours among them."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOADMASTER_")}
    chosen = {
        "LOADMASTER_MODELS_DIR": str(demo_file().parent),
        "LOADMASTER_STATE_DIR": str(state_dir),
        "LOADMASTER_DEVICES": "none",
        "LOADMASTER_PORT": "0",
    }
    return {**clean, **chosen, **{f"LOADMASTER_{name}": value for name, value in settings.items()}}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def refused(env: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of a service that does not start."""
    ended = subprocess.run(  # noqa: S603 - our own command
        COMMAND, env=env, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


@contextmanager
def running(
    log: Path, env: dict[str, str], port: int | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A service that answers, and a client of it; killed at the end if it still runs. Its output goes to `log`."""
    port = port or free_port()
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603 - our own command
            COMMAND,
            env={**env, "LOADMASTER_PORT": str(port)},
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that whatever it leaves behind is known by its group
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS) as client,
    ):
        try:
            until(lambda: process.poll() is not None or _answers(client))
            assert process.poll() is None, log.read_text()
            yield process, client
        finally:
            process.kill()


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process as a crash would, and see that nothing of it is left."""
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False
