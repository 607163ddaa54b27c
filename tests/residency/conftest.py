"""A place with models, and a look at what every test leaves open."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.residency.instruments import TINY, descriptors


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """No test leaves a model file, a memory file or the wishes open."""
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with `models/tiny.gguf`; the state comes beside it."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "tiny.gguf").write_bytes(TINY)
    return tmp_path
