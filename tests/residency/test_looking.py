"""Looking: one record for everybody, made anew when something has changed and never shown when it is not true."""

import asyncio
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from app.devices.simulated import SimulatedDevice
from app.residency import Loadmaster
from app.residency.copying import NICENESS
from tests.residency.deck import ALL, MIB, at, service, slow_device, two_devices, until


def test_what_has_not_changed_is_the_same_object(place: Path) -> None:
    """Models and memory are made once for all who look, and anew by every kind of change."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            models = [loadmaster.library.records()]
            memory = [loadmaster.memory.record()]
            load, unload = partial(loadmaster.load, "tiny", ALL), partial(loadmaster.unload, "tiny")
            for change in (load, partial(loadmaster.offload, "tiny", at(1)), unload):
                await (await change()).wait()
                models.append(loadmaster.library.records())
                memory.append(loadmaster.memory.record())
                assert loadmaster.library.records() is models[-1]
                assert loadmaster.memory.record() is memory[-1]
            assert len({record.time for record in memory}) == len(memory)
            assert [found[0].state for found in models] == ["available", "loaded", "loaded", "available"]
            assert [found[0].generation for found in models] == [None, 1, 2, None]
            await loadmaster.rescan()
            assert loadmaster.library.records() is not models[-1]

    asyncio.run(main())


def used(loadmaster: Loadmaster) -> float:
    """When the model was used last, by the records."""
    (record,) = loadmaster.library.records()
    assert record.used_at is not None
    return record.used_at


def test_a_model_is_seen_to_be_busy_used_and_kept(place: Path) -> None:
    """A job, a use and a hold are seen at once, though none of them moves a byte."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            job = await loadmaster.load("tiny", ALL)
            assert [record.job for record in loadmaster.library.records()] == [job.id]
            await job.wait()
            loaded = used(loadmaster)
            await until(lambda: loadmaster.touch("tiny") is not None and used(loadmaster) > loaded)  # by a millisecond
            touched = used(loadmaster)
            with loadmaster._residents["tiny"].hold():
                await until(lambda: used(loadmaster) > touched)

    asyncio.run(main())


def test_whoever_has_seen_a_job_end_sees_its_memory(place: Path) -> None:
    """What the device reports is never from before a change of the books, however soon after it somebody looks."""

    async def main() -> None:
        device = SimulatedDevice("sim:0", 4 * MIB)
        async with service(place, device) as loadmaster:
            load, unload = partial(loadmaster.load, "tiny", ALL), partial(loadmaster.unload, "tiny")
            for change in (load, unload):
                await loadmaster.memory.look()
                await (await change()).wait()
                (seen,) = (await loadmaster.memory.look()).devices
                assert seen.used_bytes == 4 * MIB - (seen.free_bytes or 0)

    asyncio.run(main())


def test_what_only_the_system_knows_is_seen_soon(place: Path) -> None:
    """Others take memory, and no book of ours says so: a look shows it all the same, and its time is another."""

    async def main() -> None:
        device = SimulatedDevice("sim:0", 4 * MIB)
        async with service(place, device) as loadmaster:
            before = await loadmaster.memory.look()
            device.others_bytes = MIB
            async with asyncio.timeout(30):
                while (record := await loadmaster.memory.look()).devices[0].others_bytes != MIB:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert record.time > before.time

    asyncio.run(main())


def test_a_crowd_that_looks_asks_once(place: Path) -> None:
    """After a change fifty looks share one question to the system, and get the one record."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            records = await asyncio.gather(*(loadmaster.memory.look() for _ in range(50)))
            assert len({id(record) for record in records}) == 1

    asyncio.run(main())


def test_a_snapshot_is_made_once_for_all_who_want_it(place: Path) -> None:
    """Until something is told or changes; then the next one has it."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            first = await loadmaster.snapshot()
            job = await loadmaster.load("tiny", ALL)
            await job.wait()
            second, third = await asyncio.gather(loadmaster.snapshot(), loadmaster.snapshot())
            assert second is third
            assert job.id in second.data
            assert job.id not in first.data

    asyncio.run(main())


def test_copies_give_way_to_those_who_ask(place: Path) -> None:
    """Threads that copy have a lower priority than the one that answers."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            mine = os.getpriority(os.PRIO_PROCESS, 0)
            copying = await asyncio.wrap_future(loadmaster._threads.submit(os.getpriority, os.PRIO_PROCESS, 0))
            assert copying == min(19, mine + NICENESS)
            assert os.getpriority(os.PRIO_PROCESS, 0) == mine

    asyncio.run(main())


SANDBOX = """
import ctypes, os, struct, sys
from concurrent.futures import ThreadPoolExecutor
from app.residency.copying import step_aside

SETPRIORITY = {"x86_64": 141, "aarch64": 140}[os.uname().machine]  # <asm/unistd.h>
LOAD_NUMBER, EQUAL, RETURN = 0x20, 0x15, 0x06  # <linux/bpf_common.h>
REFUSE, ALLOW = 0x00050001, 0x7FFF0000  # <linux/seccomp.h>: EPERM, and whatever else
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2  # <linux/prctl.h>

rules = [(LOAD_NUMBER, 0, 0, 0), (EQUAL, 0, 1, SETPRIORITY), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
filter = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(filter)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(SET_SECCOMP, FILTER, program, 0, 0):
    sys.exit("no sandbox")
try:
    os.setpriority(os.PRIO_PROCESS, 0, 1)
except PermissionError:
    print(ThreadPoolExecutor(1, initializer=step_aside).submit(str, "copied").result())
"""
"""A process that may not change priorities, as in some containers; a thread that copies begins in it all the same."""


def test_a_sandbox_may_forbid_priorities() -> None:
    """Copies go on with the priority of everybody else: a thread that failed to begin would break the pool for good."""
    command = [sys.executable, "-c", SANDBOX]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own text
    if done.stderr.strip() == "no sandbox":
        pytest.skip("this kernel has no seccomp")
    assert done.stdout == "copied\n", done.stderr
