"""Whether another process may have our memory, and what becomes of it when one of the two lets go, dies or writes.

In two ways: *legacy* is a handle of one cudaMalloc (cudaIpcGetMemHandle), *mapped* a descriptor of memory that is made
and mapped apart (cuMemCreate, cuMemExportToShareableHandle), which can be lent read-only. Owner and borrower are
processes of their own, told what to do line by line; a fault of theirs, or a driver that hangs, costs this one nothing.

The driver's own functions are called by ctypes: CuPy does not have them. Their numbers and layouts are from <cuda.h>.
"""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from benchmarks.gpu_probe import Probe

MIB: Final = 1 << 20
SLAB: Final = 512 * MIB  # a multiple of the 2 MiB in which memory is mapped
PATTERN: Final = 7
KINDS: Final = ("legacy", "mapped")
HANDLE_BYTES: Final = 64  # CUDA_IPC_HANDLE_SIZE
PATIENCE_SECONDS: Final = 60.0
PINNED, BY_DESCRIPTOR, ON_DEVICE, READ, READ_WRITE = 1, 1, 1, 1, 3
SIZE: Final = ctypes.c_size_t(SLAB)
NOTHING: Final = ctypes.c_ulonglong(0)


class Location(ctypes.Structure):
    """CUmemLocation."""

    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class Properties(ctypes.Structure):
    """CUmemAllocationProp; what follows the handle of Windows is all zero."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("handle_types", ctypes.c_int),
        ("location", Location),
        ("windows", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("location", Location), ("flags", ctypes.c_int))


class Party:
    """An owner or a borrower. Each method is a line of its standard input, and what it returns the answer."""

    def __init__(self, index: int, other: socket.socket) -> None:
        from cupy.cuda import Device, Memory, runtime  # noqa: PLC0415 - the parent does without, to say there is none

        self.index = index
        self.other = other
        self.runtime: Any = runtime
        self.malloc: Any = Memory
        self.memory: Any = None
        self.handle = ctypes.c_ulonglong()
        self.pointer = 0
        Device(index).use()
        runtime.free(0)  # makes the context, which is not to be timed

    def ready(self) -> str:
        """Once there is a context."""
        return "yes"

    def make_legacy(self) -> str:
        """Allocate, and hand the handle over."""
        self.memory = self.malloc(SLAB)
        self.pointer = self.memory.ptr
        self._fill()
        self.other.sendall(self.runtime.ipcGetMemHandle(self.pointer))
        return "yes"

    def take_legacy(self) -> str:
        """Open what was handed over."""
        self.pointer = self.runtime.ipcOpenMemHandle(self.other.recv(HANDLE_BYTES, socket.MSG_WAITALL))
        return self.read()

    def free_legacy(self) -> str:
        """The owner gives it back."""
        self.memory = None  # the only reference: cudaFree
        return "yes"

    def leave_legacy(self) -> str:
        """The borrower does."""
        self.runtime.ipcCloseMemHandle(self.pointer)
        return "yes"

    def make_mapped(self) -> str:
        """Make memory that can be shared, map it, and hand its descriptor over."""
        properties = Properties(PINNED, BY_DESCRIPTOR, Location(ON_DEVICE, self.index))
        driver("cuMemCreate", ctypes.byref(self.handle), SIZE, ctypes.byref(properties), NOTHING)
        self._map(READ_WRITE)
        self._fill()
        descriptor = ctypes.c_int()
        driver("cuMemExportToShareableHandle", ctypes.byref(descriptor), self.handle, BY_DESCRIPTOR, NOTHING)
        socket.send_fds(self.other, [b"."], [descriptor.value])
        os.close(descriptor.value)
        return "yes"

    def take_mapped(self) -> str:
        """Map what was handed over, to be read only."""
        _, (descriptor,), _, _ = socket.recv_fds(self.other, 1, 1)
        system_handle = ctypes.c_void_p(descriptor)
        driver("cuMemImportFromShareableHandle", ctypes.byref(self.handle), system_handle, BY_DESCRIPTOR)
        os.close(descriptor)
        self._map(READ)
        return self.read()

    def free_mapped(self) -> str:
        """Unmap it, and let go of it; whoever else maps it has it still."""
        driver("cuMemUnmap", ctypes.c_ulonglong(self.pointer), SIZE)
        driver("cuMemAddressFree", ctypes.c_ulonglong(self.pointer), SIZE)
        driver("cuMemRelease", self.handle)
        return "yes"

    leave_mapped = free_mapped

    def read(self) -> str:
        """Whether the last mebibyte is what the owner wrote."""
        target = ctypes.create_string_buffer(MIB)
        kind = self.runtime.memcpyDeviceToHost
        self.runtime.memcpy(ctypes.addressof(target), self.pointer + SLAB - MIB, MIB, kind)
        return "reads it" if target.raw == bytes([PATTERN]) * MIB else "reads something else"

    def write(self) -> str:
        """Write what is there already, or try to."""
        self._fill()
        return "may write"

    def _fill(self) -> None:
        self.runtime.memset(self.pointer, PATTERN, SLAB)
        self.runtime.deviceSynchronize()

    def _map(self, access: int) -> None:
        address, wanted = ctypes.c_ulonglong(), Access(Location(ON_DEVICE, self.index), access)
        driver("cuMemAddressReserve", ctypes.byref(address), SIZE, ctypes.c_size_t(0), NOTHING, NOTHING)
        driver("cuMemMap", address, SIZE, ctypes.c_size_t(0), self.handle, NOTHING)
        driver("cuMemSetAccess", address, SIZE, ctypes.byref(wanted), ctypes.c_size_t(1))
        self.pointer = address.value


def driver(name: str, *arguments: Any) -> None:
    """Call a function of the driver; OSError with its number where it refuses."""
    status = getattr(ctypes.CDLL("libcuda.so.1"), name)(*arguments)
    if status:
        raise OSError(f"{name}: CUDA error {status}")


class Process:
    """A party from outside. What takes longer than PATIENCE_SECONDS ends it, and is an answer, too."""

    def __init__(self, index: int, end: socket.socket) -> None:
        command = [sys.executable, "-m", "benchmarks._gpu_lending", str(index), str(end.fileno())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[end.fileno()]
        )
        self._patience = threading.Timer(PATIENCE_SECONDS, self._process.kill)
        self._patience.start()

    def ask(self, what: str) -> str:
        """Have something done; what came of it."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("made with pipes")
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
        return self._process.stdout.readline().strip() or "its process is gone"

    def kill(self) -> None:
        """SIGKILL, and wait. Idempotent."""
        self._patience.cancel()
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


