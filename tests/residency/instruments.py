"""A small model, and looks at files and at this process that go past the service."""

import os
from pathlib import Path

from tests.gguf_builder import tiny_llama

TINY = tiny_llama(n_layer=4, uneven=True, tied=False)


def descriptors() -> list[str]:
    """What this process has open, but for what others of it open and close by themselves."""
    names = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(fd.readlink()))
        except OSError:
            continue  # the descriptor of the directory itself
    return sorted(name for name in names if "loadmaster" in name or name.endswith(".gguf") or "wishes" in name)


def original(path: str, offset: int, nbytes: int) -> bytes:
    """A part of a file, as the file system has it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, nbytes, offset)
    finally:
        os.close(fd)
