"""Killed at any moment, the service comes back with what it has promised, and with nothing else."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.api.process import environment, kill, running
from tests.api.server import DEADLINE_SECONDS, DEMO, Json, answer, demo_file, devices_of, load, open_files, until
from tests.api.wisher import Wanted, Wisher
from tests.gguf_builder import build, llama_metadata, tiny_llama

pytestmark = pytest.mark.slow

DEVICES = "sim:320MiB@100MiB/s,sim:320MiB@100MiB/s"  # everything fits side by side; a model takes up to a second
DEEP, WIDE = "/v1/models/deep", "/v1/models/wide"
LAYERS = {DEMO: 30, DEEP: 24, WIDE: 4}
STATE_FILES = {"lock", "wishes.sqlite", "wishes.sqlite-wal", "wishes.sqlite-shm"}
STATE_BYTES = 8 << 20  # SQLite goes over its log from the start again once it has 4 MiB
OTHER_FILES = 40  # descriptors beside slabs and models: sockets, the state, the event loop's own

Promised = tuple[dict[str, str], list[Wisher]]


def settings(place: Path) -> dict[str, str]:
    """What every process of a place is started with; the demo model, one of 13 MiB, and one of 34 MiB."""
    models = place / "models"
    models.mkdir()
    (models / "deep.gguf").write_bytes(tiny_llama(n_layer=24, n_embd=256, n_ff=512, seed=1))
    (models / "wide.gguf").write_bytes(tiny_llama(n_layer=4, n_embd=1024, n_ff=2048, seed=2))
    return environment(place / "state", MODELS_DIR=f"{demo_file().parent}:{models}", DEVICES=DEVICES)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The settings of a place of the test's own."""
    return settings(tmp_path)


def wait_for_rest(client: httpx.Client) -> None:
    """Return once what was wished for is loaded, as far as it can be, and nothing is under way."""
    until(lambda: client.get("/readyz").status_code == 200)
    until(lambda: all(job["finished_at"] for job in answer(client.get("/v1/jobs"))["data"]))


def assert_books_balance(client: httpx.Client, pid: int) -> None:
    """The ledger is the sum over the loaded models, the kernel's memory files are the ledger, nothing is in between."""
    memory = answer(client.get("/v1/memory"))
    slabs = [status for name, status in open_files(pid).items() if name.startswith("/memfd")]
    for row in memory["devices"]:
        assert row["weights_bytes"] == sum(model["devices"].get(row["id"], 0) for model in memory["models"])
        assert row["used_bytes"] == row["weights_bytes"] + row["padding_bytes"]
        assert row["free_bytes"] == row["total_bytes"] - row["used_bytes"]
        assert row["reserved_bytes"] == row["retired_bytes"] == 0
    assert sum(status.st_size for status in slabs) == sum(row["used_bytes"] for row in memory["devices"])


def assert_nothing_piles_up(env: dict[str, str], pid: int) -> None:
    """Neither files in the state directory nor descriptors of the process grow from one start to the next."""
    state = list(Path(env["LOADMASTER_STATE_DIR"]).iterdir())
    assert {file.name for file in state} <= STATE_FILES
    assert sum(file.stat().st_size for file in state) < STATE_BYTES
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) - len(open_files(pid)) < OTHER_FILES


def assert_sound(client: httpx.Client) -> None:
    """Every model's data is valid, and what devices hold is what the files hold."""
    for model in LAYERS:
        verified = answer(client.post(f"{model}/verify", json={"deep": True, "wait": True}))
        assert verified["result"]["ok"], verified["result"]["problems"]


@pytest.fixture(scope="module")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promised]:
    """One state directory, and the same three clients, for all the kills of this module; none of them idle."""
    wishers = [Wisher(model, n_layer, ("sim:0", "sim:1"), seed) for seed, (model, n_layer) in enumerate(LAYERS.items())]
    yield settings(tmp_path_factory.mktemp("killed")), wishers
    assert all(wisher.promises for wisher in wishers), "nothing was promised, and so nothing was tested"


