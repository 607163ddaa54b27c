"""`LOADMASTER_DEVICES`: its grammar, and the devices that it asks for.

::

    devices  = "auto" | "none" | entry ("," entry)*
    entry    = "cuda" | "cuda:" INDEX | "sim:" size ["@" size "/s"] (":" option)*
    option   = "others=" size | fault "=" N             each at most once; others: what somebody else holds of it
    fault    = "oom" | "failcopy" | "flip" | "lose"     N, counted from 1, is the call that it strikes
    size     = INTEGER ("B" | "KiB" | "MiB" | "GiB" | "TiB")
"""

import re
from dataclasses import dataclass, field, fields
from typing import Final

from app.devices.base import Device
from app.devices.simulated import Faults, SimulatedDevice
from app.errors import DeviceUnavailable, InvalidValue

PARAM: Final = "LOADMASTER_DEVICES"
UNITS: Final = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
FAULTS: Final = tuple(fault.name for fault in fields(Faults))
OTHERS: Final = "others"
MAX_SIZE: Final = (1 << 63) - 1  # bytes: what an offset in a file can be
SIZE_UNITS: Final = "B, KiB, MiB, GiB, TiB; below 2^63 bytes"
MAX_INDEX: Final = 999
MAX_COUNT: Final = 10**9

INSTALL: Final = "pip install 'loadmaster[cuda12]' or 'loadmaster[cuda13]', as the driver supports"


@dataclass(frozen=True, slots=True)
class CudaSpec:
    """One CUDA device by its index, or all of them; `required` is False where having none is fine."""

    index: int | None = None
    required: bool = True

    def __str__(self) -> str:
        if self.index is not None:
            return f"cuda:{self.index}"
        return "cuda" if self.required else "auto"


@dataclass(frozen=True, slots=True)
class SimulatedSpec:
    """A simulated device, all sizes in bytes."""

    capacity_bytes: int
    bytes_per_second: int | None = None
    faults: Faults = field(default_factory=Faults)
    others_bytes: int = 0

    def __str__(self) -> str:
        rate = f"@{format_size(self.bytes_per_second)}/s" if self.bytes_per_second else ""
        others = f":{OTHERS}={format_size(self.others_bytes)}" if self.others_bytes else ""
        faults = [(name, getattr(self.faults, name)) for name in FAULTS]
        ordered = "".join(f":{name}={count}" for name, count in faults if count)
        return f"sim:{format_size(self.capacity_bytes)}{rate}{others}{ordered}"


DeviceSpec = CudaSpec | SimulatedSpec


def parse_devices(text: str) -> tuple[DeviceSpec, ...]:
    """Read the setting; the empty tuple for `none`. Raises InvalidValue with the entry and what was expected."""
    match text.strip():
        case "none":
            return ()
        case "auto":
            return (CudaSpec(required=False),)
    specs = tuple(parse_entry(entry.strip()) for entry in text.split(","))
    cuda = [spec for spec in specs if isinstance(spec, CudaSpec)]
    if len(set(cuda)) < len(cuda) or (CudaSpec() in cuda and len(cuda) > 1):
        raise InvalidValue(f"{PARAM}: {text!r} names a CUDA device twice", param=PARAM)
    return specs


def open_devices(text: str) -> list[Device]:
    """Open the devices that the setting names, in its order; simulated ones are numbered from `sim:0`.

    Raises InvalidValue, and DeviceUnavailable where a CUDA device was named and is not there.
    """
    devices: list[Device] = []
    simulated = 0
    for spec in parse_devices(text):
        match spec:
            case CudaSpec():
                devices += open_cuda(spec)
            case SimulatedSpec(capacity, rate, faults, others):
                device_id = f"sim:{simulated}"
                device = SimulatedDevice(device_id, capacity, bytes_per_second=rate, faults=faults, others_bytes=others)
                devices.append(device)
                simulated += 1
    return devices


