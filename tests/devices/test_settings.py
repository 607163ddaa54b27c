"""`LOADMASTER_DEVICES`: what it may say, what it opens, and how it is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.devices import DeviceKind
from app.devices.settings import CudaSpec, SimulatedSpec, open_devices, parse_devices
from app.devices.simulated import Faults
from app.errors import InvalidValue

ROOT = Path(__file__).parents[2]

sizes = st.integers(1, (1 << 63) - 1)
counts = st.none() | st.integers(1, 10**9)
faults = st.builds(Faults, oom=counts, failcopy=counts, flip=counts, lose=counts)
simulated = sizes.flatmap(
    lambda size: st.builds(SimulatedSpec, st.just(size), st.none() | sizes, faults, st.integers(0, size))
)
cuda = st.builds(CudaSpec, st.integers(0, 999))


@settings(deadline=None)
@given(st.lists(simulated | cuda, min_size=1, max_size=5, unique=True))
def test_what_is_written_is_read(specs: list[SimulatedSpec | CudaSpec]) -> None:
    """Every list of devices, written in the grammar, is read back as it was."""
    assert parse_devices(",".join(map(str, specs))) == tuple(specs)


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("cudasim:,@/0123456789GiBo= ", max_size=40))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    """No text gives anything but devices or an error that names the setting."""
    refusal = None
    try:
        parse_devices(text)
    except InvalidValue as error:
        refusal = error

    assert refusal is None or refusal.param == "LOADMASTER_DEVICES"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", ()),
        ("auto", (CudaSpec(required=False),)),
        ("cuda", (CudaSpec(),)),
        (" cuda:1 , cuda:0", (CudaSpec(1), CudaSpec(0))),
        ("sim:8GiB,sim:8GiB@12GiB/s", (SimulatedSpec(8 << 30), SimulatedSpec(8 << 30, 12 << 30))),
        ("sim:1B", (SimulatedSpec(1),)),
        ("sim:2KiB", (SimulatedSpec(2 << 10),)),
        ("sim:2TiB@5B/s", (SimulatedSpec(2 << 40, 5),)),
        (
            "sim:64MiB@100MiB/s:oom=7:failcopy=3:flip=5:lose=9",
            (SimulatedSpec(64 << 20, 100 << 20, Faults(oom=7, failcopy=3, flip=5, lose=9)),),
        ),
        ("sim:1MiB:flip=5:oom=7", (SimulatedSpec(1 << 20, None, Faults(oom=7, flip=5)),)),
        ("sim:1GiB:others=1GiB", (SimulatedSpec(1 << 30, others_bytes=1 << 30),)),
        (
            "sim:1GiB@1B/s:oom=7:others=512MiB:flip=5",
            (SimulatedSpec(1 << 30, 1, Faults(oom=7, flip=5), others_bytes=512 << 20),),
        ),
        ("cuda,sim:1MiB", (CudaSpec(), SimulatedSpec(1 << 20))),
    ],
)
def test_reads(text: str, expected: tuple[object, ...]) -> None:
    """The forms of the grammar."""
    assert parse_devices(text) == expected


@pytest.mark.parametrize(
    ("text", "entry", "expected"),
    [
        ("", "''", "sim:SIZE"),
        ("gpu", "'gpu'", "sim:SIZE"),
        ("sim", "'sim'", "a size such as 8GiB"),
        ("sim:8GB", "'sim:8GB'", "a size such as 8GiB"),
        ("sim:1.5GiB", "'sim:1.5GiB'", "a size such as 8GiB"),
        ("sim:-1GiB", "'sim:-1GiB'", "a size such as 8GiB"),
        ("sim:0GiB", "'sim:0GiB'", "a size such as 8GiB"),
        ("sim:9999999999TiB", "'sim:9999999999TiB'", "below 2^63"),
        ("sim:1MiB,", "''", "sim:SIZE"),
        ("sim:1MiB,sim:1", "'sim:1'", "a size such as 8GiB"),
        ("sim:1MiB@1MiB", "'sim:1MiB@1MiB'", "12GiB/s"),
        ("sim:1MiB@/s", "'sim:1MiB@/s'", "a size such as 8GiB"),
        ("sim:1MiB@0B/s", "'sim:1MiB@0B/s'", "a size such as 8GiB"),
        ("sim:1MiB:", "'sim:1MiB:'", "oom=N, failcopy=N, flip=N, lose=N"),
        ("sim:1MiB:burn=1", "'sim:1MiB:burn=1'", "oom=N, failcopy=N, flip=N, lose=N"),
        ("sim:1MiB:oom=1:oom=2", "'sim:1MiB:oom=1:oom=2'", "at most once"),
        ("sim:1MiB:others", "'sim:1MiB:others'", "a size such as 8GiB"),
        ("sim:1MiB:others=0B", "'sim:1MiB:others=0B'", "a size such as 8GiB"),
        ("sim:1MiB:others=50%", "'sim:1MiB:others=50%'", "a size such as 8GiB"),
        ("sim:1MiB:others=1B:others=1B", "'sim:1MiB:others=1B:others=1B'", "at most once"),
        ("sim:1MiB:others=2MiB", "'sim:1MiB:others=2MiB'", "no more than the device has"),
        ("sim:1MiB:oom=0", "'sim:1MiB:oom=0'", "from 1"),
        ("sim:1MiB:oom", "'sim:1MiB:oom'", "from 1"),
        ("sim:1MiB:oom=٣", "'sim:1MiB:oom=٣'", "from 1"),
        ("cuda:", "'cuda:'", "from 0"),
        ("cuda:x", "'cuda:x'", "from 0"),
        ("none,cuda", "'none'", "alone"),
        ("sim:1MiB,auto", "'auto'", "alone"),
        ("cuda:0,cuda:0", "'cuda:0,cuda:0'", "twice"),
        ("cuda,cuda:1", "'cuda,cuda:1'", "twice"),
    ],
)
def test_refuses(text: str, entry: str, expected: str) -> None:
    """What is not in the grammar is refused, with the entry and what was expected there."""
    with pytest.raises(InvalidValue) as caught:
        parse_devices(text)

    assert caught.value.param == "LOADMASTER_DEVICES"
    assert caught.value.message.startswith(f"LOADMASTER_DEVICES: {entry}")
    assert expected in caught.value.message


def test_long_entries_are_cut() -> None:
    """An error message stays readable whatever was written."""
    with pytest.raises(InvalidValue) as caught:
        parse_devices("x" * 100_000)

    assert len(caught.value.message) < 300


def test_opens_devices_in_order() -> None:
    """Simulated devices are numbered as they are named, and are what was ordered."""
    devices = open_devices("sim:1MiB,sim:2MiB@3B/s:flip=4:others=1KiB")

    assert [device.id for device in devices] == ["sim:0", "sim:1"]
    assert [device.kind for device in devices] == [DeviceKind.SIMULATED] * 2
    assert [device.memory().total_bytes for device in devices] == [1 << 20, 2 << 20]
    assert [device.memory().others_bytes for device in devices] == [0, 1 << 10]
    assert devices[1].capabilities["bytes_per_second"] == 3
    assert devices[1].capabilities["flip"] == 4


def test_opens_none() -> None:
    """`none` opens nothing."""
    assert open_devices("none") == []


def test_auto_takes_what_is_there() -> None:
    """`auto` opens CUDA devices or nothing, and is no error either way."""
    assert {device.kind for device in open_devices("auto")} <= {DeviceKind.CUDA}


@pytest.mark.parametrize(
    ("text", "printed"),
    [("auto", "[]"), ("cuda", "cuda: CuPy is not installed"), ("cuda:0", "cuda:0: CuPy is not installed")],
)
def test_starts_without_cupy(text: str, printed: str) -> None:
    """Without CuPy `auto` opens nothing, and what names CUDA says what to install."""
    program = (
        "import sys\n"
        "sys.modules['cupy'] = None\n"
        "from app.devices.settings import open_devices\n"
        "from app.errors import DeviceUnavailable\n"
        "try:\n"
        f"    print(open_devices({text!r}))\n"
        "except DeviceUnavailable as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own words

    assert done.stdout.startswith(printed)
    if text != "auto":
        assert "loadmaster[cuda12]" in done.stdout
