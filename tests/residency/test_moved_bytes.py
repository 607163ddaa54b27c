"""An offload copies the bytes of the layers that come to a device, and not one more; a release copies nothing."""

import asyncio
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest

from app.devices import Buffer, Meter, Segment
from app.devices.simulated import SimulatedDevice
from app.model import LayerKey
from app.placement import PlacementRequest, SplitMode, Strategy
from app.residency import Loadmaster
from tests.residency.deck import MIB, ended, service

L = 4  # blocks of the tiny model


class CountingDevice(SimulatedDevice):
    """Counts the bytes that it is told to copy, past the service's own count."""

    copied_bytes = 0

    def copy(self, fd: int, segments: Sequence[Segment], buffer: Buffer, meter: Meter) -> None:
        """Count, and copy."""
        self.copied_bytes += sum(segment.nbytes for segment in segments)
        super().copy(fd, segments, buffer, meter)


def offloaded(strategy: Strategy, n: int) -> set[LayerKey]:
    """The layers on devices, as the table of strategies has it."""
    units: Sequence[LayerKey] = {
        Strategy.FIRST: range(n),
        Strategy.LAST: range(L - n, L),
        Strategy.ENDS: [*range(n - n // 2), *range(L - n // 2, L)],
        Strategy.LLAMA_CPP: [0, 1, 2, 3, "output"][L + 1 - n :],
    }[strategy]
    around: set[LayerKey] = {"input", "output"} if n and strategy is not Strategy.LLAMA_CPP else set()
    return {*units, *around}


async def moved(
    loadmaster: Loadmaster, devices: Sequence[CountingDevice], request: PlacementRequest
) -> tuple[int, ...]:
    """Offload, and return the bytes that were to be copied, that were, and that the devices have seen."""
    before = sum(device.copied_bytes for device in devices)
    job = await loadmaster.offload("tiny", lambda _: request)
    assert await ended(job) is None
    return job.bytes_total, job.bytes_done, sum(device.copied_bytes for device in devices) - before


OURS = (Strategy.FIRST, Strategy.LAST, Strategy.ENDS)
CASES = [
    *((strategy, mode, 2) for strategy in OURS for mode in (SplitMode.LAYER, SplitMode.ROW)),
    (
        Strategy.LLAMA_CPP,
        SplitMode.LAYER,
        1,
    ),  # on two, its layers go where llama.cpp puts them, and not where they were
]


@pytest.mark.parametrize(("strategy", "mode", "count"), CASES)
def test_only_the_bytes_of_layers_that_come_travel(
    place: Path, strategy: Strategy, mode: SplitMode, count: int
) -> None:
    """From every n to every other m: the job's total, its count and the devices' own count are those layers' bytes."""
    devices = [CountingDevice(f"sim:{number}", 4 * MIB) for number in range(count)]
    most = L + (strategy is Strategy.LLAMA_CPP)

    async def main() -> None:
        async with service(place, *devices) as loadmaster:
            layers = loadmaster.library.entry("tiny").require_model().layers
            for n, m in permutations(range(most + 1), 2):
                start, end = (PlacementRequest(k, strategy, split_mode=mode, split_weights="equal") for k in (n, m))
                assert await ended(await loadmaster.load("tiny", start)) is None
                come = offloaded(strategy, m) - offloaded(strategy, n)
                expected = sum(layer.size_bytes for layer in layers if layer.key in come)
                assert (expected == 0) is (m < n)
                assert await moved(loadmaster, devices, end) == (expected, expected, expected), (n, m)
                assert await moved(loadmaster, devices, end) == (0, 0, 0)

    asyncio.run(main())
