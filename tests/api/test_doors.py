"""Who may call: a page of somebody else's, in the user's browser, may not."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from app.cli.connections import MAX_HEAD_BYTES, BoundedProtocol
from app.config import Settings
from app.main import MAX_BODY_BYTES
from app.residency.events import MAX_LISTENERS
from app.residency.orders import MAX_JOBS
from tests.api.server import DEMO, answer, refusal, serving

KEY = "0123456789abcdef"


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

    with pytest.raises(ValidationError, match="LOADMASTER_API_KEY is what a client sends"):
        Settings(models_dir=(tmp_path,))


def test_what_is_the_client_s_is_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may run in one shell; its key means something only where there are keys."""
    monkeypatch.setenv("LOADMASTER_URL", "http://127.0.0.1:8288")
    Settings(models_dir=(tmp_path,))

    monkeypatch.setenv("LOADMASTER_API_KEY", KEY)
    Settings(models_dir=(tmp_path,), api_keys=f"me:admin:{KEY}")  # type: ignore[arg-type]


BOARD = "https://board.example"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that pages of two other origins may call, with a key, and by two names."""
    origins = f"{BOARD.upper()}, http://10.0.0.1:3000"
    directory = tmp_path_factory.mktemp("named")
    hosts, keys = "models.example,fd00::1", f"me:admin:{KEY}"
    with serving(directory, devices="none", cors_origins=origins, allowed_hosts=hosts, api_keys=keys) as client:
        yield client


def test_pages_of_others_may_read_nothing_unless_they_are_named(client: httpx.Client, named: httpx.Client) -> None:
    """Without a named origin there is no word of CORS; with one, it is for that one alone."""
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    for response in (client.get("/v1/models", headers=asked), client.options("/v1/models", headers=asked)):
        assert [name for name in response.headers if name.startswith("access-control-")] == []
    refused = named.options("/v1/models", headers=asked)
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


def test_a_page_that_is_named_may_call_with_its_key(named: httpx.Client) -> None:
    """The browser asks beforehand, without the key; the call itself needs one, and may change something."""
    preflight = named.options(
        "/v1/models/x/offload",
        headers={
            "Origin": BOARD,
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "authorization,content-type,if-match,last-event-id",
        },
    )
    refused = named.post("/v1/models/rescan", headers={"Origin": BOARD})
    done = named.post("/v1/models/rescan", headers={"Origin": BOARD, "Authorization": f"Bearer {KEY}"})

    assert (preflight.status_code, refused.status_code, done.status_code) == (200, 401, 200)
    for response in (preflight, refused, done):
        assert response.headers["access-control-allow-origin"] == BOARD
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("host", ["models.example", "MODELS.example:8288", "[fd00::1]", "[fd00::1]:8288"])
def test_a_name_that_was_added_is_ours(named: httpx.Client, host: str) -> None:
    """An IPv6 address is written without brackets in the setting, and with them in a call."""
    answer(named.get("/v1/models", headers={"Host": host, "X-Api-Key": KEY}))


@pytest.mark.parametrize("origin", ["*", "null", "board.example", "https://board.example/", "https://*.example", "a b"])
def test_what_is_no_origin_is_refused(tmp_path: Path, origin: str) -> None:
    """Every page there is, above all."""
    with pytest.raises(ValidationError, match="expected an origin such as"):
        Settings(models_dir=(tmp_path,), cors_origins=origin)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/v1/memory", "/metrics", "/docs", "/nope", "/v1/jobs/nope", "/healthz"])
def test_every_answer_keeps_a_browser_in_bounds(client: httpx.Client, path: str) -> None:
    """It runs our own scripts only, in nobody's frame, guesses no types, and keeps nothing that has no ETag."""
    headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))

    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"].endswith(("no-store", "no-cache"))


def test_a_file_is_kept_if_it_is_asked_about(client: httpx.Client) -> None:
    """It has an ETag, and is sent once."""
    first = client.get("/static/swagger-ui/swagger-ui.css")
    again = client.get("/static/swagger-ui/swagger-ui.css", headers={"If-None-Match": first.headers["etag"]})

    assert (first.status_code, again.status_code) == (200, 304)
    assert first.headers["cache-control"] == again.headers["cache-control"]
    assert first.headers["cache-control"].endswith("no-cache")


def test_no_script_stands_in_a_page(client: httpx.Client) -> None:
    """The policy would not run it, and no style in an attribute either."""
    page = client.get("/docs").text

    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page) == []


def test_the_documentation_works_offline(client: httpx.Client) -> None:
    """Every script and style of /docs comes from here."""
    page = client.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert sources
    for source in sources:
        assert source.startswith("/static/")
        assert client.get(source).status_code == 200


def test_the_limits_are_those_that_the_page_says() -> None:
    """docs/security.md has every one of them."""
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")

    for sentence in (
        f"a body of more than {MAX_BODY_BYTES >> 20} MiB",
        f"more than {MAX_HEAD_BYTES >> 10} KiB around a body",
        f"not whole after {BoundedProtocol.seconds:g} seconds",
        f"more than {BoundedProtocol.most} connections",
        f"more than {MAX_LISTENERS} readers",
        f"while {MAX_JOBS} jobs have not ended",
    ):
        assert sentence in page
