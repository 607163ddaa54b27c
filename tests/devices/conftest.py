"""The file that devices copy from; and assertions in the contract explain themselves, as those of a test module do."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from tests.devices.instruments import SOURCE_BYTES, Source


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """A file of random bytes, open."""
    data = np.random.default_rng(1).bytes(SOURCE_BYTES)
    path = tmp_path_factory.mktemp("source") / "source"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    yield Source(fd, data)
    os.close(fd)
