"""Every route there is, by everybody who may come: nobody without a key, a reader, an administrator."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from app.config import Settings
from app.main import create_app
from tests.api.server import answer, refusal, serving

READER, ADMIN, STRANGER = "reader-" + "r" * 16, "admin-" + "a" * 16, "stranger-" + "s" * 16
KEYS = f"grafana:read:{READER},ops:admin:{ADMIN}"

NEEDED = {
    "GET /": "open",
    "GET /healthz": "open",
    "HEAD /healthz": "open",
    "GET /readyz": "open",
    "HEAD /readyz": "open",
    "GET /static/swagger-ui/swagger-ui.css": "open",
    "HEAD /static/swagger-ui/swagger-ui.css": "open",
    "GET /docs": "read",
    "GET /metrics": "read",
    "GET /openapi.json": "read",
    "HEAD /openapi.json": "read",
    "GET /v1/devices": "read",
    "GET /v1/events": "read",
    "GET /v1/jobs": "read",
    "GET /v1/jobs/{id}": "read",
    "GET /v1/jobs/{id}/events": "read",
    "GET /v1/memory": "read",
    "GET /v1/models": "read",
    "GET /v1/models/{id}": "read",
    "GET /v1/models/{id}/layers": "read",
    "GET /v1/models/{id}/memory": "read",
    "GET /v1/models/{id}/metadata": "read",
    "GET /v1/models/{id}/statistics": "read",
    "GET /v1/models/{id}/tensors": "read",
    "GET /v1/models/{id}/tensors/{name}/data": "read",
    "GET /v1/models/{id}/vocabulary": "read",
    "POST /v1/models/{id}/detokenize": "read",
    "POST /v1/models/{id}/plan": "read",
    "POST /v1/models/{id}/tokenize": "read",
    "HEAD /": "open",
    "GET /api/version": "read",
    "HEAD /api/version": "read",
    "GET /api/tags": "read",
    "HEAD /api/tags": "read",
    "GET /api/ps": "read",
    "POST /api/show": "read",
    "GET /v2": "read",
    "GET /v2/health/live": "read",
    "GET /v2/health/ready": "read",
    "GET /v2/models/stats": "read",
    "GET /v2/models/{model}": "read",
    "GET /v2/models/{model}/versions/{version}": "read",
    "GET /v2/models/{model}/ready": "read",
    "GET /v2/models/{model}/versions/{version}/ready": "read",
    "GET /v2/models/{model}/config": "read",
    "GET /v2/models/{model}/versions/{version}/config": "read",
    "GET /v2/models/{model}/stats": "read",
    "GET /v2/models/{model}/versions/{version}/stats": "read",
    "POST /v2/repository/index": "read",
    "POST /api/generate": "admin",
    "POST /v2/repository/models/{model}/load": "admin",
    "POST /v2/repository/models/{model}/unload": "admin",
    "DELETE /v1/jobs/{id}": "admin",
    "PATCH /v1/models/{id}/offload": "admin",
    "POST /v1/models/rescan": "admin",
    "POST /v1/models/{id}/load": "admin",
    "POST /v1/models/{id}/touch": "admin",
    "POST /v1/models/{id}/unload": "admin",
    "POST /v1/models/{id}/verify": "admin",
}

KNOCKS = {
    "no key": {},
    "a wrong key": {"X-Api-Key": STRANGER},
    "a wrong token": {"Authorization": f"Bearer {STRANGER}"},
    "no token": {"Authorization": "Bearer"},
    "an empty key": {"X-Api-Key": ""},
    "a key with more to it": {"X-Api-Key": ADMIN + "a"},
    "a part of a key": {"X-Api-Key": ADMIN[:-1]},
    "a name for a key": {"X-Api-Key": "ops"},
    "a whole entry": {"X-Api-Key": f"ops:admin:{ADMIN}"},
    "a key as a password": {"Authorization": f"Basic {ADMIN}"},
    "a key that is no text": {"X-Api-Key": "é"},
    "a wrong token beside a key": {"Authorization": f"Bearer {STRANGER}", "X-Api-Key": ADMIN},
}
PASSES: dict[str, Callable[[str], dict[str, str]]] = {
    "a token": lambda key: {"Authorization": f"Bearer {key}"},
    "a key": lambda key: {"X-Api-Key": key},
    "a token in other letters": lambda key: {"authorization": f"bEARER  {key}"},
    "a key beside a proxy's own": lambda key: {"Authorization": "Basic b3BzOng=", "X-Api-Key": key},
}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with a reader's key and an administrator's."""
    with serving(tmp_path_factory.mktemp("locked"), devices="none", api_keys=KEYS) as client:
        yield client


def status(client: httpx.Client, route: str, **headers: str) -> int:
    """The status of a call of this route, whose body may never end."""
    method, _, path = route.partition(" ")
    with client.stream(method, re.sub(r"{\w+}", "nobody", path), headers=headers) as response:
        return response.status_code


