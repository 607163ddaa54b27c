"""The log: one line for each thing that happened, in a form that nobody can forge."""

import asyncio
import json
import logging
import logging.config
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from app.api.traffic import request_id
from app.cli.logs import JSONLines, TextLines, configuration
from app.config import LogFormat, LogLevel
from tests.api.process import environment, running
from tests.api.server import DEMO, answer, listening, load, refusal, until

FORGED = "a\r\n2026-01-01T00:00:00.000Z ERROR all is lost\x1b[2J\u202e\u2028\x00\udc80"


def record(message: str, *args: object, **more: Any) -> logging.LogRecord:
    """A record as a logger makes it."""
    return logging.getLogger("app.test").makeRecord("app.test", logging.INFO, "", 0, message, args, None, **more)


def fail() -> None:
    """Fail by an exception that has a forged line in it."""
    raise LookupError(FORGED)


def failed() -> logging.LogRecord:
    """A record with a traceback."""
    found = record("%s failed", FORGED)
    try:
        fail()
    except LookupError:
        found.exc_info = sys.exc_info()
    return found


def test_a_line_is_a_line_of_text() -> None:
    """Line breaks, escapes and what turns the direction of text are shown by their escapes."""
    line = TextLines().format(record("load of %s", FORGED))

    assert line.isprintable()
    assert line.endswith(r"load of a\r\n2026-01-01T00:00:00.000Z ERROR all is lost\x1b[2J\u202e\u2028\x00\udc80")
    assert " INFO " in line


def test_a_traceback_cannot_pass_for_a_line() -> None:
    """It is indented, whatever its exception says."""
    first, *rest = TextLines().format(failed()).split("\n")

    assert "failed" in first
    assert len(rest) > 2
    for line in rest:
        assert line.startswith("    ")
        assert line.isprintable()


def test_a_line_is_one_object_of_json() -> None:
    """With the facts of what happened, the request that began it, and the traceback if there is one."""
    request_id.set("r-1")
    line = JSONLines().format(record("load of %s", FORGED, extra={"facts": {"event": "job", "bytes": 7}}))
    told = json.loads(line)

    assert line.isascii()
    assert line.isprintable()
    assert told["message"] == f"load of {FORGED}"
    assert (told["level"], told["logger"], told["request_id"]) == ("info", "app.test", "r-1")
    assert (told["event"], told["bytes"]) == ("job", 7)
    assert "LookupError" in json.loads(JSONLines().format(failed()))["traceback"]
    request_id.set(None)


def test_what_was_cut_off_is_no_fault() -> None:
    """A stop cuts off a reader that goes on for too long; the server's line about it has no traceback."""
    cut_off = record("Exception in ASGI application\n")
    cut_off.exc_info = (asyncio.CancelledError, asyncio.CancelledError(), None)

    assert TextLines().format(cut_off).endswith(" INFO Exception in ASGI application")
    assert "traceback" not in json.loads(JSONLines().format(cut_off))


@pytest.mark.parametrize("form", LogFormat)
@pytest.mark.parametrize("level", LogLevel)
def test_levels_are_those_of_the_service_and_its_server(form: LogFormat, level: LogLevel) -> None:
    """Libraries are heard from warnings on, whatever is asked for."""
    config = configuration(form, level)

    logging.config.DictConfigurator(config)
    assert {logger["level"] for logger in config["loggers"].values()} == {level.name}
    assert config["root"]["level"] == "WARNING"


@pytest.mark.slow
def test_a_life_in_json(tmp_path: Path) -> None:
    """A load, a refusal, a lost device, a stop: each has its line, every line is JSON, and no secret is in any."""
    log, state = tmp_path / "log", tmp_path / "state"
    devices = "sim:64MiB,sim:64MiB:lose=3"
    with (
        running(log, environment(state, DEVICES=devices, LOG_FORMAT="json", LOG_LEVEL="debug")) as (process, client),
        listening(client) as events,
    ):
        next(events)
        headers = {"X-Request-Id": "mine-1", "Authorization": "Bearer s3cret"}
        body = {"n_gpu_layers": 2, "devices": ["sim:0"], "wait": True}
        job = answer(client.post(f"{DEMO}/load?key=s3cret", json=body, headers=headers))
        refusal(client.post(f"{DEMO}/load", json={"n_gpu_layers": 30, "devices": ["sim:0"]}), 507)
        refusal(client.patch(f"{DEMO}/offload", json={"n_gpu_layers": 30, "devices": None, "wait": True}), 503)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = {event: [line for line in lines if line.get("event") == event] for event in ("job", "request", "stopped")}
    load_line, offload_line = told["job"]
    assert load_line | {"job": job["id"], "state": "succeeded", "request_id": "mine-1", "generation": 1} == load_line
    assert load_line["bytes"] == job["bytes_total"]
    assert load_line["seconds"] > 0
    assert (offload_line["state"], offload_line["code"]) == ("failed", "device_error")
    (lost,) = [line for line in lines if line.get("event") == "device_lost"]
    assert (lost["device"], lost["level"], lost["jobs"]) == ("sim:1", "error", [offload_line["job"]])
    assert [line["status"] for line in told["request"] if line["method"] != "GET"] == [200, 507, 503]
    assert {line["path"] for line in told["request"] if line["method"] == "GET"} >= {"/healthz", "/v1/events"}
    (started,) = [line for line in lines if line.get("event") == "started"]
    assert (started["models"], started["devices"]) == (1, ["sim:0", "sim:1", "cpu"])
    (stopping,) = [line for line in lines if line.get("event") == "stopping"]
    assert (stopping["streams"], stopping["models"]) == (1, 1)
    assert told["stopped"][0]["models"] == 1
    assert "s3cret" not in log.read_text()


@pytest.mark.slow
def test_a_start_says_what_it_brought_back(tmp_path: Path) -> None:
    """One line for the restore, and one in words where the start is refused, as JSON like all others."""
    state, log = tmp_path / "state", tmp_path / "log"
    with running(log, environment(state, DEVICES="sim:128MiB")) as (process, client):
        load(client, n_gpu_layers=3)
        process.kill()

    with running(log, environment(state, DEVICES="sim:128MiB", LOG_FORMAT="json")) as (_, client):
        until(lambda: client.get("/readyz").status_code == 200)

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (restore,) = [line for line in lines if line.get("event") == "restore"]
    assert (restore["restored"], restore["missing"]) == (1, [])
    (job,) = [line for line in lines if line.get("event") == "job"]
    assert (job["cause"], job["state"]) == ("restart", "succeeded")
