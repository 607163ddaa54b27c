"""Everything at once over HTTP: clients read ranges and compare, models move at random, memory is looked at."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import httpx
import pytest

from tests.api.server import DEADLINE_SECONDS, Json, answer, load, open_files, refusal, serving, unload, until
from tests.random_placements import DEVICES, BuiltModel, chances, random_body, random_range, two_models

READERS: Final = 4
TIGHT: Final = "sim:7MiB@1GiB/s,sim:5MiB@1GiB/s"
PAUSE_SECONDS: Final = 0.01
"""Between one look and the next, so that there is a processor left for the service."""


def path(model: BuiltModel) -> str:
    """Where the model is asked for."""
    return f"/v1/models/{model.id}"


@dataclass(slots=True)
class Reader:
    """A client that reads ranges of tensors from wherever they are, and compares them, until all is unloaded."""

    rng: Random
    client: httpx.Client
    last: dict[BuiltModel, int]
    """The last generation seen of each model that is loaded yet."""
    devices: set[str] = field(default_factory=set)

    def read_until_unloaded(self) -> None:
        """Read one range after the other. Blocks."""
        with self.client:
            while self.last:
                model = self.rng.choice(list(self.last))
                name = self.rng.choice(list(model.tensors))
                if self.rng.random() < 0.05:
                    self._hang_up(model, name)
                elif generation := self._read(model, name):
                    assert generation >= self.last[model], f"{model.id}: {generation} after {self.last[model]}"
                    self.last[model] = generation
                else:
                    del self.last[model]
                time.sleep(self.rng.random() * PAUSE_SECONDS)

    def _read(self, model: BuiltModel, name: str) -> int:
        """Read and compare; the generation of the bytes, or 0 where the model is not loaded."""
        truth = model.tensors[name]
        start, stop = random_range(self.rng, len(truth))
        headers, status = self.rng.choice((({"Range": f"bytes={start}-{stop - 1}"}, 206), ({}, 200)))
        response = self.client.get(f"{path(model)}/tensors/{name}/data", headers=headers)
        assert response.status_code == status, response.text
        generation = int(response.headers["x-loadmaster-generation"])
        wanted = truth[start:stop] if headers else truth
        assert response.content == wanted, f"{model.id} {name} {headers} of generation {generation}"
        self.devices |= (devices := set(response.headers["x-loadmaster-device"].split(",")))
        assert devices <= {"cpu", *DEVICES}
        return generation

    def _hang_up(self, model: BuiltModel, name: str) -> None:
        """Leave in the middle of a tensor."""
        with self.client.stream("GET", f"{path(model)}/tensors/{name}/data") as response:
            assert response.status_code == 200
            assert model.tensors[name].startswith(next(response.iter_raw(1024)))


@dataclass(slots=True)
class Mover:
    """A client that takes one model to one random placement after the other; nobody else moves that model."""

    rng: Random
    client: httpx.Client
    model: BuiltModel
    seen: Counter[str] = field(default_factory=Counter)

    def move(self, times: int) -> None:
        """Ask so often for another placement, and wait for it. Blocks."""
        with self.client:
            for number in range(times):
                body = random_body(self.rng, self.model.n_layer)
                try:
                    self._offload(body)
                except Exception as error:
                    error.add_note(f"{self.model.id}, placement {number}: {body}")
                    raise

    def _offload(self, body: Json) -> None:
        before = self._model()
        meant_for = self.rng.choice((None, None, before["generation"], before["generation"] - 1))
        response = self._patch(body | {"wait": self.rng.random() < 0.7}, meant_for)
        self.seen[str(response.status_code)] += 1
        if response.status_code == 412:
            assert meant_for not in (None, before["generation"])
            assert refusal(response, 412)["generation"] == before["generation"]
        elif response.status_code == 507:
            error = refusal(response, 507)
            assert error["required_bytes"] > error["available_bytes"]
        elif response.status_code == 202:
            self._interfere(response.json())
            return
        else:
            job = answer(response)
            assert (job["state"], job["generation"]) == ("succeeded", (now := self._model())["generation"])
            assert body["n_gpu_layers"] in ("all", "auto", now["n_gpu_layers"])
            assert body["strategy"] in ("best", now["strategy"])
            return
        assert self._model() == before

    def _interfere(self, job: Json) -> None:
        """Ask for another placement while the job runs: refused as busy, unless the job has ended by now."""
        response = self._patch(random_body(self.rng, self.model.n_layer) | {"margin_bytes": 1})
        self.seen[f"{response.status_code} meanwhile"] += 1
        if response.status_code == 409:
            error = refusal(response, 409)
            assert (error["code"], error["job"]) == ("busy", job["id"])
        else:
            assert response.status_code in (200, 202, 507), response.text
            assert self._job(job["id"])["state"] == "succeeded"
            job = response.json() if response.status_code != 507 else job
        until(lambda: self._job(job["id"])["state"] not in ("queued", "running"))
        ended = self._job(job["id"])
        assert (ended["state"], ended["error"]) == ("succeeded", None)

    def _patch(self, body: Json, generation: int | None = None) -> httpx.Response:
        headers = {} if generation is None else {"If-Match": f'"{generation}"'}
        return self.client.patch(f"{path(self.model)}/offload", json=body, headers=headers)

    def _model(self) -> Json:
        """What a refusal must leave as it was; others read the model meanwhile, which counts as use."""
        return answer(self.client.get(path(self.model))) | {"used_at": None}

    def _job(self, id_: str) -> Json:
        return answer(self.client.get(f"/v1/jobs/{id_}"))


def watch_until_unloaded(client: httpx.Client) -> None:
    """Look at the memory over and over. Blocks."""
    with client:
        while (memory := answer(client.get("/v1/memory")))["models"]:
            assert_sums(memory)
            time.sleep(PAUSE_SECONDS)


def assert_sums(memory: Json) -> None:
    """No device is over its limit, and bytes add up over models, devices and states."""
    for device in memory["devices"]:
        used = device["used_bytes"]
        assert used + device["reserved_bytes"] + device["retired_bytes"] <= device["limit_bytes"], device
        assert used == device["weights_bytes"] + device["padding_bytes"]
        assert device["weights_bytes"] == sum(model["devices"].get(device["id"], 0) for model in memory["models"])
    for model in memory["models"]:
        assert model["total_bytes"] == sum(model["devices"].values()) == model["gpu_bytes"] + model["cpu_bytes"]


def assert_all_is_freed(client: httpx.Client) -> None:
    """Nothing is loaded: once the last reader's part is freed, too, devices are as they were at the start."""
    until(lambda: not any(device["retired_bytes"] for device in answer(client.get("/v1/memory"))["devices"]))
    for device in answer(client.get("/v1/memory"))["devices"]:
        held = [device[f"{state}_bytes"] for state in ("used", "weights", "padding", "reserved", "retired")]
        assert (held, device["free_bytes"]) == ([0] * 5, device["total_bytes"])


