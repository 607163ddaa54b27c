"""docs/operations.md says what is so: every metric, every alert, every event of the log, and none that is not there."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.api.process import ROOT
from tests.api.server import load, serving
from tests.test_architecture import sources

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that has every kind of metric."""
    with serving(tmp_path_factory.mktemp("state")) as client:
        load(client, n_gpu_layers=1)
        yield client


def unfolded(name: str) -> set[str]:
    """`a_{b,c}_d` as the names that it stands for."""
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    return {"".join(choice) for choice in product(*parts)}


def test_every_metric_is_described(client: httpx.Client) -> None:
    """And no other is; the labels are those that it has."""
    rows = re.findall(r"^\| (`loadmaster_[^|]*)\|([^|]*)\|", PAGE, flags=re.MULTILINE)
    described = {
        name: {label for label in labels.replace(" ", "").split(",") if label}
        for names, labels in rows
        for folded in re.findall(r"`([^`]*)`", names)
        for name in unfolded(folded)
    }
    served = {
        f"{family.name}_total" if family.type == "counter" else family.name: {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in text_string_to_metric_families(client.get("/metrics").text)
        if family.name.startswith("loadmaster_")
    }

    assert described == served


def test_every_alert_is_described() -> None:
    """And no other is."""
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"]

    assert set(re.findall(r"\bLoadmaster[A-Z]\w+", PAGE)) == {rule["alert"] for rule in groups[0]["rules"]}


def test_every_event_is_described() -> None:
    """And no other is."""
    told = {event for source in sources("app").values() for event in re.findall(r'"event": "(\w+)"', source)}
    (table,) = re.findall(r"^\| event .*\n\|---.*\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    described = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}

    assert described == told


def test_every_file_is_there() -> None:
    """What the page names below deploy/."""
    named = re.findall(r"`((?:prometheus|grafana|systemd|kubernetes)/[\w./]+)`", PAGE)

    assert len(named) >= 5
    for name in named:
        assert Path(ROOT, "deploy", name).is_file(), name
