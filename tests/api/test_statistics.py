"""Statistics over HTTP: what the tensors add up to, by type, by layer, and the largest."""

from collections import Counter
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.api.server import DEMO, TINY, Json, answer, load, refusal, serving
from tests.materialise import HEADERS, materialised

FORGED = "/v1/models/" + quote('forged"\n} 1\n#')
COUNTED = ("parameters", "size_bytes")


def added(rows: list[Json], by: str) -> dict[str, Counter[str]]:
    """Tensors, parameters and bytes of rows, by one of their fields."""
    sums: dict[str, Counter[str]] = {}
    for row in rows:
        sums.setdefault(row[by], Counter()).update({"tensors": 1, **{name: row[name] for name in COUNTED}})
    return sums


def in_row(row: Json) -> Counter[str]:
    """The same of a row of statistics."""
    return Counter({name: row[name] for name in ("tensors", *COUNTED)})


@pytest.mark.parametrize("model", [DEMO, TINY, "/v1/models/odd", FORGED])
def test_the_sums_agree_with_the_tensors(client: httpx.Client, model: str) -> None:
    """By type and by layer, in all, and with what the model itself says; the bits per weight follow from them."""
    numbers = answer(client.get(f"{model}/statistics"))
    tensors = answer(client.get(f"{model}/tensors?limit=10000"))["data"]
    listed = answer(client.get(model))

    assert numbers["tensors"] == len(tensors)
    for name in COUNTED:
        assert numbers[name] == sum(tensor[name] for tensor in tensors)
        for rows in ("by_type", "by_layer"):
            assert sum(row[name] for row in numbers[rows]) == numbers[name]
    assert {row["type"]: in_row(row) for row in numbers["by_type"]} == added(tensors, "type")
    assert {row["layer"]: in_row(row) for row in numbers["by_layer"]} == added(tensors, "layer")
    assert numbers["parameters"] == listed["parameters"]
    for row in (numbers, *numbers["by_type"], *numbers["by_layer"]):
        bits = 8 * row["size_bytes"] / row["parameters"] if row["parameters"] else None
        assert row["bits_per_weight"] == (None if bits is None else pytest.approx(bits))
    sizes = sorted((tensor["size_bytes"] for tensor in tensors), reverse=True)
    assert [tensor["size_bytes"] for tensor in numbers["largest"]] == sizes[:10]
    by_name = {tensor["name"]: tensor for tensor in tensors}
    for tensor in numbers["largest"]:
        assert tensor.items() <= by_name[tensor["name"]].items()


def test_the_demo_model_in_numbers(client: httpx.Client) -> None:
    """Three types, 32 layers, no experts; the same numbers whether it is loaded or not."""
    numbers = answer(client.get(f"{DEMO}/statistics"))
    load(client, n_gpu_layers=7)

    assert answer(client.get(f"{DEMO}/statistics")) == numbers
    assert (numbers["parameters"], numbers["tensors"], numbers["size_bytes"]) == (134_515_008, 272, 96_576_768)
    rows = [(row["type"], row["tensors"], row["bits_per_weight"]) for row in numbers["by_type"]]
    assert rows == [("Q4_1", 210, 5.0), ("Q8_0", 1, 8.5), ("F32", 61, 32.0)]
    layers = [(row["layer"], row["role"], row["types"]) for row in numbers["by_layer"]]
    assert layers[0] == ("input", "input", ["Q8_0"])
    assert layers[1:31] == [(number, "block", ["Q4_1", "F32"]) for number in range(30)]
    assert layers[31:] == [("output", "output", ["F32"])]
    assert numbers["largest"][0]["name"] == "token_embd.weight"
    assert (numbers["expert_parameters"], numbers["expert_bytes"]) == (0, 0)


def test_what_has_no_statistics_says_why(client: httpx.Client) -> None:
    """422 for a file that cannot be read, 404 for none."""
    assert refusal(client.get("/v1/models/truncated/statistics"), 422)["code"] == "invalid_model"
    assert refusal(client.get("/v1/models/nothing/statistics"), 404)["code"] == "model_not_found"


@pytest.mark.skipif(not HEADERS, reason="no shared fixtures beside the checkout")
def test_experts_and_names_that_people_know(tmp_path: Path) -> None:
    """Of Mixtral nearly everything is in experts; Q4_K_M is the name of what is mostly Q4_K."""
    (tmp_path / "models").mkdir()
    materialised(next(head for head in HEADERS if head.name.startswith("mixtral")), tmp_path / "models")
    with serving(tmp_path / "state", models=(tmp_path / "models",)) as client:
        listed = answer(client.get("/v1/models/mixtral-8x7b-q4km"))
        numbers = answer(client.get("/v1/models/mixtral-8x7b-q4km/statistics"))

    assert (listed["quantization"], numbers["by_type"][0]["type"]) == ("Q4_K_M", "Q4_K")
    assert (numbers["parameters"], numbers["expert_parameters"]) == (46_702_792_704, 32 * 3 * 8 * 4096 * 14336)
    assert 0.96 < numbers["expert_bytes"] / numbers["size_bytes"] < 0.98
    assert "exps" in numbers["largest"][0]["name"]
