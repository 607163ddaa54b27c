"""What a crowd of clients does to the service at random, and what each answer may be."""

import threading
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final

import httpx

from tests.api.server import DEADLINE_SECONDS, Json, listening
from tests.gguf_builder import tiny_llama

MODELS: Final = {
    "large": tiny_llama(12, 128, 384, tied=False),
    "middle": tiny_llama(7, 128, 384, uneven=True),
    "small": tiny_llama(4, 128, 256, tied=False),
}
LAYERS: Final = {"large": 12, "middle": 7, "small": 4}
CAPACITY: Final = (
    sum(map(len, MODELS.values())) // 3
)  # of each of two devices: what the models need is half as much more
DEVICES: Final = ",".join([f"sim:{CAPACITY}B@{8 * CAPACITY}B/s"] * 2)
STRATEGIES: Final = ("first", "last", "ends", "best", "llama.cpp")
TENSOR: Final = "blk.3.ffn_up.weight"


class Watch:
    """Listens to every event, and keeps what must not be; the last record of every job, too."""

    def __init__(self) -> None:
        self.jobs: dict[str, Json] = {}
        self.faults: list[str] = []
        self.asked: dict[str, Json] = {}
        """The bodies of accepted loads and offloads, by the job's id."""
        self.last_job = ""
        """The id of the job after which nobody listens any more."""
        self._idle: dict[str, Json] = {}
        """Each model as it was when it had no job."""

    def listen(self, base_url: httpx.URL) -> None:
        """Until the last job has been heard of."""
        with httpx.Client(base_url=base_url, timeout=DEADLINE_SECONDS) as client, listening(client) as events:
            for event in events:
                self._hear(event.name, event.data)
                if self.jobs.get(self.last_job, {}).get("finished_at"):
                    return

    def memory(self, record: Json) -> None:
        """No byte over a limit, and every byte in one column."""
        for device in record["devices"]:
            claimed = device["used_bytes"] + device["reserved_bytes"] + device["retired_bytes"]
            self.require(claimed <= device["limit_bytes"], f"over the limit: {device}")
            self.require(
                device["used_bytes"] == device["weights_bytes"] + device["padding_bytes"], f"padding: {device}"
            )
            weights = sum(model["devices"].get(device["id"], 0) for model in record["models"])
            self.require(device["weights_bytes"] == weights, f"models add up to {weights}: {device}")

    def require(self, so: bool, otherwise: str) -> None:
        """Keep what is not so."""
        if not so:
            self.faults.append(otherwise)

    def last_change(self, model: str) -> Json:
        """The last job that changed the model: one that succeeded, or was called off half-way; None for none."""
        changes = [
            job
            for job in self.jobs.values()
            if job["model"] == model
            and job["kind"] != "verify"
            and (job["state"] == "succeeded" or job["generation"] is not None)
        ]
        return max(changes, key=lambda job: job["finished_at"], default=None)

    def _hear(self, name: str, data: Json) -> None:
        match name:
            case "memory":
                self.memory(data)
            case "model" if data["job"] is None:
                self._idle[data["id"]] = data
            case "job":
                self._job(data)
            case "snapshot":
                self._idle.clear()
                self._hear("memory", data["memory"])
                for kind in ("model", "job"):
                    for one in data[f"{kind}s"]:
                        self._hear(kind, one)

    def _job(self, job: Json) -> None:
        new = job["id"] not in self.jobs
        self.jobs[job["id"]] = job
        if new and job["cause"] == "eviction" and job["model"] in self._idle:
            before = self._idle[job["model"]]
            self.require(before["state"] == "loaded" and not before["pinned"], f"evicted: {before} by {job}")
        self.require(job["state"] != "failed", f"failed: {job}")
        self.require(job["state"] != "cancelled" or job["error"]["code"] == "cancelled", f"cancelled: {job}")
        if job["state"] == "succeeded" and job["kind"] in ("load", "offload"):
            evicted = job["result"]["evicted"]
            allowed = self.asked.get(job["id"], {}).get("evict", bool(evicted))
            self.require(bool(allowed) or not evicted, f"evicted against the client's will: {job}")
            self.require(all(one["model"] != job["model"] and one["freed"] for one in evicted), f"evicted: {job}")


