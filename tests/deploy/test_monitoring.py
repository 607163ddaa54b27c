"""What deploy/ has for Prometheus and Grafana: parsed by their own tools, and about metrics that there are."""

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import MatchOp, VectorSelector

from tests.api.process import ROOT, free_port
from tests.api.server import DEADLINE_SECONDS, DEMO, answer, load, refusal, serving, until
from tests.tools import tool

PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((GRAFANA / "dashboards" / "loadmaster.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_TARGETS = {"instance", "job"}  # labels that Prometheus adds
Series = Mapping[str, Mapping[str, set[str]]]


def as_prometheus_sees(expression: str) -> str:
    """An expression of the dashboard, with Grafana's variables filled in."""
    return expression.replace("$__rate_interval", "1m").replace("$instance", ".*")


EXPRESSIONS = [rule["expr"] for rule in RULES] + [
    as_prometheus_sees(target["expr"]) for panel in PANELS for target in panel["targets"]
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that has loaded, shown and refused something."""
    with serving(tmp_path_factory.mktemp("state")) as client:
        load(client, n_gpu_layers=1)
        answer(client.get(DEMO))
        refusal(client.post(f"{DEMO}/load", json={"n_gpu_layers": "all", "devices": ["sim:0"]}), 507)
        yield client


@pytest.fixture(scope="module")
def series(client: httpx.Client) -> Series:
    """The metrics that there are: their labels, and these labels' values."""
    found: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            found[sample.name].update()
            for label, value in sample.labels.items():
                found[sample.name][label].add(value)
    found["up"].update()
    return found


def selectors(expression: str) -> list[VectorSelector]:
    """Every metric that an expression selects, with its matchers."""
    found: list[VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_about_what_there_is(expression: str, series: Series) -> None:
    """Every metric that an alert or a panel names exists, with these labels and with the values that it looks for."""
    selected = selectors(expression)

    assert selected
    for selector in selected:
        assert selector.name in series
        labels = series[selector.name or ""]
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels.keys() | OF_TARGETS, (selector.name, matcher.name)
            if matcher.name in labels and matcher.op != MatchOp.NotEqual:
                wanted = set(matcher.value.split("|"))
                assert wanted & labels[matcher.name], (selector.name, matcher.name, matcher.value)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_keeps_labels_that_there_are(expression: str, series: Series) -> None:
    """What is grouped by is a label of what is selected."""
    there = {label for selector in selectors(expression) for label in series[selector.name or ""]} | OF_TARGETS
    grouped = {label for found in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in found.split(", ")}

    assert grouped <= there


def test_a_metric_that_is_not_there_is_found_out(series: Series) -> None:
    """The two tests above can fail."""
    (gone,) = selectors("sum(rate(loadmaster_gone_total[5m]))")

    assert gone.name == "loadmaster_gone_total"
    assert gone.name not in series


def test_every_family_of_ours_is_watched() -> None:
    """Whatever the service tells of devices, models, jobs and requests is on the dashboard or behind an alert."""
    named = {selector.name for expression in EXPRESSIONS for selector in selectors(expression)}

    for family in ("device_lost", "model_bytes", "models", "jobs_total", "jobs_active", "refusals_total", "restoring"):
        assert f"loadmaster_{family}" in named
    for family in ("job_duration_seconds_bucket", "http_request_duration_seconds_bucket", "copy_bytes_per_second"):
        assert f"loadmaster_{family}" in named


def test_the_dashboard_is_laid_out() -> None:
    """Each panel has a title, a place of its own, and Prometheus as its source, by the name that it is given."""
    (source,) = yaml.safe_load((GRAFANA / "datasources" / "prometheus.yml").read_text())["datasources"]
    taken: dict[tuple[int, int], str] = {}

    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    for panel in PANELS:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert panel["datasource"] == target["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_the_dashboard_asks_for_services_by_what_they_tell(series: Series) -> None:
    """Its one variable is filled from a metric that every service has."""
    (variable,) = DASHBOARD["templating"]["list"]
    (metric,) = re.findall(r"label_values\((\w+), instance\)", variable["query"]["query"])

    assert metric in series
    assert all(f"${variable['name']}" in target["expr"] for panel in PANELS for target in panel["targets"])


def test_every_alert_says_what_to_do() -> None:
    """Each has a severity, a summary and a description, and a case in which it fires."""
    tested = (PROMETHEUS / "rules_test.yml").read_text()

    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert {"summary", "description"} == rule["annotations"].keys()
        assert rule["alert"] in tested


def promtool(*arguments: str | Path) -> None:
    """Run it below deploy/prometheus; it must have nothing to object to."""
    done = subprocess.run(  # noqa: S603 - a tool that was found
        [tool("promtool"), *map(str, arguments)], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_rules_and_configuration(tmp_path: Path) -> None:
    """And each alert fires for what it is about, and for nothing else."""
    promtool("check", "rules", "rules.yml")
    promtool("test", "rules", "rules_test.yml")
    promtool("check", "config", configured(tmp_path, "localhost:1"))


def configured(folder: Path, target: str) -> Path:
    """The configuration as it is but for the target and the file of the key, which is empty as in compose."""
    text = (PROMETHEUS / "prometheus.yml").read_text()
    (folder / "rules.yml").write_text((PROMETHEUS / "rules.yml").read_text())
    (folder / "key").touch()
    changes = {
        "loadmaster:8288": target,
        "/run/secrets/loadmaster-key": str(folder / "key"),
        "scrape_interval: 5s": "scrape_interval: 1s",
        "evaluation_interval: 15s": "evaluation_interval: 1s",
    }
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "prometheus.yml").write_text(text)
    return folder / "prometheus.yml"


def is_ready(api: httpx.Client) -> bool:
    """Whether Prometheus has started."""
    try:
        return api.get("/status/runtimeinfo").is_success
    except httpx.TransportError:
        return False


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[httpx.Client]:
    """Prometheus itself, which scrapes this target."""
    address = f"127.0.0.1:{free_port()}"
    options = {"config.file": configured(folder, target), "storage.tsdb.path": folder, "web.listen-address": address}
    command = [tool("prometheus"), *(f"--{name}={value}" for name, value in options.items())]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,  # noqa: S603 - a tool that was found
        httpx.Client(base_url=f"http://{address}/api/v1", timeout=DEADLINE_SECONDS) as client,
    ):
        try:
            yield client
        finally:
            process.terminate()


@pytest.mark.slow
def test_a_real_prometheus_scrapes_it(client: httpx.Client, tmp_path: Path) -> None:
    """The target is up, the rules are without a fault, the refusal fires, and every panel's question is answered."""
    target = f"127.0.0.1:{client.base_url.port}"

    with prometheus(tmp_path, target) as api:

        def asked(path: str, **query: str) -> Any:
            return answer(api.get(path, params=query))["data"]

        until(lambda: is_ready(api))
        until(lambda: [one["health"] for one in asked("/targets")["activeTargets"]] == ["up"])
        until(lambda: asked("/query", query='count(loadmaster_models{state="loaded"} == 1)')["result"])
        for expression in EXPRESSIONS:
            assert "result" in asked("/query", query=expression)
        until(lambda: all(rule["health"] == "ok" for rule in asked("/rules")["groups"][0]["rules"]))
        refusal(client.post(f"{DEMO}/load", json={"n_gpu_layers": "all", "devices": ["sim:0"]}), 507)
        until(lambda: "LoadmasterDoesNotFit" in [alert["labels"]["alertname"] for alert in asked("/alerts")["alerts"]])
