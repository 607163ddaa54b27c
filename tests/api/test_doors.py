"""Who may call: a page of somebody else's, in the user's browser, may not."""

import re
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from app.config import Settings
from tests.api.server import DEMO, answer, refusal


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8288", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
def test_a_name_that_is_not_ours_is_refused(client: httpx.Client, host: str) -> None:
    """As a rebound DNS name would be: the browser says whom it thinks it calls."""
    error = refusal(client.get("/v1/models", headers={"Host": host}), 403)

    assert (error["param"], error["type"]) == ("Host", "permission_error")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8288", "127.0.0.1:1", "[::1]:8288"])
def test_loopback_has_many_names(client: httpx.Client, host: str) -> None:
    """Whatever the port: a tunnel or a container may have another one."""
    answer(client.get("/v1/models", headers={"Host": host}))


def test_probes_are_let_in_by_any_name(client: httpx.Client) -> None:
    """A load balancer calls a pod by its address."""
    assert client.get("/healthz", headers={"Host": "10.0.0.1"}).status_code == 200


def test_pages_of_others_change_nothing(client: httpx.Client) -> None:
    """They may not load; our own page may, and whoever sends no Origin is no page."""
    error = refusal(client.post(f"{DEMO}/plan", json={}, headers={"Origin": "https://evil.example"}), 403)

    assert error["param"] == "Origin"
    answer(client.post(f"{DEMO}/plan", json={}, headers={"Origin": str(client.base_url).rstrip("/")}))
    answer(client.get("/v1/models", headers={"Origin": "https://evil.example"}))


def test_names_can_be_added(tmp_path: Path) -> None:
    """Comma-separated, in any case."""
    settings = Settings(models_dir=(tmp_path,), allowed_hosts="GPU-1.lan, models.example")  # type: ignore[arg-type]

    assert settings.allowed_hosts == ("gpu-1.lan", "models.example")


def test_a_setting_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt one, or one of another version, would leave open what its owner thinks is locked."""
    monkeypatch.setenv("LOADMASTER_API_KEY", "me:admin:secret")

    with pytest.raises(ValidationError, match="LOADMASTER_API_KEY: no such setting"):
        Settings(models_dir=(tmp_path,))


def test_the_documentation_works_offline(client: httpx.Client) -> None:
    """Every script and style of /docs comes from here."""
    page = client.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert sources
    for source in sources:
        assert source.startswith("/static/")
        assert client.get(source).status_code == 200
