"""`LOADMASTER_MEMORY_LIMIT`: what it may say, what it comes to, and how it is refused."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.devices import Device
from app.devices.host import HostDevice
from app.devices.limits import ALL, Limits, Share, Size, limits_of, parse_limits
from app.devices.simulated import SimulatedDevice
from app.errors import InvalidValue

GIB = 1 << 30
TOTALS = {"sim:0": 1000, "sim:1": 3, "sim:2": 64 * GIB}
DEVICES: Sequence[Device] = [SimulatedDevice(id_, total) for id_, total in TOTALS.items()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", Limits()),
        ("20GiB", Limits(default=Size(20 * GIB))),
        ("80%", Limits(default=Share(Fraction(80)))),
        ("33.25%", Limits(default=Share(Fraction(133, 4)))),
        ("100%", Limits(default=ALL)),
        ("100.000%", Limits(default=ALL)),
        ("0.000000001%", Limits(default=Share(Fraction(1, 10**9)))),
        ("cuda:0=20GiB", Limits((("cuda:0", Size(20 * GIB)),))),
        ("cpu=50%", Limits((("cpu", Share(Fraction(50))),))),
        (
            " GPU-9d-7 = 1B ,sim:1=all , 10%",
            Limits((("GPU-9d-7", Size(1)), ("sim:1", ALL)), Share(Fraction(10))),
        ),
    ],
)
def test_reads(text: str, expected: Limits) -> None:
    """The forms of the grammar, in any order."""
    assert parse_limits(text) == expected


@pytest.mark.parametrize(
    ("text", "entry", "expected"),
    [
        ("", "''", "`all`, a size such as 20GiB (B, KiB, MiB, GiB, TiB; below 2^63 bytes) or a share such as 80%"),
        ("none", "'none'", "not 'none'"),
        ("20", "'20'", "not '20'"),
        ("20GB", "'20GB'", "a size such as 20GiB"),
        ("0B", "'0B'", "a size such as 20GiB"),
        ("1.5GiB", "'1.5GiB'", "a size such as 20GiB"),
        ("-1GiB", "'-1GiB'", "a size such as 20GiB"),
        ("8388608TiB", "'8388608TiB'", "below 2^63"),
        ("0%", "'0%'", "above 0, up to 100"),
        ("0.0%", "'0.0%'", "above 0, up to 100"),
        ("100.000000001%", "'100.000000001%'", "above 0, up to 100"),
        ("101%", "'101%'", "above 0, up to 100"),
        ("-5%", "'-5%'", "above 0, up to 100"),
        (".5%", "'.5%'", "above 0, up to 100"),
        ("5.%", "'5.%'", "above 0, up to 100"),
        ("1e1%", "'1e1%'", "above 0, up to 100"),
        ("٣%", "'٣%'", "above 0, up to 100"),
        ("80 %", "'80 %'", "above 0, up to 100"),
        ("nan%", "'nan%'", "above 0, up to 100"),
        ("80%,", "''", "not ''"),
        ("cuda:0", "'cuda:0'", "not 'cuda:0'"),
        ("cuda:0=", "'cuda:0='", "not ''"),
        ("=1GiB", "'=1GiB'", "a device before the equals sign"),
        ("80%,90%", "'90%'", "one limit for what is not named"),
        ("all,sim:0=1B,all", "'all'", "one limit for what is not named"),
        ("cpu=1GiB,cpu=1GiB", "'cpu=1GiB'", "one limit for cpu"),
    ],
)
def test_refuses(text: str, entry: str, expected: str) -> None:
    """What is not in the grammar is refused, with the entry and what was expected there."""
    with pytest.raises(InvalidValue) as caught:
        parse_limits(text)

    assert caught.value.param == "LOADMASTER_MEMORY_LIMIT"
    assert caught.value.message.startswith(f"LOADMASTER_MEMORY_LIMIT: {entry}: expected ")
    assert expected in caught.value.message


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("alcpusim:,=%.0123456789GiB ", max_size=40))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    """No text gives anything but a limit within each device, or an error that names the setting."""
    try:
        limits = limits_of(text, DEVICES)
    except InvalidValue as error:
        assert error.param == "LOADMASTER_MEMORY_LIMIT"  # noqa: PT017 - what is read is no less right
    else:
        assert limits.keys() == TOTALS.keys()
        assert all(0 <= limits[id_] <= total for id_, total in TOTALS.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", [1000, 3, 64 * GIB]),
        ("50%", [500, 1, 32 * GIB]),
        ("33.3%", [333, 0, 64 * GIB * 333 // 1000]),
        ("99.999999999%", [999, 2, 64 * GIB * 99_999_999_999 // 10**11]),
        ("20GiB", [1000, 3, 20 * GIB]),
        ("2B", [2, 2, 2]),
        ("sim:2=1KiB", [1000, 3, 1024]),
        ("1%,sim:0=all,sim:1=100%", [1000, 3, 64 * GIB // 100]),
    ],
)
def test_comes_to(text: str, expected: list[int]) -> None:
    """A share in whole bytes, a size that is not there cut to what is, and each device by its own or the default."""
    assert list(limits_of(text, DEVICES).values()) == expected


def test_the_host_has_all_unless_it_is_named() -> None:
    """A limit that names no device is for accelerators."""
    host = HostDevice()
    total = host.memory().total_bytes or 0

    assert limits_of("1B", [*DEVICES, host])["cpu"] == total > 0
    assert limits_of("1B,cpu=50%", [*DEVICES, host]) == {"sim:0": 1, "sim:1": 1, "sim:2": 1, "cpu": total // 2}


class GPU(SimulatedDevice):
    """A device with a driver's name, which is all that a simulated one lacks here."""

    uuid = "GPU-5"  # type: ignore[assignment,misc]


def test_a_uuid_is_a_name() -> None:
    """As good as the id, and no way to name a device twice."""
    devices = [GPU("cuda:0", 100), SimulatedDevice("sim:0", 100)]

    assert limits_of("GPU-5=7B", devices) == {"cuda:0": 7, "sim:0": 100}
    with pytest.raises(InvalidValue, match="'cuda:0': expected one limit for cuda:0, and it has one already"):
        limits_of("GPU-5=7B,cuda:0=8B", devices)


@pytest.mark.parametrize("name", ["sim:3", "cuda:0", "CPU", "cpu", "sim:0=sim:1", "x" * 1000])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    """With those that are; a long name is cut."""
    with pytest.raises(InvalidValue) as caught:
        limits_of(f"{name}=1B", DEVICES)

    assert caught.value.param == "LOADMASTER_MEMORY_LIMIT"
    assert name[:90] in caught.value.message
    assert "a device that is there, by its UUID or its id: sim:0, sim:1, sim:2" in caught.value.message
    assert len(caught.value.message) < 300