def stress(client: httpx.Client, seed: int, placements: int) -> Counter[str]:
    """Load two models, read, move and watch them, then unload them; returns what was answered to those who move."""

    def another() -> httpx.Client:
        return httpx.Client(base_url=client.base_url, timeout=DEADLINE_SECONDS)

    generations = {model: load(client, path(model), n_gpu_layers=2)["generation"] for model in two_models()}
    readers = [Reader(chances(seed, number), another(), dict(generations)) for number in range(READERS)]
    movers = [Mover(chances(seed, model.id), another(), model) for model in generations]
    with ThreadPoolExecutor(READERS + 1 + len(movers)) as threads:
        others = [threads.submit(reader.read_until_unloaded) for reader in readers]
        others.append(threads.submit(watch_until_unloaded, another()))
        moving = [threads.submit(mover.move, placements // len(movers)) for mover in movers]
        try:
            for move in moving:
                move.result()
        finally:  # which ends the others
            for model in generations:
                unload(client, path(model))
        for other in others:
            other.result()
    for model in generations:
        assert refusal(client.patch(f"{path(model)}/offload"), 409)["code"] == "not_loaded"
    return sum((mover.seen for mover in movers), Counter())


@pytest.mark.parametrize(
    ("seed", "placements", "expected"),
    [
        (1, 12, {"200"}),
        pytest.param(2, 200, {"200", "202", "412", "507", "409 meanwhile"}, marks=pytest.mark.slow),
    ],
)
def test_clients_never_get_a_wrong_byte_while_two_models_move_at_random(
    tmp_path: Path, seed: int, placements: int, expected: set[str]
) -> None:
    """Four clients read and compare, two move models: bytes, generations, sums and refusals are right throughout."""
    for model in two_models():
        model.write(tmp_path / "models")
    files = open_files().keys()

    with serving(tmp_path / "state", devices=TIGHT, models=(tmp_path / "models",)) as client:
        seen = stress(client, seed, placements)
        assert_all_is_freed(client)
        until(lambda: open_files().keys() == files)

    assert expected <= seen.keys()