def test_every_route_has_its_row(tmp_path: Path) -> None:
    """A new route must say here who may call it; what is mounted is files, of which one stands for all."""
    service = create_app(Settings(models_dir=(tmp_path,), state_dir=tmp_path, devices="none"))
    routes = {
        re.sub(r":\w+}", "}", f"{method} {route.path}")
        for route in iter_route_contexts(service.routes)
        for method in route.methods or ()
    }
    mounts = [route.path for route in iter_route_contexts(service.routes) if not route.methods]

    assert mounts == ["/static"]
    assert routes == {route for route in NEEDED if " /static/" not in route}


@pytest.mark.parametrize("route", NEEDED)
def test_a_route_is_for_those_it_is_for(locked: httpx.Client, route: str) -> None:
    """401 without a key and with a wrong one, 403 for a role that is not enough, else whatever the route says."""
    found = {
        "nobody": status(locked, route),
        "stranger": status(locked, route, **{"X-Api-Key": STRANGER}),
        "reader": status(locked, route, **{"X-Api-Key": READER}),
        "admin": status(locked, route, **{"X-Api-Key": ADMIN}),
    }
    refused = {who: code for who, code in found.items() if code in (401, 403)}

    assert (
        refused
        == {
            "open": {},
            "read": {"nobody": 401, "stranger": 401},
            "admin": {"nobody": 401, "stranger": 401, "reader": 403},
        }[NEEDED[route]]
    )


@pytest.mark.parametrize("headers", KNOCKS.values(), ids=KNOCKS)
def test_whoever_shows_no_key_of_ours_stays_outside(locked: httpx.Client, headers: dict[str, str]) -> None:
    """401 in the error shape, and the scheme that would be listened to."""
    response = locked.get("/v1/memory", headers=[(name.encode(), value.encode()) for name, value in headers.items()])

    assert refusal(response, 401)["type"] == "authentication_error"
    assert response.headers["www-authenticate"].startswith('Bearer realm="loadmaster"')


@pytest.mark.parametrize("shown", PASSES.values(), ids=PASSES)
def test_a_key_is_shown_in_either_header(locked: httpx.Client, shown: Callable[[str], dict[str, str]]) -> None:
    """As a Bearer token or as X-Api-Key; of each call, not of a connection."""
    answer(locked.get("/v1/memory", headers=shown(READER)))
    refusal(locked.get("/v1/memory"), 401)


def test_a_key_in_the_address_is_none(locked: httpx.Client) -> None:
    """Addresses are written to logs."""
    for name in ("api_key", "key", "token", "access_token"):
        refusal(locked.get("/v1/memory", params={name: ADMIN}), 401)


def test_who_may_not_is_told_which_role_may(locked: httpx.Client) -> None:
    """By the key's name, never by the key."""
    error = refusal(locked.post("/v1/models/a/load", headers={"X-Api-Key": READER}), 403)

    assert error["message"] == "POST /v1/models/a/load needs the role admin, and grafana has read"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope"),
        ("GET", "/healthz/"),
        ("GET", "/HEALTHZ"),
        ("GET", "/healthz/../v1/memory"),
        ("GET", "/static"),
        ("GET", "/v1/memory/"),
        ("GET", "/v1/models/x%2f..%2f..%2fhealthz"),
        ("GET", "/v1/models/static/x"),
        ("OPTIONS", "/v1/memory"),
        ("POST", "/healthz"),
        ("POST", "/static/x"),
        ("TRACE", "/"),
        ("BREW", "/"),
    ],
)
def test_what_is_no_route_is_closed_as_well(locked: httpx.Client, method: str, path: str) -> None:
    """A stranger does not even learn what there is."""
    assert status(locked, f"{method} {path}") in (401, 400)


@pytest.mark.parametrize("path", ["/static/%2e%2e/v1/memory", "/static/..%2f..%2fconfig.py", "/static/nope"])
def test_the_open_files_lead_nowhere_else(locked: httpx.Client, path: str) -> None:
    """Behind /static/ there are its own files only."""
    assert status(locked, f"GET {path}") == 404


def test_a_role_is_by_the_route_and_not_by_the_name(locked: httpx.Client) -> None:
    """A model that is named like what a reader may post is loaded by no reader."""
    reader = {"X-Api-Key": READER}

    for path in ("/v1/models/a/plan/load", "/v1/models/plan/unload", "/v1/models/plan", "/v1/models//plan/"):
        assert locked.post(path, headers=reader).status_code == 403
    assert locked.post("/v1/models/a/load/plan", headers=reader).status_code == 404


def test_openapi_says_who_may(locked: httpx.Client, client: httpx.Client) -> None:
    """The role and both schemes for every route that needs a key, nothing for those that are open or have no lock."""
    document = answer(locked.get("/openapi.json", headers={"X-Api-Key": READER}))
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }

    assert {name: operation.get("x-role", "open") for name, operation in operations.items()} == {
        name: NEEDED[name] for name in operations
    }
    for name, operation in operations.items():
        assert [*operation.get("security", ())] == ([] if NEEDED[name] == "open" else [{"bearer": []}, {"key": []}])
    assert {scheme["type"] for scheme in document["components"]["securitySchemes"].values()} == {"http", "apiKey"}
    assert "securitySchemes" not in answer(client.get("/openapi.json"))["components"]
