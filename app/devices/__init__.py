"""Where bytes can live: host memory, CUDA devices, simulated devices. Has never heard of GGUF.

Read `base.py` first: the whole port is there. `host.py`, `simulated.py` and `cuda.py` are its three implementations;
one contract test class runs on all of them.
"""

from app.devices.base import Buffer, Device, DeviceKind, DeviceMemory, Meter, Segment
from app.devices.loss import Loss

__all__ = ["Buffer", "Device", "DeviceKind", "DeviceMemory", "Loss", "Meter", "Segment"]
