"""One service that most tests share, left unloaded and without a traceback in its log by each of them."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.api.server import serving, unload
from tests.gguf_builder import ARRAY, BOOL, F32, FLOAT32, FLOAT64, STRING, UINT64, build, llama_metadata, tiny_llama

ODD_NUMBERS = [
    ("odd.nan", FLOAT32, float("nan")),
    ("odd.infinity", FLOAT64, float("-inf")),
    ("odd.floats", ARRAY, (FLOAT32, [1.0, float("nan"), float("inf")])),
    ("odd.many_floats", ARRAY, (FLOAT64, [float("inf")] * 1000)),
    ("odd.uint64", UINT64, 2**64 - 1),
    ("odd.yes", BOOL, 1),
    ("odd.text", STRING, 'line\nbreak, "quotes" and \x00'),
]


@pytest.fixture(scope="session")
def built_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of small models of our own making, good and bad."""
    directory = tmp_path_factory.mktemp("models")
    (directory / "org").mkdir()
    (directory / "org" / "Tiny.gguf").write_bytes(tiny_llama())
    (directory / 'forged"\n} 1\n#.gguf').write_bytes(tiny_llama(n_layer=1))
    sizes = {"n_layer": 1, "n_embd": 64, "n_ff": 128, "n_head": 4, "n_head_kv": 4, "n_vocab": 96}
    odd = [*llama_metadata(**sizes), *ODD_NUMBERS]
    (directory / "odd.gguf").write_bytes(build(odd, [("empty", F32, (0,), b""), ("a/b", F32, (2,), bytes(8))]))
    (directory / "truncated.gguf").write_bytes(tiny_llama()[:1000])
    (directory / "other.gguf").write_bytes(b"no model at all")
    return directory


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, built_models: Path) -> Iterator[httpx.Client]:
    """The shared service: two fast devices of 64 MiB, the demo model and the built ones."""
    with serving(tmp_path_factory.mktemp("state"), models=(built_models,)) as client:
        yield client


@pytest.fixture
def client(service: httpx.Client) -> Iterator[httpx.Client]:
    """A client of the shared service, which has nothing loaded at the start, nor at the end."""
    yield service
    for model in service.get("/v1/models").json()["data"]:
        if model["generation"] is not None or model["job"]:
            unload(service, f"/v1/models/{quote(model['id'])}")


@pytest.fixture(autouse=True)
def _no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test sends, the service never fails by a fault of its own."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.exc_info] == []
