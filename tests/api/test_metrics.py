"""What Prometheus is told: the same numbers as everybody else, under names and labels that it can rely on."""

import json
import subprocess
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api.answers import KEPT
from app.api.middleware import PROBES
from app.api.traffic import POLLED
from app.main import MAX_BODY_BYTES
from tests.api.server import DEMO, DEMO_ID, TINY, answer, listening, load, offload, refusal, unload
from tests.tools import tool

FORGED = 'forged"\n} 1\n#'
COLUMNS = ("total", "free", "others", "limit", "used", "weights", "padding", "reserved", "retired")
HOST_COLUMNS = ("total", "limit", "mapped", "locked", "buffered", "staging")  # the others change from look to look


def labelled(client: httpx.Client, name: str) -> list[tuple[dict[str, str], float]]:
    """One metric's samples with their labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return [(sample.labels, sample.value) for f in families for sample in f.samples if sample.name == name]


def value(client: httpx.Client, name: str, **labels: str) -> float:
    """The one sample that has these labels; 0 where there is none yet."""
    found = [value for present, value in labelled(client, name) if labels.items() <= present.items()]
    assert len(found) <= 1
    return found[0] if found else 0.0


def asked(client: httpx.Client, method: str, route: str, status: str) -> float:
    """How many requests were answered so."""
    name = "loadmaster_http_request_duration_seconds_count"
    return value(client, name, method=method, route=route, status=status)


def test_metrics_agree_with_the_memory(client: httpx.Client) -> None:
    """Every column of the ledger and of the host, and the bytes of each model on each device."""
    load(client, n_gpu_layers=12)

    memory = answer(client.get("/v1/memory"))

    for column in COLUMNS:
        expected = {(row["id"], "", row["kind"]): row[f"{column}_bytes"] for row in memory["devices"]}
        assert {
            (labels["device"], labels["uuid"], labels["kind"]): value
            for labels, value in labelled(client, f"loadmaster_device_{column}_bytes")
        } == expected
    for column in HOST_COLUMNS:
        assert labelled(client, f"loadmaster_host_{column}_bytes") == [({}, memory["host"][f"{column}_bytes"])]
    (model,) = memory["models"]
    assert {
        (labels["model"], labels["device"], labels["kind"]): value
        for labels, value in labelled(client, "loadmaster_model_bytes")
    } == {
        (DEMO_ID, device, "host" if device == "cpu" else "simulated"): nbytes
        for device, nbytes in model["devices"].items()
    }


def test_metrics_count_jobs_and_bytes(client: httpx.Client) -> None:
    """Counters grow by what was done, and a histogram has how long it took."""
    ended = {"kind": "load", "state": "succeeded"}
    before = value(client, "loadmaster_jobs_total", **ended)
    copied = value(client, "loadmaster_copied_bytes_total")

    job = load(client, n_gpu_layers=1)

    assert value(client, "loadmaster_jobs_total", **ended) == before + 1
    assert value(client, "loadmaster_job_duration_seconds_count", **ended) == before + 1
    assert value(client, "loadmaster_job_duration_seconds_bucket", le="+Inf", **ended) == before + 1
    assert value(client, "loadmaster_copied_bytes_total") == copied + job["bytes_total"]
    assert value(client, "loadmaster_models", state="loaded") == 1


def test_metrics_count_who_made_room(client: httpx.Client) -> None:
    """An eviction is one, whichever job did it."""
    wanted = {"n_gpu_layers": 1, "devices": ["sim:0"]}
    needed = answer(client.post(f"{DEMO}/plan", json=wanted))["devices"][0]["required_bytes"]
    before = value(client, "loadmaster_evictions_total", state="succeeded")
    load(client, TINY, **wanted)

    load(client, **wanted, margin_bytes=(64 << 20) - needed)

    assert value(client, "loadmaster_evictions_total", state="succeeded") == before + 1


def test_metrics_count_what_was_refused(client: httpx.Client) -> None:
    """By the error's code, and every code is there from the start, so that the first refusal is an increase."""
    before = value(client, "loadmaster_refusals_total", code="does_not_fit")
    codes = {labels["code"] for labels, _ in labelled(client, "loadmaster_refusals_total")}

    refused = refusal(client.post(f"{DEMO}/load", json={"n_gpu_layers": "all", "devices": ["sim:0"]}), 507)

    assert value(client, "loadmaster_refusals_total", code=refused["code"]) == before + 1
    assert {"does_not_fit", "model_not_found", "internal_error", "device_error"} <= codes
    assert {"unauthorized", "forbidden", "route_not_found", "method_not_allowed", "body_too_large"} <= codes


