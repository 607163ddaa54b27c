"""What the service says about models and their files."""

import json
from pathlib import Path

import httpx
import pytest

from tests.api.server import DEMO, DEMO_ID, answer, load, refusal

ODD = "/v1/models/odd"


def test_the_demo_model_is_listed(client: httpx.Client) -> None:
    """What the file says, in one line; and nothing that is not so."""
    listed = {model["id"]: model for model in answer(client.get("/v1/models"))["data"]}

    model = listed[DEMO_ID]
    assert (model["object"], model["owned_by"], model["type"]) == ("model", "loadmaster", "model")
    assert (model["state"], model["architecture"], model["quantization"]) == ("available", "llama", "Q4_1")
    assert (model["n_layer"], model["parameters"], model["size_bytes"]) == (30, 134_515_008, 98_362_432)
    assert (model["n_gpu_layers"], model["generation"], model["strategy"], model["job"]) == (None, None, None, None)


def test_a_file_that_cannot_be_read_is_listed_with_its_fault(client: httpx.Client) -> None:
    """`invalid`, with file, byte and field; loading or planning it is a 422 that says the same."""
    invalid = {model["id"]: model for model in answer(client.get("/v1/models?state=invalid"))["data"]}

    assert invalid.keys() == {"other", "truncated"}
    assert invalid["other"]["error"]["code"] == "not_gguf"
    fault = invalid["truncated"]["error"]
    assert fault["code"] == "truncated"
    assert fault["file"].endswith("truncated.gguf")
    assert {"offset", "field", "needed_bytes"} <= fault.keys()
    for action in ("plan", "load"):
        assert refusal(client.post(f"/v1/models/truncated/{action}", json={}), 422)["code"] == "invalid_model"
    for part in ("tensors", "layers", "metadata", "tensors/x/data"):
        assert refusal(client.get(f"/v1/models/truncated/{part}"), 422)["code"] == "invalid_model"


def test_a_model_says_everything_that_its_header_says_in_short(client: httpx.Client) -> None:
    """Hyperparameters, vocabulary facts and files are in the detail."""
    model = answer(client.get(DEMO))

    assert model["hyperparameters"]["n_embd"] == 576
    assert model["vocabulary"]["n_tokens"] == 49152
    assert model["architecture_known"] is True
    assert [file["size_bytes"] for file in model["files"]] == [98_362_432]
    assert model["problems"] == []


def test_a_list_is_cut_where_it_is_asked_for(client: httpx.Client) -> None:
    """`limit` and `offset` cut, `total` counts all; an offset past the end is an empty list."""
    whole = answer(client.get("/v1/models"))
    part = answer(client.get("/v1/models?offset=1&limit=2"))
    beyond = answer(client.get(f"/v1/models?offset={2**63 - 1}&limit=10000"))

    assert part == {"object": "list", "data": whole["data"][1:3], "total": whole["total"]}
    assert beyond == {"object": "list", "data": [], "total": whole["total"]}


def test_tensors_come_in_file_order_and_by_layer(client: httpx.Client) -> None:
    """All 272, 9 of a block, and those before and after the blocks by name."""
    whole = answer(client.get(f"{DEMO}/tensors"))
    block = answer(client.get(f"{DEMO}/tensors?layer=29"))
    output = answer(client.get(f"{DEMO}/tensors?layer=output"))
    page = answer(client.get(f"{DEMO}/tensors?layer=29&offset=8&limit=10000"))

    assert (whole["total"], len(whole["data"])) == (272, 272)
    assert whole["data"][0]["name"] == "token_embd.weight"
    assert block["data"] == [tensor for tensor in whole["data"] if tensor["layer"] == 29]
    assert (block["total"], page["total"], page["data"]) == (9, 9, block["data"][8:])
    assert [tensor["name"] for tensor in output["data"]] == ["output_norm.weight"]
    assert answer(client.get(f"{DEMO}/tensors?layer=30"))["data"] == []


def test_metadata_is_in_short_unless_a_key_is_asked_for(client: httpx.Client) -> None:
    """A long array is its type, count and head; `key` gives it whole, `offset` and `limit` a part of it."""
    key = "tokenizer.ggml.tokens"
    pairs = answer(client.get(f"{DEMO}/metadata"))

    assert pairs["total"] == len(pairs["data"]) == 33
    assert pairs["data"]["general.architecture"] == "llama"
    assert (pairs["data"][key]["type"], pairs["data"][key]["count"]) == ("string", 49152)

    whole = answer(client.get(f"{DEMO}/metadata?key={key}"))
    assert (whole["total"], len(whole["value"])) == (49152, 49152)
    assert whole["value"][: len(pairs["data"][key]["head"])] == pairs["data"][key]["head"]
    part = answer(client.get(f"{DEMO}/metadata?key={key}&offset=49150&limit=10"))
    assert (part["total"], part["value"]) == (49152, whole["value"][49150:])
    for beyond in (f"offset={2**63 - 1}&limit=10000", "offset=49152"):
        assert answer(client.get(f"{DEMO}/metadata?key={key}&{beyond}"))["value"] == []
    assert answer(client.get(f"{DEMO}/metadata?offset={2**63 - 1}&limit=10000"))["data"] == {}
    assert answer(client.get(f"{DEMO}/metadata?key=general.name"))["total"] == 1
    assert refusal(client.get(f"{DEMO}/metadata?key=nope"), 404)["param"] == "key"


def test_numbers_that_json_does_not_have_are_null(client: httpx.Client) -> None:
    """NaN and infinities in a file never make an answer that is no JSON."""

    def strictly(response: httpx.Response) -> dict[str, object]:
        assert response.status_code == 200, response.text
        found = json.loads(response.content, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert isinstance(found, dict)
        return found

    data = strictly(client.get(f"{ODD}/metadata"))["data"]
    assert isinstance(data, dict)
    assert (data["odd.nan"], data["odd.infinity"], data["odd.floats"]) == (None, None, [1.0, None, None])
    assert data["odd.many_floats"]["head"] == [None] * 8
    assert (data["odd.uint64"], data["odd.yes"]) == (2**64 - 1, True)
    assert data["odd.text"] == 'line\nbreak, "quotes" and \x00'
    for key, value in (("odd.nan", None), ("odd.infinity", None), ("odd.many_floats", [None] * 1000)):
        assert strictly(client.get(f"{ODD}/metadata?key={key}"))["value"] == value
    strictly(client.get(ODD))


def test_a_rescan_finds_what_is_new_and_forgets_what_is_gone(client: httpx.Client, built_models: Path) -> None:
    """Files come and go between two looks; a model that is loaded stays listed until it is unloaded."""
    new = built_models / "new.gguf"
    new.write_bytes((built_models / "org" / "Tiny.gguf").read_bytes())

    def ids() -> set[str]:
        return {model["id"] for model in answer(client.post("/v1/models/rescan"))["data"]}

    assert "new" in ids()
    load(client, "/v1/models/new", n_gpu_layers="all")
    new.unlink()
    assert "new" in ids()
    assert answer(client.post("/v1/models/new/unload", json={"wait": True}))["state"] == "succeeded"
    assert "new" not in ids()
    refusal(client.get("/v1/models/new"), 404)
