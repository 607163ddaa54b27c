"""What is loaded: generations of a placement, and those who hold them.

A generation is one placement with its slabs, and never changes. Whoever touches bytes holds the generation that they
belong to; a switch replaces the current generation in one step and frees nothing that somebody holds. One small lock
guards the current generation and the holder counts, because readers are threads; nothing else is behind it, and
nothing slow is done under it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.devices import Buffer
from app.errors import NotLoaded
from app.model import Tensor
from app.placement import HostMode, Placement, Slab
from app.residency.files import OpenFiles
from app.residency.registry import Entry


@dataclass(frozen=True, slots=True, eq=False)
class LiveSlab:
    """A slab and the buffer that holds it."""

    slab: Slab
    buffer: Buffer

    @property
    def device(self) -> str:
        """The id of the device that the buffer is on."""
        return self.slab.device


@dataclass(slots=True, eq=False)
class Generation:
    """One placement as it is held in memory. Immutable but for `holders`, which the resident's lock guards."""

    number: int
    placement: Placement
    slabs: tuple[LiveSlab, ...]
    files: OpenFiles
    holders: int = field(default=0, repr=False)

    def read(self, tensor: Tensor, start: int, nbytes: int) -> bytes:
        """Copy `nbytes` of a tensor from `start`, from where they are: a slab's from its device, else the file's.

        Only while the generation is held. Blocks. Raises DeviceError or FileChanged.
        """
        stop = start + nbytes
        parts = []
        for offset, length, live, slab_offset in self.pieces(tensor):
            first, last = max(start, offset), min(stop, offset + length)
            if first >= last:
                continue
            if live is not None:
                parts.append(live.buffer.read(slab_offset + first - offset, last - first))
            else:
                parts.append(self.files.read(tensor.file, tensor.offset + first, last - first))
        return b"".join(parts)

    def pieces(self, tensor: Tensor) -> Iterator[tuple[int, int, LiveSlab | None, int]]:
        """The tensor cut by where it is: (start, nbytes, slab or None for the file, offset in the slab), in order."""
        held = sorted(
            (
                (part.start, part.nbytes, live, part.slab_offset)
                for live in self.slabs
                if live.slab.layer == tensor.layer
                for part in live.slab.own_slices
                if part.tensor.name == tensor.name
            ),
            key=lambda piece: piece[0],
        )
        position = 0
        for start, nbytes, live, slab_offset in held:
            if start > position:
                yield position, start - position, None, 0
            yield start, nbytes, live, slab_offset
            position = start + nbytes
        if position < tensor.nbytes:
            yield position, tensor.nbytes - position, None, 0


class Resident:
    """A loaded model. `drained` is called, from a reader's thread, with slabs that nobody can reach any more."""

    def __init__(
        self,
        entry: Entry,
        host: HostMode,
        first: Generation,
        drained: Callable[["Resident", tuple[LiveSlab, ...]], None],
    ) -> None:
        self.entry = entry
        self.host = host
        self.files = first.files
        self._drained = drained
        self._lock = threading.Lock()
        self._current: Generation | None = first
        self._former: list[Generation] = []
        self._holders = 0
        self._used_at = time.monotonic()

    @property
    def current(self) -> Generation:
        """The current generation, for display and decisions on the event loop; NotLoaded once it is closed."""
        current = self._current
        if current is None:
            raise NotLoaded(self.entry.id)
        return current

    @property
    def used_at(self) -> float:
        """When it was last used, by `time.monotonic`.

        That is now, to the second, while somebody holds any of its generations.
        """
        return max(self._used_at, float(int(time.monotonic()))) if self._holders else self._used_at

    @property
    def held(self) -> bool:
        """Whether somebody holds any of its generations."""
        return self._holders > 0

    def touch(self) -> None:
        """It is used now. From any thread."""
        self._used_at = time.monotonic()

    @contextmanager
    def hold(self) -> Iterator[Generation]:
        """Hold the current generation: its slabs and files stay until this ends, whatever is switched meanwhile.

        From any thread; does not block. Raises NotLoaded once the model is unloaded.
        """
        with self._lock:
            generation = self._current
            if generation is None:
                raise NotLoaded(self.entry.id)
            generation.holders += 1
            self._holders += 1
        try:
            yield generation
        finally:
            with self._lock:
                generation.holders -= 1
                self._holders -= 1
                self.touch()
                drained = self._collect()
                closed = self._closed()
            if drained or closed:
                self._drained(self, drained)

    def switch(self, generation: Generation | None) -> tuple[LiveSlab, ...]:
        """Make `generation` the current one (None: unload) and return the slabs that nobody holds any more."""
        with self._lock:
            if self._current is not None:
                self._former.append(self._current)
            self._current = generation
            return self._collect()

    @property
    def closable(self) -> bool:
        """Whether the model is unloaded and its last holder has left, so that its files may be closed."""
        with self._lock:
            return self._closed()

    def _closed(self) -> bool:
        return self._current is None and not self._former

    def _collect(self) -> tuple[LiveSlab, ...]:
        """Forget former generations that nobody holds; the slabs that no other generation has. Under the lock."""
        dead = [generation for generation in self._former if not generation.holders]
        if not dead:
            return ()
        self._former = [generation for generation in self._former if generation.holders]
        alive = {live for g in self._former for live in g.slabs}
        if self._current is not None:
            alive.update(self._current.slabs)
        return tuple({live: None for g in dead for live in g.slabs if live not in alive})