class Client:
    """One of the crowd: does one thing after the other, and knows what may be answered."""

    def __init__(self, base_url: httpx.URL, seed: int, watch: Watch) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=2 * DEADLINE_SECONDS)
        self._dice = Random(seed)  # noqa: S311 - no secret
        self._watch = watch
        self.answers: Counter[tuple[str, int]] = Counter()

    def work(self, stop: threading.Event) -> None:
        """Until it is told to stop. An answer that does not come in time ends it: that is a deadlock."""
        acts: dict[Callable[[str], None], int] = {
            self.load: 20,
            self.offload: 16,
            self.unload: 1,
            self.touch: 6,
            self.cancel: 2,
            self.read: 12,
            self.look: 8,
            self.verify: 2,
        }
        with self._http:
            while not stop.wait(self._dice.random() / 10):
                (act,) = self._dice.choices(list(acts), list(acts.values()))
                try:
                    act(self._dice.choice(sorted(MODELS)))
                except httpx.HTTPError as error:
                    self._watch.faults.append(f"{act.__name__}: {error!r}")
                    return

    def load(self, model: str) -> None:
        """Load in every way there is."""
        body = self._placement(model) | {"evict": self._dice.choice([True, True, False, "layers", "layers"])}
        body |= {"keep_alive": self._dice.choices([-1, 0, 0.2], [8, 1, 1])[0], "pinned": self._dice.random() < 0.1}
        answer = self._ask("POST", f"{model}/load", (200, 202, 409, 507), json=body)
        self._accepted(answer, body)

    def offload(self, model: str) -> None:
        """Move layers, or unpin; of the generation that was seen last, or of any."""
        body = self._placement(model) if self._dice.random() < 0.8 else {}
        body |= self._dice.choice([{}, {"pinned": False}, {"evict": "layers"}, {"evict": False}, {"rebalance": True}])
        headers = {"If-Match": f'"{self._dice.randint(1, 40)}"'} if self._dice.random() < 0.1 else {}
        answer = self._ask("PATCH", f"{model}/offload", (200, 202, 409, 412, 507), json=body, headers=headers)
        self._accepted(answer, body)

    def unload(self, model: str) -> None:
        """Unload, waiting or not."""
        self._ask("POST", f"{model}/unload", (200, 202, 409), json={"wait": self._dice.random() < 0.5})

    def touch(self, model: str) -> None:
        """Use it."""
        self._ask("POST", f"{model}/touch", (200, 409))

    def cancel(self, _: str) -> None:
        """Call off some job that may not have ended yet."""
        jobs = self._ask("GET", "/v1/jobs?limit=8", (200,)).json()["data"]
        running = [job for job in jobs if job["state"] in ("queued", "running")]
        if running:
            self._ask("DELETE", f"/v1/jobs/{self._dice.choice(running)['id']}", (200, 202))

    def read(self, model: str) -> None:
        """Hold the model, and compare bytes with the file's."""
        answer = self._ask("GET", f"{model}/tensors/{TENSOR}/data", (200,))
        self._watch.require(answer.content in MODELS[model], f"wrong bytes of {model}, {answer.headers}")

    def look(self, model: str) -> None:
        """Look at the memory, and at the model's."""
        self._watch.memory(self._ask("GET", "/v1/memory", (200,)).json())
        self._ask("GET", f"{model}/memory", (200, 409))

    def verify(self, model: str) -> None:
        """Compare every byte that is on a device; called off by somebody, sometimes."""
        answer = self._ask("POST", f"{model}/verify", (200, 409), json={"deep": True, "wait": True})
        if answer.status_code == 200:
            self._watch.require(answer.json()["result"]["ok"], f"not sound: {answer.text}")

    def _placement(self, model: str) -> dict[str, Json]:
        n = self._dice.choice(["all", "all", "auto", self._dice.randint(0, LAYERS[model])])
        body = {"n_gpu_layers": n, "strategy": self._dice.choice(STRATEGIES), "wait": self._dice.random() < 0.5}
        if self._dice.random() < 0.3:
            body["devices"] = [self._dice.choice(["sim:0", "sim:1"])]
        if self._dice.random() < 0.3:
            body["split"] = {"weights": self._dice.choice(["equal", "free"])}
        return body

    def _accepted(self, answer: httpx.Response, body: Json) -> None:
        if answer.is_success:
            self._watch.asked[answer.json()["id"]] = body
        elif answer.status_code == 507:
            error = answer.json()["error"]
            self._watch.require(error["required_bytes"] > error["available_bytes"], f"507: {error}")

    def _ask(self, method: str, path: str, allowed: tuple[int, ...], **request: Json) -> httpx.Response:
        answer = self._http.request(method, path if path.startswith("/") else f"/v1/models/{path}", **request)
        self.answers[method, answer.status_code] += 1
        told = f"{method} {path} {request}: {answer.status_code} {answer.text[:500]}"
        self._watch.require(answer.status_code in allowed, told)
        if answer.status_code == 409:
            self._watch.require(answer.json()["error"]["code"] in ("busy", "not_loaded", "cancelled"), told)
        return answer
