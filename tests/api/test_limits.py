"""Memory limits and what others hold, over HTTP, on a real model."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.server import DEMO, TINY, Json, answer, load, refusal, serving, unload

MIB = 1 << 20
DEVICES = "sim:64MiB,sim:64MiB,sim:64MiB:others=20MiB,sim:64MiB:others=8MiB"
LIMITS = "75%,sim:1=40MiB,sim:3=100%,cpu=1MiB"
AVAILABLE = {"sim:0": 48 * MIB, "sim:1": 40 * MIB, "sim:2": 44 * MIB, "sim:3": 56 * MIB}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, built_models: Path) -> Iterator[httpx.Client]:
    """A service of which every device is limited in another way."""
    state = tmp_path_factory.mktemp("state")
    with serving(state, devices=DEVICES, memory_limit=LIMITS, models=(built_models,)) as client:
        yield client


def column(client: httpx.Client, name: str, path: str = "/v1/memory") -> list[Json]:
    """One column of the devices."""
    body = answer(client.get(path))
    return [row[name] for row in body["devices" if path == "/v1/memory" else "data"]]


def plan(client: httpx.Client, **fields: Json) -> Json:
    """Plan, without an error."""
    return answer(client.post(f"{DEMO}/plan", json=fields))


def test_limits_and_others_are_shown(limited: httpx.Client) -> None:
    """By device in both places, beside what is free; the host has its own limit, and nobody knows its others."""
    limits, others = [48 * MIB, 40 * MIB, 48 * MIB, 64 * MIB], [0, 0, 20 * MIB, 8 * MIB]

    assert column(limited, "limit_bytes") == limits
    assert column(limited, "others_bytes") == others
    assert column(limited, "free_bytes") == [64 * MIB - nbytes for nbytes in others]
    assert answer(limited.get("/v1/memory"))["host"]["limit_bytes"] == MIB
    assert column(limited, "limit_bytes", "/v1/devices") == [*limits, MIB]
    assert column(limited, "others_bytes", "/v1/devices") == [*others, None]


@pytest.mark.parametrize("margin", [0, 3 * MIB])
@pytest.mark.parametrize("device", AVAILABLE)
def test_what_is_over_it_is_refused_with_it(limited: httpx.Client, device: str, margin: int) -> None:
    """507 with what may be ours less the margin; the largest number of layers is what `auto` takes, and that loads."""
    fields = {"devices": [device], "margin_bytes": margin}
    auto = plan(limited, **fields)
    (row, _) = auto["devices"]

    error = refusal(limited.post(f"{DEMO}/load", json={**fields, "n_gpu_layers": 30}), 507)
    more = plan(limited, **fields, n_gpu_layers=auto["n_gpu_layers"] + 1)
    load(limited, **fields)
    used = column(limited, "used_bytes")
    others = column(limited, "others_bytes")
    unload(limited)

    assert row["available_bytes"] == AVAILABLE[device] - margin == error["available_bytes"]
    assert error["device"] == device
    assert error["largest_n_gpu_layers"] == auto["n_gpu_layers"] > 0
    assert more["fits"] is False
    assert sum(used) == row["required_bytes"] <= AVAILABLE[device] - margin
    assert others == [0, 0, 20 * MIB, 8 * MIB]


def test_several_devices_are_filled_to_their_limits(limited: httpx.Client) -> None:
    """`auto` over all of them: the whole model, and on none more than may be ours; the rest is left to another."""
    job = load(limited)
    used = dict(zip(AVAILABLE, column(limited, "used_bytes"), strict=True))
    small = answer(limited.post(f"{TINY}/plan", json={}))
    unload(limited)

    assert job["state"] == "succeeded"
    assert 96_000_000 < sum(used.values()) < sum(AVAILABLE.values())
    assert all(0 < used[device] <= nbytes for device, nbytes in AVAILABLE.items())
    assert {row["id"]: row["available_bytes"] for row in small["devices"] if row["id"] != "cpu"} == {
        device: nbytes - used[device] for device, nbytes in AVAILABLE.items()
    }


def test_copies_on_the_host_have_its_limit(limited: httpx.Client) -> None:
    """A buffered load is refused by it; the same load of mapped pages is not."""
    error = refusal(limited.post(f"{DEMO}/load", json={"n_gpu_layers": 0, "host": "buffered"}), 507)
    load(limited, n_gpu_layers=0)
    unload(limited)

    assert (error["device"], error["available_bytes"]) == ("cpu", MIB)
