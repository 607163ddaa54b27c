"""The service about itself: OpenAPI, devices, memory, probes, metrics."""

import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import quote

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.api.server import DEMO, DEMO_ID, Json, answer, load

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


def labelled(client: httpx.Client, name: str) -> list[tuple[dict[str, str], float]]:
    """One metric's samples with their labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return [(sample.labels, sample.value) for f in families for sample in f.samples if sample.name == name]


def test_every_error_that_a_route_may_answer_with_is_described(client: httpx.Client) -> None:
    """OpenAPI names the refusals of each route, all with the one error body, and no other validation error."""
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
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (name, status)
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
    """A browser that comes by is shown the API."""
    page = client.get("/", follow_redirects=True)

    assert (page.status_code, page.url.path) == (200, "/docs")


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


def test_metrics_agree_with_the_memory(client: httpx.Client) -> None:
    """Every column of the ledger, and the bytes of each model on each device."""
    load(client, n_gpu_layers=12)

    memory = answer(client.get("/v1/memory"))

    for column in ("total", "free", "others", "limit", "used", "weights", "padding", "reserved", "retired"):
        expected = {(row["id"], "", row["kind"]): row[f"{column}_bytes"] for row in memory["devices"]}
        assert {
            (labels["device"], labels["uuid"], labels["kind"]): value
            for labels, value in labelled(client, f"loadmaster_device_{column}_bytes")
        } == expected
    (model,) = memory["models"]
    assert {
        (labels["model"], labels["device"]): value for labels, value in labelled(client, "loadmaster_model_bytes")
    } == {(DEMO_ID, device): nbytes for device, nbytes in model["devices"].items()}


def test_metrics_count_jobs_and_bytes(client: httpx.Client) -> None:
    """Counters grow by what was done."""

    def loads() -> float:
        ended = labelled(client, "loadmaster_jobs_total")
        return sum(value for labels, value in ended if labels == {"kind": "load", "state": "succeeded"})

    before, ((_, copied),) = loads(), labelled(client, "loadmaster_copied_bytes_total")

    job = load(client, n_gpu_layers=1)

    assert loads() == before + 1
    assert labelled(client, "loadmaster_copied_bytes_total")[0][1] == copied + job["bytes_total"]
    states = {labels["state"]: value for labels, value in labelled(client, "loadmaster_models")}
    assert states["loaded"] == 1


def test_a_model_id_cannot_forge_a_metric(client: httpx.Client) -> None:
    """Quotes, braces and line breaks in a file's name stay inside the label; such a model is as good as any."""
    load(client, f"/v1/models/{quote(FORGED)}", n_gpu_layers="all")

    models = {labels["model"] for labels, _ in labelled(client, "loadmaster_model_bytes")}

    assert models == {FORGED}
