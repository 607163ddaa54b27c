"""What a plan needs beside what llama.cpp printed for the same arguments: the shared fixtures are the judge."""

import pytest

from benchmarks.oracle import FIXTURES, Cell, Row, cells, planned, rows

pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the shared fixtures are not here")

MEMORY = rows("llamacpp-memory.json") if FIXTURES.is_dir() else []
CONTEXT = rows("llamacpp-context.json") if FIXTURES.is_dir() else []


def name(row: Row) -> str:
    """Name a row of the oracle by its model and its arguments."""
    return f"{row['model'].removesuffix('.gguf')} {' '.join(row['args'])} on {row['gpus']}"


def off(row: Row, *kinds: str) -> list[Cell]:
    """List the figures of these kinds that are not as near as they have to be."""
    return [cell for cell in cells(row, planned(row)) if cell.kind in kinds and not cell.agrees]


@pytest.mark.parametrize("row", MEMORY, ids=name)
def test_weights_and_context_are_llama_cpp_s(row: Row) -> None:
    """Within 1 MiB on every device and the host, placed by llama.cpp's own rules."""
    assert off(row, "model", "context") == []


@pytest.mark.parametrize("row", MEMORY, ids=name)
def test_compute_buffers_are_near(row: Row) -> None:
    """No less than 5 % and 8 MiB below llama.cpp's, no more than 100 % and 16 MiB above."""
    assert off(row, "compute") == []


@pytest.mark.parametrize("row", CONTEXT, ids=name)
def test_every_architecture_s_context_is_llama_cpp_s(row: Row) -> None:
    """63 architectures at contexts so long that a MiB shows the rule: windows, MLA, states, quantised rows."""
    assert off(row, "context") == []


def test_the_oracle_is_whole() -> None:
    """All rows were looked at, and every architecture of the fixtures is among them."""
    assert (len(MEMORY), len(CONTEXT)) == (73, 188)
    assert len({row["model"] for row in CONTEXT}) == 63
