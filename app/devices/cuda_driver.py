"""What CuPy does not tell of CUDA: what the numbers of `cudaError_t` mean here, and a device's whole UUID."""

import ctypes
from typing import Final
from uuid import UUID

MEMORY_ALLOCATION: Final = 2
INSUFFICIENT_DRIVER: Final = 35  # also where there is no driver at all
NO_DEVICE: Final = 100

STICKY: Final = frozenset({
    226,  # contained
    700,  # illegal address
    702,  # launch timeout
    710,  # assert
    714,  # hardware stack error
    715,  # illegal instruction
    716,  # misaligned address
    717,  # invalid address space
    718,  # invalid program counter
    719,  # launch failure
    721,  # tensor memory leak
    810,  # MPS client terminated
    911,  # external device
    214,  # ECC uncorrectable
    220,  # NVLink uncorrectable
    709,  # context is destroyed
    999,  # unknown
})  # fmt: skip
"""Errors that lose a device: nothing works on it any more in this process, and what was allocated is gone.

Of all up to 911 NVIDIA says so: "To continue using CUDA, the process must be terminated and relaunched" (CUDA Runtime
API, "Data types used by CUDA Runtime", enum cudaError). Of the last four it does not, but the first two damage memory,
the third is the end of all of it, and of what the fourth has done nobody knows: no such bytes are to be served. Not
among them is 46, devices unavailable, which is said of "the current time".
"""


def device_uuid(index: int) -> str | None:
    """Ask the driver itself: CuPy's properties cut a UUID off at its first zero byte. None where it has none.

    The runtime is built upon the driver, and has its device numbers from there: those that CUDA_VISIBLE_DEVICES leaves,
    in CUDA_DEVICE_ORDER. Of a MIG slice `cuDeviceGetUuid_v2` tells the slice's own UUID, the first version the GPU's.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, whole, own = ctypes.c_int(), (ctypes.c_ubyte * 16)(), (ctypes.c_ubyte * 16)()
    if driver.cuDeviceGet(ctypes.byref(device), index):
        return None
    if driver.cuDeviceGetUuid(whole, device) or driver.cuDeviceGetUuid_v2(own, device):
        return None
    kind = "GPU" if bytes(own) == bytes(whole) else "MIG"
    return f"{kind}-{UUID(bytes=bytes(own))}"