@contextlib.contextmanager
def parties(index: int) -> Iterator[tuple[Process, Process]]:
    """An owner and a borrower, with contexts, and a socket between them."""
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.ExitStack() as ending:
        owner = Process(index, ours)
        ending.callback(owner.kill)
        borrower = Process(index, theirs)
        ending.callback(borrower.kill)
        for party in (owner, borrower):
            party.ask("ready")
        yield owner, borrower


def probe_lending(probe: "Probe") -> None:
    """For both ways: whether it works here at all, and how it ends."""
    for kind in KINDS:
        with parties(probe.index) as (owner, borrower):
            made, made_seconds = timed(owner, f"make_{kind}")
            if made != "yes":
                probe.say(f"{kind} lending", made)
                continue
            taken, taken_seconds = timed(borrower, f"take_{kind}")
            times = f"made in {made_seconds * 1e3:.1f} ms, taken in {taken_seconds * 1e3:.1f} ms"
            probe.say(f"{kind} lending", f"borrower {taken}; {times}")
            if taken.startswith("reads"):
                probe.say(f"{kind} memory that its owner frees", freed(probe, kind, owner, borrower))
                for question in ("its owner is killed", "its borrower writes"):
                    probe.say(f"{kind} memory when {question}", ended(probe, kind, question))


def timed(party: Process, what: str) -> tuple[str, float]:
    """An answer, and how many seconds it took."""
    began = time.perf_counter()
    return party.ask(what), time.perf_counter() - began


def freed(probe: "Probe", kind: str, owner: Process, borrower: Process) -> str:
    """What the borrower reads afterwards, and when the device has its bytes back."""
    free = [probe.cuda.runtime.memGetInfo()[0]]
    answers = []
    for party, what in ((owner, f"free_{kind}"), (borrower, "read"), (borrower, f"leave_{kind}")):
        answers.append(party.ask(what))
        free.append(probe.cuda.runtime.memGetInfo()[0])
    at_once, in_the_end = (free[1] - free[0]) // MIB, (free[3] - free[0]) // MIB
    back = f"{at_once} MiB of {SLAB // MIB} free at once, {in_the_end} once the borrower has let go"
    return f"{answers[0]}; then the borrower: {answers[1]}; {back}"


def ended(probe: "Probe", kind: str, question: str) -> str:
    """What becomes of a borrower then, between two processes of its own."""
    with parties(probe.index) as (owner, borrower):
        owner.ask(f"make_{kind}")
        borrower.ask(f"take_{kind}")
        if question == "its borrower writes":
            return f"borrower: {borrower.ask('write')}; owner: {owner.ask('read')}"
        owner.kill()
        return f"borrower: {borrower.ask('read')}"


def main() -> None:
    """Be a party, until nobody asks any more."""
    index, end = map(int, sys.argv[1:])
    other = socket.socket(fileno=end)
    other.settimeout(PATIENCE_SECONDS)
    party: Party | None = None
    for line in sys.stdin:
        try:
            party = party or Party(index, other)
            answer = getattr(party, line.strip())()
        except (RuntimeError, OSError, ValueError) as error:  # CuPy's errors are RuntimeErrors
            answer = f"refused: {error}"
        print(answer.replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
