"""A client that asks for one random placement after the other, and remembers what it was promised."""

import random
from dataclasses import dataclass

import httpx

from tests.api.server import DEADLINE_SECONDS, Json, answer, devices_of, until

ACCEPTED = (200, 202)


@dataclass(frozen=True)
class Wanted:
    """What a load or an offload asks for."""

    n_gpu_layers: int
    strategy: str
    devices: tuple[str, ...]

    def body(self) -> Json:
        """The request: equal shares, dealt anew, so that nothing else has a say in where layers go."""
        return {
            "n_gpu_layers": self.n_gpu_layers,
            "strategy": self.strategy,
            "devices": self.devices,
            "split": {"weights": "equal"},
            "rebalance": True,
        }

    def placed(self, n_layer: int) -> dict[Json, str]:
        """The device of each layer, by the rules of the strategies and none of the planner's code."""
        n = self.n_gpu_layers
        blocks = {
            "first": list(range(n)),
            "last": list(range(n_layer - n, n_layer)),
            "ends": [*range(n - n // 2), *range(n_layer - n // 2, n_layer)],
        }[self.strategy]
        where: dict[Json, str] = dict.fromkeys(["input", *range(n_layer), "output"], "cpu")
        share, last = n // len(self.devices), len(self.devices) - 1
        for index, block in enumerate(blocks):
            where[block] = self.devices[min(index // share, last) if share else last]
        if n:
            where["input"], where["output"] = where[blocks[0]], where[blocks[-1]]
        return where


class Wisher:
    """One model's only client."""

    def __init__(self, model: str, n_layer: int, device_ids: tuple[str, ...], seed: int) -> None:
        self.model = model
        self.n_layer = n_layer
        self.possible: list[Wanted | None] = [None]
        """What a restart may bring, None for not loaded: one thing, but while a request has no answer yet, or a job
        that was called off has not ended, it is that or what was before.
        """
        self.promises = 0
        """How many requests were accepted."""
        self._device_ids = device_ids
        self._random = random.Random(seed)  # noqa: S311 - no secret

    def ask_until_killed(self, url: str) -> None:
        """Ask, and wait for some of the jobs, until nobody answers."""
        with httpx.Client(base_url=url, timeout=DEADLINE_SECONDS) as client:
            try:
                while True:
                    self._ask(client)
            except httpx.TransportError:
                pass

    def settle(self, client: httpx.Client) -> None:
        """What a service at rest has loaded must be possible, and nothing else is from now on."""
        model, where = answer(client.get(self.model)), devices_of(client, self.model)
        found = [wish for wish in self.possible if self._is(wish, model, where)]
        assert found, (model, where, self.possible)
        self.possible = found[:1]

    def _is(self, wish: Wanted | None, model: Json, where: dict[Json, str]) -> bool:
        if wish is None:
            return model["state"] == "available" and model["generation"] is None
        asked = ("loaded", wish.n_gpu_layers, wish.strategy)
        return (model["state"], model["n_gpu_layers"], model["strategy"]) == asked and where == wish.placed(
            self.n_layer
        )

    def _ask(self, client: httpx.Client) -> None:
        (now,) = self.possible
        wish = self._any_wish()
        self.possible = [now, wish]
        response = self._send(client, now, wish)
        if response.status_code not in ACCEPTED:
            assert response.status_code == 409, response.text  # something else of the model is under way
            self.possible = [now]
            return
        self.promises += 1
        fate = self._random.random()
        if fate < 0.2 and wish not in (None, now):
            ended = self._call_off(client, response.json())
            self.possible = [now if ended == "cancelled" else wish]
            return
        self.possible = [wish]
        if fate < 0.6:
            self._end_of(client, response.json())

    def _any_wish(self) -> Wanted | None:
        if self._random.random() < 0.25:
            return None
        devices = self._random.sample(self._device_ids, self._random.randint(1, len(self._device_ids)))
        strategy = self._random.choice(("first", "last", "ends"))
        return Wanted(self._random.randint(0, self.n_layer), strategy, tuple(devices))

    def _send(self, client: httpx.Client, now: Wanted | None, wish: Wanted | None) -> httpx.Response:
        if wish is None:
            return client.post(f"{self.model}/unload")
        if now is None or self._random.random() < 0.3:
            return client.post(f"{self.model}/load", json=wish.body())
        return client.patch(f"{self.model}/offload", json=wish.body())

    def _call_off(self, client: httpx.Client, job: Json) -> str:
        response = client.delete(f"/v1/jobs/{job['id']}")
        assert response.status_code in ACCEPTED, response.text
        return self._end_of(client, job)

    def _end_of(self, client: httpx.Client, job: Json) -> str:
        until(lambda: answer(client.get(f"/v1/jobs/{job['id']}"))["finished_at"])
        ended = answer(client.get(f"/v1/jobs/{job['id']}"))
        assert ended["state"] in ("succeeded", "cancelled"), ended
        return str(ended["state"])