@pytest.mark.parametrize(
    ("method", "path", "more", "code"),
    [
        ("GET", "/v1/models", {"headers": {"Host": "evil.example"}}, "forbidden"),
        ("GET", "/api/tags", {"headers": {"Host": "evil.example"}}, "forbidden"),
        ("POST", f"{DEMO}/plan", {"content": b"0" * (MAX_BODY_BYTES + 1)}, "body_too_large"),
        ("GET", "/v2/nope", {}, "route_not_found"),
        ("PUT", DEMO, {}, "method_not_allowed"),
        ("POST", "/api/show", {"json": {"model": "nobody"}}, "model_not_found"),
    ],
)
def test_whoever_refuses_is_counted(
    client: httpx.Client, method: str, path: str, more: dict[str, Any], code: str
) -> None:
    """Doors, limits and the router like a route, and in whichever dialect."""
    before = value(client, "loadmaster_refusals_total", code=code)

    assert client.request(method, path, **more).is_client_error

    assert value(client, "loadmaster_refusals_total", code=code) == before + 1


def test_requests_are_counted_by_the_template_of_their_route(client: httpx.Client) -> None:
    """Whatever is in a path is no label: ids, files and paths that lead nowhere make no series of their own."""
    cases = [
        ("GET", DEMO, "GET", "/v1/models/{id}", "2xx"),
        ("GET", "/v1/models/no/such", "GET", "/v1/models/{id}", "4xx"),
        ("POST", f"{DEMO}/touch", "POST", "/v1/models/{id}/touch", "4xx"),
        ("DELETE", "/v1/memory", "DELETE", "/v1/memory", "4xx"),
        ("POST", "/api/show", "POST", "/api/show", "4xx"),
        ("GET", "/v2/models/no/such/ready", "GET", "/v2/models/{model}/ready", "4xx"),
        ("GET", "/v2/models/no/such/versions/1/ready", "GET", "/v2/models/{model}/versions/{version}/ready", "4xx"),
        ("POST", "/v2/repository/models/no/such/unload", "POST", "/v2/repository/models/{model}/unload", "4xx"),
        ("GET", "/static/swagger-ui/swagger-ui.css", "GET", "/static/{path}", "2xx"),
        ("GET", "/static/no/such", "GET", "/static/{path}", "4xx"),
        ("GET", "/no/such?at=all", "GET", "unmatched", "4xx"),
        ("TRACE", "/no/such", "other", "unmatched", "4xx"),
    ]
    for method, path, *counted in cases:
        before = asked(client, *counted)

        client.request(method, path)

        assert asked(client, *counted) == before + 1, path

    routes = {labels["route"] for labels, _ in labelled(client, "loadmaster_http_request_duration_seconds_count")}
    assert [route for route in routes if "such" in route or "?" in route or DEMO_ID in route] == []


def test_what_is_answered_ahead_of_its_route_is_counted_as_if_it_were_routed(client: httpx.Client) -> None:
    """Every answer that is kept, and a refusal before it, too; a probe is refused by no door, and counted no less."""
    assert KEPT.keys() == POLLED
    for path in POLLED - PROBES:
        before = [asked(client, "GET", path, status) for status in ("2xx", "4xx")]

        client.get(path)
        client.get(path, headers={"Host": "evil.example"})

        assert [asked(client, "GET", path, status) for status in ("2xx", "4xx")] == [count + 1 for count in before]
    for path in POLLED & PROBES:
        probed = asked(client, "GET", path, "2xx")

        client.get(path)
        client.get(path, headers={"Host": "evil.example"})

        assert asked(client, "GET", path, "2xx") == probed + 2


def test_a_stream_is_counted_when_it_begins(client: httpx.Client) -> None:
    """Its reader is counted while it reads, and its duration is that of its head alone."""
    before = asked(client, "GET", "/v1/events", "2xx")

    with listening(client) as events:
        next(events)
        assert asked(client, "GET", "/v1/events", "2xx") == before + 1
        assert value(client, "loadmaster_event_listeners") >= 1


def test_a_model_id_cannot_forge_a_metric(client: httpx.Client) -> None:
    """Quotes, braces and line breaks in a file's name stay inside the label; such a model is as good as any."""
    load(client, f"/v1/models/{quote(FORGED)}", n_gpu_layers="all")

    models = {labels["model"] for labels, _ in labelled(client, "loadmaster_model_bytes")}

    assert models == {FORGED}


def test_promtool_has_nothing_to_say(client: httpx.Client) -> None:
    """Names, units, help texts and types are as Prometheus wants them, with every kind of series in it."""
    promtool = tool("promtool")
    load(client, f"/v1/models/{quote(FORGED)}", n_gpu_layers="all")
    load(client, n_gpu_layers=1)
    offload(client, n_gpu_layers=0)
    unload(client)
    answer(client.post(f"{DEMO}/verify", json={"wait": True}))
    client.get("/no/such")

    checked = subprocess.run(  # noqa: S603 - a tool that was found
        [promtool, "check", "metrics"],
        input=client.get("/metrics").text,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_what_runs_here_is_told(client: httpx.Client) -> None:
    """The version, and the process itself."""
    ((labels, one),) = labelled(client, "loadmaster_build_info")

    assert (labels["version"], one) == (json.loads(client.get("/openapi.json").text)["info"]["version"], 1)
    assert value(client, "process_resident_memory_bytes") > 1 << 20
