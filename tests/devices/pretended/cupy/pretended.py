"""What the pretended devices have, what their streams still owe, and what is to fail. Sizes are in bytes."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from app.devices.mapping import Mapping

DEVICES: Final = 2
TOTAL_BYTES: Final = 1 << 30
CONTEXT_BYTES: Final = 300 << 20  # what the driver keeps
GRANULE: Final = 2 << 20  # what it rounds allocations up to

INVALID_VALUE, OUT_OF_MEMORY, INVALID_HANDLE, ILLEGAL_ADDRESS = 1, 2, 400, 700  # cudaError_t

thread: Final = threading.local()  # its `device` is the thread's current one
lock: Final = threading.RLock()  # guards what follows
faults: Final[dict[str, int]] = {}  # by call: which of the next ones fails (1 is the next), with INVALID_VALUE
broken: Final[dict[int, int]] = {}  # by device: the status that every call answers with from now on
allocations: Final[dict[int, tuple[int, Mapping]]] = {}  # by address: the device, and its memory
pinned: Final[dict[int, int]] = {}  # by address: the size
queues: Final[list["Queue"]] = []  # a stream's `ptr` is its place here, from 1


class CUDARuntimeError(RuntimeError):
    """A status that is not 0."""

    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError_t {status}")
        self.status = status


class Queue:
    """What a stream owes: work, and the addresses that it needs until it is done."""

    def __init__(self) -> None:
        self.device = current()
        self.owed: deque[tuple[Callable[[], object], tuple[int, ...]]] = deque()
        self.submitted = 0  # ever
        self.lock = threading.RLock()

    def submit(self, work: Callable[[], object], *addresses: int) -> None:
        """Do it when somebody waits."""
        with self.lock:
            self.owed.append((work, addresses))
            self.submitted += 1

    def work_off(self, first: int) -> None:
        """Do the first so many of all that was ever submitted."""
        with self.lock:
            while self.owed and self.submitted - len(self.owed) < first:
                self.owed.popleft()[0]()


def current() -> int:
    """The calling thread's device."""
    return getattr(thread, "device", 0)


def called(name: str) -> None:
    """Fail if it is time, or the current device is broken."""
    with lock:
        if current() in broken:
            raise CUDARuntimeError(broken[current()])
        if name in faults:
            faults[name] -= 1
            if not faults[name]:
                del faults[name]
                raise CUDARuntimeError(INVALID_VALUE)


def owed() -> int:
    """How much work is in flight."""
    return sum(len(queue.owed) for queue in queues)


def queue_of(stream: int) -> Queue:
    """The stream's queue; the stream must be of the current device, though CUDA itself would let copies pass."""
    if queues[stream - 1].device != current():
        raise CUDARuntimeError(INVALID_HANDLE)
    return queues[stream - 1]


def check_allocated(pointer: int, nbytes: int) -> None:
    """It must lie within one allocation of the current device."""
    with lock:
        ours = [memory for device, memory in allocations.values() if device == current()]
    if not any(one.address <= pointer and pointer + nbytes <= one.address + one.nbytes for one in ours):
        raise CUDARuntimeError(ILLEGAL_ADDRESS)


def check_idle(start: int, nbytes: int) -> None:
    """Nothing in flight may need this range."""
    for queue in queues:
        with queue.lock:
            if any(start <= address < start + nbytes for _, addresses in queue.owed for address in addresses):
                raise CUDARuntimeError(ILLEGAL_ADDRESS)
