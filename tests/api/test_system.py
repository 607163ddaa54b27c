"""The service about itself: OpenAPI, devices, memory, probes, metrics."""

import json
import re
from collections.abc import Iterator
from http import HTTPStatus

import httpx

from tests.api.server import DEMO, Json, answer

RESPONSES = {
    "GET /v1/models": "200 304 422",
    "GET /v1/models/{id}/tensors/{name}/data": "200 206 404 409 416 422 503",
    "POST /v1/models/{id}/plan": "200 400 404 413 422 503",
    "POST /v1/models/{id}/load": "200 202 400 404 409 413 422 429 503 507",
    "PATCH /v1/models/{id}/offload": "200 202 400 404 409 412 413 422 429 503 507",
    "POST /v1/models/{id}/unload": "200 202 400 404 409 413 422 503",
    "DELETE /v1/jobs/{id}": "200 202 404 422",
    "GET /v1/jobs/{id}/events": "200 404 422 429 503",
}
ANYWHERE = {"401", "403"}  # the doors stand before every route
FORGED = 'forged"\n} 1\n#'


def operations(client: httpx.Client) -> Iterator[tuple[str, Json]]:
    """Every operation that OpenAPI describes, by method and path."""
    for path, methods in answer(client.get("/openapi.json"))["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_error_that_a_route_may_answer_with_is_described(client: httpx.Client) -> None:
    """OpenAPI names the refusals of each route, with the error body of its prefix, and no other validation error."""
    document = answer(client.get("/openapi.json"))
    described = {name: operation["responses"] for name, operation in operations(client)}

    referred = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert document["openapi"].startswith("3.")
    assert referred == document["components"]["schemas"].keys()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for name, responses in described.items():
        for status, response in responses.items():
            if int(status) >= HTTPStatus.BAD_REQUEST and not name.endswith("/readyz"):
                schema = response["content"]["application/json"]["schema"]
                body = "ErrorText" if name.split("/")[1] in ("api", "v2") else "ErrorBody"
                assert schema == {"$ref": f"#/components/schemas/{body}"}, (name, status)
    for name, statuses in RESPONSES.items():
        assert sorted(described[name].keys() - ANYWHERE) == statuses.split(), name
        assert described[name].keys() >= ANYWHERE, name


def test_every_route_is_described_in_a_sentence(client: httpx.Client) -> None:
    """And its parameters are; bodies bring examples, which the service itself takes."""
    for name, operation in operations(client):
        assert operation["description"], name
        for parameter in operation.get("parameters", []):
            assert parameter.get("description") or parameter["in"] == "path", (name, parameter["name"])

    schemas = answer(client.get("/openapi.json"))["components"]["schemas"]
    for example in schemas["PlacementBody"]["examples"]:
        answer(client.post(f"{DEMO}/plan", json=example))
    assert schemas["WaitBody"]["examples"]


def test_the_documentation_is_served(client: httpx.Client) -> None:
    """The API can be read and tried in a browser."""
    assert "swagger-ui" in client.get("/docs").text


def test_the_dashboard_is_served_and_never_stale(client: httpx.Client) -> None:
    """A browser is shown the dashboard; what it keeps of it it asks about, and an ETag makes that cheap."""
    page = client.get("/")
    addresses = [address for _, address in re.findall(r'(src|href)="(static/[^"]+)"', page.text)]
    kept = {address: client.get(f"/{address}") for address in addresses}

    assert page.headers["content-type"].startswith("text/html")
    assert all("no-cache" in answered.headers["cache-control"] for answered in (page, *kept.values()))
    assert "static/dashboard/main.js" in kept
    for address, file in kept.items():
        again = client.get(f"/{address}", headers={"If-None-Match": file.headers["etag"]})
        assert (file.status_code, again.status_code) == (200, 304)


def test_devices_say_what_they_can_do(client: httpx.Client) -> None:
    """The accelerators in their order, then the host; simulated ones say that they are."""
    devices = answer(client.get("/v1/devices"))["data"]

    assert [(device["id"], device["kind"]) for device in devices] == [
        ("sim:0", "simulated"),
        ("sim:1", "simulated"),
        ("cpu", "host"),
    ]
    assert [device["limit_bytes"] for device in devices[:2]] == [64 << 20] * 2
    assert [device["others_bytes"] for device in devices] == [0, 0, None]
    assert devices[2]["limit_bytes"] == devices[2]["total_bytes"]
    assert "bytes_per_second" in devices[0]["capabilities"]


def test_probes_answer_get_and_head(client: httpx.Client) -> None:
    """Some probes ask by HEAD."""
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        assert answer(client.get(path)) == {"status": status}
        assert client.head(path).status_code == 200