def open_cuda(spec: CudaSpec) -> list[Device]:
    """Find the CUDA devices meant. CuPy is imported here, so that the service starts without it."""
    try:
        from app.devices.cuda import cuda_devices  # noqa: PLC0415 - see above
    except ImportError as error:
        if not spec.required:
            return []
        raise DeviceUnavailable(f"{spec}: CuPy is not installed: {INSTALL}", device=str(spec)) from error
    found = cuda_devices()
    chosen: list[Device] = [device for device in found if spec.index is None or device.id == str(spec)]
    if spec.required and not chosen:
        there = ", ".join(device.id for device in found) or "none (is an NVIDIA driver installed?)"
        raise DeviceUnavailable(f"{spec}: no such CUDA device; there are: {there}", device=str(spec))
    return chosen


def parse_entry(entry: str) -> DeviceSpec:
    """Read one entry of the list."""
    kind, _, rest = entry.partition(":")
    if entry == "cuda":
        return CudaSpec()
    if kind == "cuda":
        return CudaSpec(parse_integer(rest, 0, MAX_INDEX, entry))
    if kind == "sim":
        return parse_simulated(rest, entry)
    raise malformed(entry, "`cuda`, `cuda:INDEX` or `sim:SIZE`; or `auto` or `none` alone")


def parse_simulated(text: str, entry: str) -> SimulatedSpec:
    """Read what follows `sim:`."""
    sizes, *options = text.split(":")
    size, at, rate = sizes.partition("@")
    if at and not rate.endswith("/s"):
        raise malformed(entry, f"a size per second such as 12GiB/s, not {rate!r}")
    capacity = parse_size(size, entry)
    bandwidth = parse_size(rate.removesuffix("/s"), entry) if at else None
    numbers = parse_options(options, entry)
    others = numbers.pop(OTHERS, 0)
    if others > capacity:
        raise malformed(entry, f"{OTHERS}=SIZE of no more than the device has")
    return SimulatedSpec(capacity, bandwidth, Faults(**numbers), others)


def parse_options(options: list[str], entry: str) -> dict[str, int]:
    """Read `name=N` options and `others=SIZE`, in any order; a size as bytes."""
    numbers: dict[str, int] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in (*FAULTS, OTHERS) or name in numbers:
            forms = ", ".join([*(f"{fault}=N" for fault in FAULTS), f"{OTHERS}=SIZE"])
            raise malformed(entry, f"{forms}, each at most once, not {option!r}")
        numbers[name] = parse_size(value, entry) if name == OTHERS else parse_integer(value, 1, MAX_COUNT, entry)
    return numbers


def parse_integer(text: str, least: int, most: int, entry: str) -> int:
    """Read a decimal integer in a range, both ends included."""
    number = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1
    if not least <= number <= most:
        raise malformed(entry, f"an integer from {least} to {most}, not {text!r}")
    return number


def parse_size(text: str, entry: str) -> int:
    """Read a size as bytes."""
    size = read_size(text)
    if size is None:
        raise malformed(entry, f"a size such as 8GiB ({SIZE_UNITS}), not {text!r}")
    return size


def read_size(text: str) -> int | None:
    """Read a size as bytes; None for what is none."""
    match = re.fullmatch(r"([0-9]{1,19})(B|KiB|MiB|GiB|TiB)", text)
    size = int(match[1]) * UNITS[match[2]] if match else 0
    return size if 1 <= size <= MAX_SIZE else None


def format_size(nbytes: int) -> str:
    """Write a size in the largest unit that divides it."""
    unit = next(unit for unit, size in UNITS.items() if nbytes % size == 0)
    return f"{nbytes // UNITS[unit]}{unit}"


def malformed(entry: str, expected: str, *, param: str = PARAM) -> InvalidValue:
    """Make the error for an entry of the setting `param`; long ones are cut."""
    shown = entry if len(entry) <= 100 else entry[:100] + "…"
    return InvalidValue(f"{param}: {shown!r}: expected {expected}", param=param)
