"""`watch`, `top` and `Client.events()` outlive the service: killed, restarted, and they go on by themselves."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadmaster import Client, LoadmasterError, Snapshot, Unreachable
from tests.api.process import ROOT, environment, free_port, kill, running
from tests.api.server import DEMO, DEMO_ID, answer, load, offload, until

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from app.cli import main; main()"]


@contextmanager
def command(port: int, *arguments: str, out: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """A command of the service at this port, killed at the end if it still runs."""
    env = {**os.environ, "LOADMASTER_URL": f"http://127.0.0.1:{port}", "TERM": "xterm"}
    with subprocess.Popen(  # noqa: S603 - our own command
        [*COMMAND, *arguments], env=env, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupted(process: subprocess.Popen[str]) -> int:
    """The exit code after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    return process.wait()


def test_watch_goes_on_after_the_service_was_killed(tmp_path: Path) -> None:
    """A snapshot of the new service, then its events; 0 when it is ended by Ctrl-C."""
    port, env = free_port(), environment(tmp_path / "state", DEVICES="sim:64MiB")
    with running(tmp_path / "first", env, port) as (process, http), command(port, "watch", "--json") as watching:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        load(http, n_gpu_layers=1)
        kill(process)
        with running(tmp_path / "second", env, port) as (_, restarted):
            events = (json.loads(line) for line in watching.stdout)
            again = next(event for event in events if event["event"] == "snapshot")
            until(lambda: restarted.get("/readyz").is_success)
            offload(restarted, n_gpu_layers=2)
            moved = next(event for event in events if event["data"].get("n_gpu_layers") == 2)
            assert interrupted(watching) == 0
        assert watching.stderr is not None
        complaints = watching.stderr.read()
    assert first["event"] == "snapshot"
    assert again["id"].rpartition("-")[0] != first["id"].rpartition("-")[0]
    assert (moved["event"], moved["data"]["id"]) == ("model", DEMO_ID)
    assert "trying again" in complaints
    assert "Traceback" not in complaints


def test_top_goes_on_after_the_service_was_killed(tmp_path: Path) -> None:
    """It says that the connection is lost, and shows the new service's models once that is there."""
    port, env = free_port(), environment(tmp_path / "state", DEVICES="sim:64MiB")
    mine, theirs = pty.openpty()
    seen = b""

    def shows(text: bytes) -> Callable[[], bool]:
        start = len(seen)

        def found() -> bool:
            nonlocal seen
            seen += os.read(mine, 65536)
            return text in seen[start:]

        return found

    with running(tmp_path / "first", env, port) as (process, _), command(port, "top", out=theirs) as top:
        os.close(theirs)
        until(shows(b"nothing is loaded"))
        kill(process)
        until(shows(b"connection lost"))
        with running(tmp_path / "second", env, port) as (_, http):
            load(http, n_gpu_layers=1)
            until(shows(DEMO_ID.encode()))
            assert interrupted(top) == 0
    os.close(mine)


def test_a_client_goes_on_after_the_service_was_killed(tmp_path: Path) -> None:
    """`events` and a job that is waited for: the one goes on with a snapshot, the other has nothing to wait for."""
    port, env = free_port(), environment(tmp_path / "state", DEVICES="sim:64MiB@10MiB/s")
    lost: list[LoadmasterError] = []
    with Client(f"http://127.0.0.1:{port}") as client:
        with running(tmp_path / "first", env, port) as (process, _):
            events = client.events(lost=lost.append)
            assert isinstance(next(events).data, Snapshot)
            job = client.load(DEMO_ID, n_gpu_layers=12, wait=False)
            progress = client.follow(job)
            next(progress)
            kill(process)
        with running(tmp_path / "second", env, port):
            assert any(isinstance(event.data, Snapshot) for event in iter(lambda: next(events), None))
            with pytest.raises(LoadmasterError, match=job.id):
                list(progress)
        assert all(isinstance(error, Unreachable) for error in lost)
        assert lost
        events.close()


def test_ctrl_c_calls_a_load_off(tmp_path: Path) -> None:
    """130, and everything is as it was; with --detach the load goes on without the command."""
    port, env = free_port(), environment(tmp_path / "state", DEVICES="sim:64MiB@10MiB/s")
    with running(tmp_path / "log", env, port) as (_, http):
        with command(port, "load", DEMO_ID, "-n", "12") as loading:
            until(lambda: [job for job in answer(http.get("/v1/jobs"))["data"] if job["bytes_done"]])
            assert interrupted(loading) == 130
            assert loading.stderr is not None
            assert f"load of {DEMO_ID} cancelled" in loading.stderr.read()
        assert answer(http.get(DEMO))["state"] == "available"

        with command(port, "load", DEMO_ID, "-n", "1", "--detach") as detached:
            assert detached.stdout is not None
            assert "job" in detached.stdout.read()
        until(lambda: answer(http.get(DEMO))["state"] == "loaded")