@pytest.mark.parametrize("killed", range(21))
def test_a_restart_ends_in_the_last_promise_whenever_the_kill_came(
    tmp_path: Path, promised: Promised, killed: int
) -> None:
    """Three clients load, move, cancel and unload at random until they are cut off; then the next start is looked at.

    Every model is as was promised or was just being asked for, its bytes are the file's, and the books balance.
    """
    env, wishers = promised
    with running(tmp_path / "log", env) as (process, client), ThreadPoolExecutor(len(wishers)) as pool:
        wait_for_rest(client)
        for wisher in wishers:
            wisher.settle(client)
        assert_books_balance(client, process.pid)
        assert_sound(client)
        assert_nothing_piles_up(env, process.pid)
        asking = [pool.submit(wisher.ask_until_killed, str(client.base_url)) for wisher in wishers]
        # No event: the moment must mean nothing to the service.
        time.sleep(random.Random(killed).uniform(0.02, 1.5))  # noqa: S311 - no secret
        kill(process)
        for end in asking:
            end.result()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("asked", ["load", "offload", "unload"])
def test_a_promise_is_kept_although_the_kill_followed_at_once(tmp_path: Path, env: Json, asked: str) -> None:
    """The answer is all that the client ever saw of it."""
    before, after = Wanted(9, "ends", ("sim:1",)), Wanted(24, "last", ("sim:1", "sim:0"))
    expected = Wisher(DEEP, 24, (), 0)
    with running(tmp_path / "log", env) as (process, client):
        if asked != "load":
            load(client, DEEP, **before.body())
        match asked:
            case "load":
                expected.possible = [after]
                answer(client.post(f"{DEEP}/load", json=after.body()), 202)
            case "offload":
                expected.possible = [after]
                answer(client.patch(f"{DEEP}/offload", json=after.body()), 202)
            case _:
                answer(client.post(f"{DEEP}/unload"), 202)
        kill(process)
    with running(tmp_path / "log", env) as (process, client):
        wait_for_rest(client)
        expected.settle(client)
        assert_books_balance(client, process.pid)


def test_a_load_that_evicts_is_one_promise(tmp_path: Path, env: Json) -> None:
    """Killed as soon as it is accepted: the restart loads the one, and not the other, for which there is no room."""
    env = {**env, "LOADMASTER_DEVICES": "sim:96MiB@100MiB/s"}
    with running(tmp_path / "log", env) as (process, client):
        load(client, n_gpu_layers=30)
        answer(client.post(f"{WIDE}/load", json={"n_gpu_layers": 4}), 202)
        kill(process)
    with running(tmp_path / "log", env) as (process, client):
        wait_for_rest(client)
        assert answer(client.get(DEMO))["state"] == "available"
        assert answer(client.get(WIDE))["n_gpu_layers"] == 4
        assert_books_balance(client, process.pid)


def test_a_restart_that_is_killed_too_loses_nothing(tmp_path: Path, env: Json) -> None:
    """Killed again and again while it restores, it is not ready, and still ends in what was wished for."""
    wanted = {model: Wanted(n_layer, "first", ("sim:0", "sim:1")) for model, n_layer in LAYERS.items()}
    with running(tmp_path / "log", env) as (process, client):
        for model, wish in wanted.items():
            answer(client.post(f"{model}/load", json=wish.body()), 202)
        kill(process)
    for _ in range(3):
        with running(tmp_path / "log", env) as (process, client):
            until(lambda: any(job["bytes_done"] for job in answer(client.get("/v1/jobs"))["data"]))
            assert answer(client.get("/readyz"), 503) == {"status": "restoring"}
            kill(process)
    with running(tmp_path / "log", env) as (process, client):
        wait_for_rest(client)
        for model, n_layer in LAYERS.items():
            wisher = Wisher(model, n_layer, (), 0)
            wisher.possible = [wanted[model]]
            wisher.settle(client)
        assert_books_balance(client, process.pid)
        assert_nothing_piles_up(env, process.pid)


