"""Below each prefix one error shape, whoever refuses: a route, the router, a limit, or a door."""

from pathlib import Path

import httpx
import ollama
import pytest

from tests.api.server import DEMO_ID, answer, refusal, serving

DIALECTS = ["/api/generate", "/api/show", "/v2/repository/index", "/v2/repository/models/org/tiny/load"]
NATIVE = ["/v1/models/org/tiny/load", "/v1/models/rescan", "/apiary", "/v2x", "/"]


def sentence(response: httpx.Response, status: int) -> str:
    """The error of an answer that must have this status and the shape of Ollama and Triton."""
    found = answer(response, status)
    assert list(found) == ["error"]
    assert isinstance(found["error"], str)
    assert found["error"]
    return found["error"]


@pytest.mark.parametrize("path", DIALECTS)
def test_a_dialect_has_its_own_shape(client: httpx.Client, path: str) -> None:
    """404, 405 with Allow, 413, 400 and the doors' 403."""
    assert "Not Found" in sentence(client.get(f"{path.split('/')[1]}/nope"), 404)
    wrong_method = client.put(path)
    assert "Method Not Allowed" in sentence(wrong_method, 405)
    assert "POST" in wrong_method.headers["allow"]
    assert "larger than" in sentence(client.post(path, content=b" " * (2 << 20)), 413)
    for content in (b"{", b'{"model": NaN}', b"\xff", b"[" * 200_000):
        assert "not JSON" in sentence(client.post(path, content=content), 400)
    for content in (b"[]", b"1", b'"x"'):
        assert sentence(client.post(path, content=content), 422)
    assert "not called" in sentence(client.get(path, headers={"Host": "evil.example"}), 403)
    assert "pages of" in sentence(client.post(path, headers={"Origin": "https://evil.example"}), 403)


def test_so_have_keys(tmp_path: Path) -> None:
    """401 without one, 403 with one that is not enough; in the shape of the dialect; looks by POST are looks."""
    keys = "looks:read:a-key-that-may-look,works:admin:a-key-that-may-work"
    with serving(tmp_path, devices="none", api_keys=keys) as client:
        for path in DIALECTS:
            assert "key" in sentence(client.post(path), 401)
        reader = {"Authorization": "Bearer a-key-that-may-look"}
        for path in ("/api/generate", "/v2/repository/models/org/tiny/load"):
            assert "role admin" in sentence(client.post(path, headers=reader), 403)
        for path in ("/api/show", "/v2/repository/index"):
            assert client.post(path, json={"model": DEMO_ID}, headers=reader).status_code == 200

        api = ollama.Client(str(client.base_url), headers={"Authorization": "Bearer a-key-that-may-work"})
        with api:
            assert api.generate(DEMO_ID).done_reason == "load"
            assert api.generate(DEMO_ID, keep_alive=0).done_reason == "unload"


@pytest.mark.parametrize("path", NATIVE)
def test_whatever_is_no_dialect_has_ours(client: httpx.Client, path: str) -> None:
    """A path that only begins like one is not one."""
    refusal(client.post(path, headers={"Origin": "https://evil.example"}), 403)
    refusal(client.put(path), 404 if path in ("/apiary", "/v2x") else 405)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\0b", "a\nb", "x" * 10_000, ":latest", "."])
def test_a_name_is_looked_up_and_nothing_else(client: httpx.Client, name: str) -> None:
    """Traversal, NUL and 10 kB of anything: 404, with no more than 200 characters of it."""
    for path in ("/api/generate", "/api/show"):
        assert len(sentence(client.post(path, json={"model": name}), 404)) < 1000
