"""Reading back: tensors from where they are now, under a hold, piece by piece; long metadata from the file."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Final

from app.errors import NotFound
from app.gguf import Array
from app.gguf.arrays import Scalar
from app.model import Tensor
from app.placement import Placement
from app.residency.files import OpenFiles
from app.residency.registry import Entry
from app.residency.residents import Generation, Resident

CHUNK: Final = 4 << 20


class Reading:
    """One tensor of one generation, held until `close`: its slabs and files stay, whatever moves meanwhile."""

    def __init__(self, tensor: Tensor, generation: Generation, held: ExitStack) -> None:
        self.tensor = tensor
        self.generation = generation
        self._held = held

    @property
    def devices(self) -> tuple[str, ...]:
        """The ids of the devices that the bytes come from."""
        return tuple(self.generation.placement.tensor_devices(self.tensor))

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Copy the bytes `start` … `stop` of the tensor, at most CHUNK at a time; closes at the end."""
        try:
            for position in range(start, stop, CHUNK):
                nbytes = min(CHUNK, stop - position)
                yield await asyncio.to_thread(self.generation.read, self.tensor, position, nbytes)
        finally:
            self.close()

    def close(self) -> None:
        """Let go. Idempotent."""
        self._held.close()


async def open_generation(entry: Entry, resident: Resident | None) -> tuple[Generation, ExitStack]:
    """The model's current generation, held until the stack is closed; its files alone where it is not loaded.

    Raises FileChanged where those are not what was scanned.
    """
    held = ExitStack()
    if resident is not None:
        return held.enter_context(resident.hold()), held
    files = await asyncio.to_thread(OpenFiles, entry.id, entry.files)
    held.callback(files.close)
    return Generation(0, Placement("", 0, ()), (), files), held


async def read_metadata(entry: Entry, key: str) -> Scalar | list[Scalar]:
    """One metadata value, whole; a long array is read from the file again, which must be the one that was scanned.

    Raises NotFound, InvalidModel, FileChanged.
    """
    entry.require_model()
    value = entry.headers[0].metadata.get(key)
    if value is None:
        raise NotFound(f"{entry.id} has no metadata key {key[:200]!r}", param="key", model=entry.id)
    if not isinstance(value, Array):
        return value
    if value.complete:
        return value.tolist()
    return await asyncio.to_thread(_decode, entry, value)


def _decode(entry: Entry, array: Array) -> list[Scalar]:
    files = OpenFiles(entry.id, entry.files[:1])
    try:
        return array.decode(files.read(0, array.offset, array.nbytes))
    finally:
        files.close()
