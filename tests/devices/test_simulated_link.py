"""The link of the simulated device: a bandwidth that copies share, and can be called off on."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.devices import Meter, Segment
from app.devices.simulated import CREDIT_SECONDS, SimulatedDevice, TokenClock
from app.errors import Cancelled
from tests.devices.instruments import RecordingMeter, Source

MIB = 1 << 20


def test_a_slow_copy_hears_of_a_cancel(source: Source) -> None:
    """A copy that would take hours ends when it is cancelled, with some bytes done and memory to release."""
    device = SimulatedDevice("sim:0", 64 * MIB, bytes_per_second=1000)
    buffer, meter = device.allocate(16 * MIB), Meter()

    with ThreadPoolExecutor(1) as threads:
        copy = threads.submit(device.copy, source.fd, [Segment(0, 0, 16 * MIB)], buffer, meter)
        while not meter.bytes_done:
            threading.Event().wait(0.001)
        meter.cancel()
        with pytest.raises(Cancelled):
            copy.result()

    assert 0 < meter.bytes_done < MIB
    buffer.release()


def test_the_slowest_copy_hears_of_a_cancel_between_bytes(source: Source) -> None:
    """At one byte a second the wait for the next byte is itself cut short."""
    device = SimulatedDevice("sim:0", MIB, bytes_per_second=1)
    buffer, meter = device.allocate(1000), Meter()

    with ThreadPoolExecutor(1) as threads:
        copy = threads.submit(device.copy, source.fd, [Segment(0, 0, 1000)], buffer, meter)
        meter.cancel()
        with pytest.raises(Cancelled):
            copy.result()

    buffer.release()


def test_progress_is_smooth(source: Source) -> None:
    """A device with a bandwidth counts at least twenty times a second."""
    device = SimulatedDevice("sim:0", MIB, bytes_per_second=20_000)
    buffer, meter = device.allocate(4000), RecordingMeter()

    device.copy(source.fd, [Segment(0, 0, 4000)], buffer, meter)

    assert meter.added == [1000] * 4
    buffer.release()


@settings(deadline=None)
@given(
    st.integers(1, 1 << 40),
    st.lists(st.tuples(st.integers(1, 1 << 23), st.floats(0, 10)), min_size=1, max_size=30),
)
def test_the_link_is_never_faster_than_its_bandwidth(rate: int, requests: list[tuple[int, float]]) -> None:
    """In any span of time no more bytes pass than the bandwidth allows, beside the credit for idleness."""
    clock, now = TokenClock(rate), 0.0
    passed = []
    for nbytes, pause in requests:
        now += pause
        passed.append((now, clock.reserve(nbytes, now), nbytes))

    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span = passed[last][1] - passed[first][0]
            sent = sum(nbytes for _, _, nbytes in passed[first : last + 1])
            assert sent <= rate * (span + CREDIT_SECONDS) * (1 + 1e-9) + rate * 1e-9


def test_the_link_is_shared() -> None:
    """Bytes queue behind all that were there before, whoever sent them."""
    clock = TokenClock(1000)

    assert clock.reserve(1000, now=5.0) == pytest.approx(6.0 - CREDIT_SECONDS)
    assert clock.reserve(500, now=5.0) == pytest.approx(6.5 - CREDIT_SECONDS)
    assert clock.reserve(1000, now=100.0) == pytest.approx(101.0 - CREDIT_SECONDS)