def test_a_kill_between_two_steps_of_an_incremental_move(tmp_path: Path, env: Json) -> None:
    """Some layers were there already, some were not: the restart goes to where all of them were to be."""
    env = {**env, "LOADMASTER_DEVICES": "sim:64MiB@20MiB/s,sim:64MiB@20MiB/s"}
    wanted = Wanted(30, "first", ("sim:1", "sim:0"))
    with running(tmp_path / "log", {**env, "LOADMASTER_DEVICES": "sim:64MiB,sim:64MiB"}) as (process, client):
        load(client, **Wanted(30, "first", ("sim:0", "sim:1")).body())
        kill(process)
    with running(tmp_path / "log", env) as (process, client):
        wait_for_rest(client)
        generation = answer(client.get(DEMO))["generation"]
        answer(client.patch(f"{DEMO}/offload", json=wanted.body()), 202)
        until(lambda: answer(client.get(DEMO))["generation"] > generation + 3)
        kill(process)
    with running(tmp_path / "log", env) as (process, client):
        wait_for_rest(client)
        assert devices_of(client) == wanted.placed(30)
        assert_books_balance(client, process.pid)


def test_what_was_called_off_does_not_come_back(tmp_path: Path, env: Json) -> None:
    """Once a job has ended cancelled, a kill finds the wish from before it."""
    before = Wanted(2, "last", ("sim:0",))
    with running(tmp_path / "log", env) as (process, client):
        load(client, **before.body())
        job = answer(client.patch(f"{DEMO}/offload", json={"n_gpu_layers": 30}), 202)
        answer(client.delete(f"/v1/jobs/{job['id']}"), 202)
        until(lambda: answer(client.get(f"/v1/jobs/{job['id']}"))["state"] == "cancelled")
        kill(process)
    with running(tmp_path / "log", env) as (process, client):
        wait_for_rest(client)
        assert devices_of(client) == before.placed(30)


def test_a_reader_that_reads_no_more_does_not_hold_up_the_end(tmp_path: Path, env: Json) -> None:
    """Told to stop while a client has left half of a tensor unread, the service gives up on it after ten seconds."""
    with running(tmp_path / "log", env) as (process, client):
        load(client, n_gpu_layers=1)
        with client.stream("GET", f"{DEMO}/tensors/token_embd.weight/data") as half_read:
            assert half_read.status_code == 200
            process.terminate()
            assert process.wait(DEADLINE_SECONDS) == 0
    with running(tmp_path / "log", env) as (process, client):
        wait_for_rest(client)
        assert answer(client.get(DEMO))["n_gpu_layers"] == 1


NO_MODEL = {
    "removed": (None, None, "model_not_found"),
    "garbage": (b"no model at all", "invalid", "not_gguf"),
    "cut off": (tiny_llama(n_layer=24)[:-1000], "invalid", "truncated"),
    "vocabulary": (
        build(llama_metadata(n_layer=1, n_embd=64, n_ff=64, n_head=1, n_head_kv=1, n_vocab=9)),
        "failed",
        "invalid_model",
    ),
}


@pytest.mark.parametrize("what", NO_MODEL)
def test_a_file_that_is_no_model_any_more_holds_nobody_up(tmp_path: Path, env: Json, what: str) -> None:
    """It says what is wrong with it, the others are loaded, and once it is whole again the next start loads it."""
    text, state, code = NO_MODEL[what]
    file = tmp_path / "models" / "deep.gguf"
    with running(tmp_path / "log", env) as (process, client):
        for model in LAYERS:
            load(client, model, n_gpu_layers=2)
        kill(process)
    file.rename(tmp_path / "away")
    if text is not None:
        file.write_bytes(text)
    with running(tmp_path / "log", env) as (process, client):
        wait_for_rest(client)
        found = client.get(DEEP).json()
        assert (found.get("state"), found["error"]["code"]) == (state, code)
        for model in (DEMO, WIDE):
            assert answer(client.get(model))["n_gpu_layers"] == 2
        assert_books_balance(client, process.pid)
        kill(process)
    (tmp_path / "away").rename(file)
    with running(tmp_path / "log", env) as (process, client):
        wait_for_rest(client)
        assert answer(client.get(DEEP))["n_gpu_layers"] == 2
