"""What is kept for those who look is what would be made anew: after whatever happens, and at every turn meanwhile."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from app.devices.simulated import Faults, SimulatedDevice
from app.errors import LoadmasterError
from app.placement import HostMode, PlacementRequest
from app.residency import Loadmaster
from app.residency.jobs import Job
from app.residency.wishes import Retention
from tests.residency.deck import MIB, at, service
from tests.residency.instruments import TINY

MODELS = st.sampled_from(["one", "two"])
LAYERS = st.sampled_from([0, 2, "all"])
HOSTS = st.sampled_from([HostMode.MMAP, HostMode.MLOCK, HostMode.BUFFERED])
RETENTIONS = st.builds(Retention, st.booleans(), st.sampled_from([-1, 60, 0.01]))
SAID_OF_JOBS = ("id", "state", "stage", "generation", "error", "result", "started_at", "finished_at")
"""But for progress, which threads make from one moment to the next."""


def check_models(loadmaster: Loadmaster) -> None:
    """The models as they are kept are as they are; a second may pass, or a reader leave, between two looks."""
    library = loadmaster.library
    before = library.records()
    anew = tuple(map(library.record, library.entries()))
    assert anew in (before, library.records())


def check_memory(loadmaster: Loadmaster) -> None:
    """So is the memory; a thread may lock a page between two looks."""
    memory = loadmaster.memory
    before = replace(memory.record(), time=0.0)
    anew = replace(memory._made(), time=0.0)
    assert anew in (before, replace(memory.record(), time=0.0))


async def check_snapshot(loadmaster: Loadmaster) -> None:
    """So is the snapshot, its jobs included; at the second look where a second of a hold has passed in the first."""
    kept, anew = await snapshot_twice(loadmaster)
    if kept != anew:
        kept, anew = await snapshot_twice(loadmaster)
    assert kept == anew


async def snapshot_twice(loadmaster: Loadmaster) -> tuple[object, object]:
    """Jobs and models as the snapshot has them, and made anew."""
    data = json.loads((await loadmaster.snapshot()).data)
    jobs = [json.loads(loadmaster.broadcast._encode(job.record())) for job in loadmaster.jobs.newest_first()]
    kept, anew = ([{key: job[key] for key in SAID_OF_JOBS} for job in found] for found in (data["jobs"], jobs))
    models = [json.loads(loadmaster.broadcast._encode(model)) for model in loadmaster.library.records()]
    return (kept, data["models"]), (anew, models)


class Service(RuleBasedStateMachine):
    """A service to which everything happens that can."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        (self.directory / "models").mkdir()
        for model in ("one", "two"):
            self.file(model).write_bytes(TINY)
        self.runner = asyncio.Runner()
        self.faults = cycle([Faults(oom=5, failcopy=9), Faults(failcopy=4), Faults()])
        self.holds = ExitStack()
        self.begin()

    def file(self, model: str) -> Path:
        """Where a model is."""
        return self.directory / "models" / f"{model}.gguf"

    def begin(self) -> None:
        """A process; two of its devices are too small for both models, and one fails to order."""
        sizes = (MIB // 4, MIB)
        self.devices = [SimulatedDevice(f"sim:{n}", size, faults=next(self.faults)) for n, size in enumerate(sizes)]
        self.process = AsyncExitStack()
        self.loadmaster = self.runner.run(self.process.enter_async_context(service(self.directory, *self.devices)))

    def end(self) -> None:
        """The process stops, and its readers with it."""
        self.holds.close()
        self.runner.run(self.process.aclose())

    def teardown(self) -> None:
        """Nothing of it stays."""
        self.end()
        self.runner.close()
        shutil.rmtree(self.directory)

    def happens(self, event: Coroutine[Any, Any, object]) -> None:
        """Have it happen, or be refused; look at every turn of the event loop meanwhile, and afterwards."""

        async def main() -> None:
            happening = asyncio.ensure_future(event)
            while not happening.done():
                check_models(self.loadmaster)
                check_memory(self.loadmaster)
                await asyncio.sleep(0)
            with suppress(LoadmasterError):
                await happening
            check_models(self.loadmaster)
            check_memory(self.loadmaster)
            await check_snapshot(self.loadmaster)

        self.runner.run(main())

    @rule(model=MODELS, n=LAYERS, host=HOSTS, retention=RETENTIONS)
    def load(self, model: str, n: Any, host: HostMode, retention: Retention) -> None:
        """It begins; it may make room for itself, fail, or be refused."""
        self.happens(self.loadmaster.load(model, PlacementRequest(n_gpu_layers=n, host=host), retention))

    @rule(model=MODELS, n=st.integers(0, 4))
    def offload(self, model: str, n: int) -> None:
        """To somewhere else."""
        self.happens(self.loadmaster.offload(model, at(n)))

    @rule(model=MODELS, retention=RETENTIONS)
    def keep(self, model: str, retention: Retention) -> None:
        """It is to stay for another time, where it is."""
        self.happens(self.loadmaster.offload(model, None, lambda _: retention))

    @rule(model=MODELS)
    def unload(self, model: str) -> None:
        """Also in the middle of a load."""
        self.happens(self.loadmaster.unload(model))

    @rule(model=MODELS, deep=st.booleans())
    def verify(self, model: str, deep: bool) -> None:
        """Which changes nothing but the list of jobs."""
        self.happens(self.loadmaster.verify(model, deep=deep))

    @rule(model=MODELS)
    def touch(self, model: str) -> None:
        """A use."""

        async def touch() -> None:
            self.loadmaster.touch(model)

        self.happens(touch())

    @rule(model=MODELS)
    def hold(self, model: str) -> None:
        """A reader comes."""
        resident = self.loadmaster._residents.get(model)
        if resident is not None:
            self.holds.enter_context(resident.hold())

    @rule()
    def let_go(self) -> None:
        """All readers leave."""
        self.holds.close()

    @rule()
    def cancel(self) -> None:
        """Everything that runs is called off."""
        for job in self.loadmaster.jobs.running():
            self.loadmaster.cancel(job.id)
        self.rest()

    @rule()
    def rest(self) -> None:
        """Everything that runs comes to its end; readers would keep it from that."""
        self.let_go()
        self.happens(wait_for_all(self.loadmaster.jobs.running()))

    @rule(model=MODELS, data=st.sampled_from([None, b"GGUF", TINY]))
    def rescan(self, model: str, data: bytes | None) -> None:
        """A file is gone, is no model any more, or is back; it may be loaded."""
        self.file(model).unlink(missing_ok=True)
        if data is not None:
            self.file(model).write_bytes(data)
        self.happens(self.loadmaster.rescan())

    @rule(device=st.integers(0, 1), others=st.sampled_from([0, MIB // 8]), staging=st.integers(0, 1))
    def others(self, device: int, others: int, staging: int) -> None:
        """Others take some of a device, or give it back; and our own copies need more for themselves."""
        self.devices[device].others_bytes = others
        self.devices[device].staging_bytes = staging
        self.happens(self.loadmaster.memory.ask())

    @rule(device=st.integers(0, 1))
    def lose(self, device: int) -> None:
        """It is found to be lost by the next look at it."""
        self.devices[device].broken = "broken by a test"
        self.happens(self.loadmaster.memory.ask())

    @rule()
    def restart(self) -> None:
        """Another process loads what is wished for again."""
        self.end()
        self.begin()
        self.happens(asyncio.sleep(0))


async def wait_for_all(jobs: list[Job]) -> None:
    """Until each has ended, whichever way."""
    for job in jobs:
        await job.wait_ended()


RUNS = [pytest.param(4, id="quick"), pytest.param(25, id="slow", marks=pytest.mark.slow)]


@pytest.mark.parametrize("examples", RUNS)
def test_what_is_kept_is_what_would_be_made_anew(examples: int) -> None:
    """Models, memory and snapshot, through loads, moves, failures, losses, rescans and restarts."""
    run_state_machine_as_test(Service, settings=settings(max_examples=examples, stateful_step_count=25, deadline=None))
