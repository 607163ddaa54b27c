"""`LOADMASTER_MEMORY_LIMIT`: its grammar, and what of each device may be ours.

::

    limits   = entry ("," entry)*
    entry    = [device "="] limit             without a device, at most once: for the accelerators that are not named
    device   = ID | UUID | "cpu"              each at most once; of the host it is copies (`buffered`) that are limited
    limit    = "all" | size | NUMBER "%"      of what the device has in all; a decimal number above 0, up to 100
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from app.devices.base import Device, DeviceKind
from app.devices.settings import SIZE_UNITS, malformed, read_size
from app.errors import InvalidValue

PARAM: Final = "LOADMASTER_MEMORY_LIMIT"
FORMS: Final = f"`all`, a size such as 20GiB ({SIZE_UNITS}) or a share such as 80% (above 0, up to 100)"


@dataclass(frozen=True, slots=True)
class Size:
    """So many bytes."""

    nbytes: int

    def of(self, total_bytes: int) -> int:
        """Return the limit of a device that has `total_bytes`."""
        return min(self.nbytes, total_bytes)


@dataclass(frozen=True, slots=True)
class Share:
    """So many of a hundred bytes."""

    percent: Fraction  # exact, as it was written

    def of(self, total_bytes: int) -> int:
        """Return the limit of a device that has `total_bytes`: whole bytes, rounded down."""
        return int(self.percent * total_bytes / 100)


Limit = Size | Share
ALL: Final = Share(Fraction(100))


@dataclass(frozen=True, slots=True)
class Limits:
    """The setting as it is written: by a device's id or UUID, and for the accelerators that are not named."""

    named: tuple[tuple[str, Limit], ...] = ()
    default: Limit = ALL


def parse_limits(text: str) -> Limits:
    """Read the setting. Raises InvalidValue with the entry and what was expected."""
    limits: dict[str, Limit] = {}
    for entry in (part.strip() for part in text.split(",")):
        left, equals, right = entry.rpartition("=")
        name, limit = left.strip(), parse_limit(right.strip(), entry)
        if equals and not name:
            raise _malformed(entry, f"a device before the equals sign, or no such sign; then {FORMS}")
        if name in limits:
            raise _malformed(entry, f"one limit for {name or 'what is not named'}, and it has one already")
        limits[name] = limit
    default = limits.pop("", ALL)
    return Limits(tuple(limits.items()), default)


def limits_of(text: str, devices: Sequence[Device]) -> dict[str, int]:
    """Return what of each device may be ours, in bytes, by its id; of one that does not say what it has, nothing.

    Asks the devices, and so may block. Raises InvalidValue, also for a device that is not there, or is named by its id
    and by its UUID.
    """
    limits = parse_limits(text)
    by_name = {name: device.id for device in devices for name in (device.id, device.uuid) if name}
    chosen: dict[str, Limit] = {}
    for name, limit in limits.named:
        if name not in by_name:
            there = ", ".join(device.id for device in devices)
            raise _malformed(name, f"a device that is there, by its UUID or its id: {there}")
        if by_name[name] in chosen:
            raise _malformed(name, f"one limit for {by_name[name]}, and it has one already")
        chosen[by_name[name]] = limit
    found = {}
    for device in devices:
        limit = chosen.get(device.id, ALL if device.kind is DeviceKind.HOST else limits.default)
        found[device.id] = limit.of(device.memory().total_bytes or 0)
    return found


def parse_limit(text: str, entry: str) -> Limit:
    """Read what stands for a limit."""
    if text == "all":
        return ALL
    if (size := read_size(text)) is not None:
        return Size(size)
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%", text)
    percent = Fraction(match[1]) if match else Fraction(0)
    if not 0 < percent <= 100:
        raise _malformed(entry, f"{FORMS}, not {text!r}")
    return Share(percent)


def _malformed(entry: str, expected: str) -> InvalidValue:
    return malformed(entry, expected, param=PARAM)
