"""llama.cpp's own C code must judge headers and data as we do, where its library is.

It is part of llama-cpp-python, or GGML_LIBRARY names it: libggml-base, built from any llama.cpp of the year 2026.
"""

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from app.gguf import GGMLType, first_invalid_block
from app.gguf.blocks import block_bytes
from tests.gguf.cases import ACCEPTED_HERE, IMPOSTORS, LLAMA_CPP_ACCEPTS, LLAMA_CPP_REFUSES, REFUSED_HERE

# What we refuse and llama.cpp does not: names that no JSON could hold, and types that only newer ones than ours know.
STRICTER_HERE = {"key-not-utf8", "name-not-utf8", "Q2_0-is-too-new"}
REFUSED = {name: case.data for name, case in {**LLAMA_CPP_REFUSES, **REFUSED_HERE}.items() if name not in STRICTER_HERE}
REFUSED |= {name: data for name, (data, _) in IMPOSTORS.items()}
ACCEPTED = {**LLAMA_CPP_ACCEPTS, **ACCEPTED_HERE}


def library() -> str | None:
    """Find libggml-base."""
    spec = find_spec("llama_cpp")
    folder = Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
    return os.environ.get("GGML_LIBRARY") or next(map(str, folder.glob("libggml-base.*")), None)


pytestmark = pytest.mark.skipif(library() is None, reason="needs libggml-base: llama-cpp-python or GGML_LIBRARY")


class Params(ctypes.Structure):
    """`struct gguf_init_params`."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p)))


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    """The library, with its functions declared."""
    loaded = ctypes.CDLL(library())
    loaded.gguf_init_from_file.argtypes, loaded.gguf_init_from_file.restype = [ctypes.c_char_p, Params], ctypes.c_void_p
    loaded.gguf_free.argtypes, loaded.ggml_free.argtypes = [ctypes.c_void_p], [ctypes.c_void_p]
    loaded.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    loaded.ggml_validate_row_data.restype = ctypes.c_bool
    return loaded


def accepts(ggml: ctypes.CDLL, path: Path, *, with_data: bool) -> bool:
    """Whether llama.cpp reads a file: its header, or its data with it."""
    context = ctypes.c_void_p()
    header = ggml.gguf_init_from_file(
        bytes(path), Params(not with_data, ctypes.pointer(context) if with_data else None)
    )
    if header:
        ggml.gguf_free(header)
    if context:
        ggml.ggml_free(context)
    return bool(header)


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses_what_we_refuse(name: str, ggml: ctypes.CDLL, tmp_path: Path) -> None:
    """Every file that is refused here is refused there."""
    (tmp_path / "case.gguf").write_bytes(REFUSED[name])

    assert not accepts(ggml, tmp_path / "case.gguf", with_data=True)


@pytest.mark.parametrize("name", ACCEPTED)
def test_it_accepts_what_we_accept(name: str, ggml: ctypes.CDLL, tmp_path: Path) -> None:
    """Every header that is accepted here is accepted there."""
    (tmp_path / "case.gguf").write_bytes(ACCEPTED[name])

    assert accepts(ggml, tmp_path / "case.gguf", with_data=False)


@pytest.mark.parametrize("kind", GGMLType, ids=lambda kind: kind.name)
def test_it_calls_the_same_data_invalid(kind: GGMLType, ggml: ctypes.CDLL) -> None:
    """Of random bytes, and of zeros with a few bytes of damage, the first invalid block is the same."""
    rng, size = np.random.default_rng(int(kind)), block_bytes(kind)
    for trial in range(400):
        data = rng.integers(0, 256, size * int(rng.integers(1, 40)), dtype=np.uint8)
        if trial % 2:
            at = int(rng.integers(0, len(data)))
            damage = rng.choice([0xFF, 0x7F, 0x7C, 0xFC, 0xF0, 0x80, 0xC0, 0x70], len(data[at : at + 8]))
            data[:] = 0
            data[at : at + 8] = damage
        found = first_invalid_block(kind, data.tobytes())

        good = len(data) // size if found is None else found
        # llama.cpp says no more than whether all is valid: so it must be up to the block, and not with it.
        assert kind is GGMLType.Q8_1 or ggml.ggml_validate_row_data(kind, data.tobytes(), good * size)
        assert found is None or not ggml.ggml_validate_row_data(kind, data.tobytes(), (good + 1) * size)
