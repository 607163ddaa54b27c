"""What deploy/ and compose have to run the service with: each is parsed by a tool of its world, and safe by default."""

import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import app
from app.config import Settings
from tests.api.process import ROOT
from tests.tools import tool

UNIT = ROOT / "deploy" / "systemd" / "loadmaster.service"
MANIFEST = {
    document["kind"]: document
    for document in yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "loadmaster.yml").read_text())
}
POD = MANIFEST["Deployment"]["spec"]["template"]["spec"]
KUBERNETES = ("1.30", "1.37")
EXPOSED = 25  # of 100, as systemd-analyze counts


def compose(**environment: str) -> Any:
    """docker-compose.yml as docker-compose reads it, with every profile."""
    command = [tool("docker-compose"), "--profile", "gpu", "--profile", "monitoring", "config"]
    done = subprocess.run(  # noqa: S603 - a tool that was found
        command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def taken(environment: Mapping[str, str | None], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings by these variables; those without a value are handed on, and not set here."""
    for name, value in environment.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    return Settings()


def unit(name: str) -> list[str]:
    """What the systemd unit says under a name."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), flags=re.MULTILINE)


# ── compose ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_compose_starts_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that the service takes; ports on loopback only; nothing is unpinned, and all have a health check."""
    services = compose()["services"]

    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["healthcheck"]
        image = service.get("image", "built:0.1.0")
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", image), image
    for name in ("loadmaster", "loadmaster-gpu"):
        settings = taken(services[name]["environment"], monkeypatch)
        assert "loadmaster" in settings.allowed_hosts  # else the scrape would be refused
    assert services["loadmaster-gpu"]["networks"]["default"]["aliases"] == ["loadmaster"]


def test_compose_mounts_what_is_there() -> None:
    """Each file and folder that a service is given exists, and the settings of one's own are used."""
    services = compose(SCRAPE_KEY_FILE="/etc/hostname", GRAFANA_PORT="3333", LOG_FORMAT="json")["services"]

    for name in ("prometheus", "grafana"):
        sources = [volume.partition(":")[0] for volume in services[name]["volumes"]]
        for source in sources:
            assert source in ("prometheus", "/etc/hostname") or Path(source).is_dir(), source
    assert services["grafana"]["ports"] == ["127.0.0.1:3333:3000/tcp"]
    assert services["loadmaster"]["environment"]["LOADMASTER_LOG_FORMAT"] == "json"


# ── systemd ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit, of a program that is there."""
    text = UNIT.read_text()
    (program,) = (shlex.split(command)[0] for command in unit("ExecStart"))
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(program, "/bin/true"))
    return copy


def test_systemd_takes_the_unit(installed: Path) -> None:
    """Without a word, and hardened by systemd's own reckoning."""
    for command in ("verify --man=no", f"security --offline=yes --no-pager --threshold={EXPOSED}"):
        done = subprocess.run(  # noqa: S603 - a tool that was found
            [tool("systemd-analyze"), *command.split(), str(installed)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "loadmaster.service:" not in done.stderr


def test_the_unit_sets_what_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that the service takes, and no restart where one of them cannot be."""
    settings = taken(dict(line.split("=", 1) for line in unit("Environment")), monkeypatch)

    assert str(settings.state_dir) == f"/var/lib/{unit('StateDirectory')[0]}"
    assert settings.host == "127.0.0.1"
    assert unit("RestartPreventExitStatus") == ["2"]


# ── Kubernetes ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("kind", MANIFEST)
def test_kubernetes_takes_the_manifest(kind: str, version: str) -> None:
    """By the schemas of the oldest and the newest version that are at hand; unknown fields are refused."""
    kubernetes_validate.validate(MANIFEST[kind], version, strict=True)


def test_the_schemas_refuse_what_is_wrong() -> None:
    """The test above can fail."""
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**MANIFEST["Service"], "sepc": {}}, KUBERNETES[0], strict=True)


def test_the_pod_sets_what_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that the service takes, and the names by which it is called there."""
    (container,) = POD["containers"]
    settings = taken({one["name"]: one["value"] for one in container["env"] if "value" in one}, monkeypatch)

    assert {"loadmaster", "$(pod_ip)"} <= set(settings.allowed_hosts)
    assert not POD["enableServiceLinks"]  # they would be settings: LOADMASTER_PORT=tcp://…
    assert container["image"].endswith(f":{app.__version__}")
    assert "LOADMASTER_ALLOW_UNAUTHENTICATED" not in str(POD)


def test_the_pod_may_do_little() -> None:
    """No root, no writable system, no capability; it is one, has a GPU, and is asked what it should be asked."""
    (container,) = POD["containers"]
    limits = container["securityContext"]

    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["runAsUser"] > 0
    assert limits["readOnlyRootFilesystem"]
    assert not limits["allowPrivilegeEscalation"]
    assert limits["capabilities"] == {"drop": ["ALL"]}
    assert (MANIFEST["Deployment"]["spec"]["replicas"], container["resources"]["limits"]["nvidia.com/gpu"]) == (1, 1)
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert probes == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
