"""The main act over HTTP, on a real model: load, rebalance, unload, and the books after every step."""

import mmap
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.api.bodies import PlacementBody
from app.gguf import parse_header
from tests.api.server import (
    DEMO,
    DEMO_ID,
    TINY,
    Json,
    answer,
    demo_file,
    devices_of,
    load,
    offload,
    open_files,
    refusal,
    unload,
)

HEADER_BYTES = 4 << 20  # more than the demo model's header


def assert_books_balance(client: httpx.Client) -> None:
    """Tensors, layers, devices, ledger and the kernel's count of pages tell the same story."""
    memory = answer(client.get("/v1/memory"))
    model = answer(client.get(f"{DEMO}/memory"))
    tensors = answer(client.get(f"{DEMO}/tensors"))["data"]
    layers = answer(client.get(f"{DEMO}/layers"))["data"]
    total = sum(tensor["size_bytes"] for tensor in tensors)

    by_layer = model.pop("layers")

    assert memory["models"] == [model]
    assert sum(layer["size_bytes"] for layer in by_layer) == model["total_bytes"]
    assert {id_: sum(layer["devices"].get(id_, 0) for layer in by_layer) for id_ in model["devices"]} == model[
        "devices"
    ]
    assert model["total_bytes"] == model["gpu_bytes"] + model["cpu_bytes"] == total
    assert sum(layer["size_bytes"] for layer in layers) == total
    assert model["gpu_percent"] + model["cpu_percent"] == pytest.approx(100)
    for device in ("cpu", "sim:0", "sim:1"):
        held = model["devices"].get(device, 0)
        assert sum(tensor["devices"].get(device, 0) for tensor in tensors) == held
        assert sum(layer["devices"].get(device, 0) for layer in layers) == held
    for row in memory["devices"]:
        assert row["weights_bytes"] == model["devices"].get(row["id"], 0)
        assert row["used_bytes"] == row["weights_bytes"] + row["padding_bytes"]
        assert row["reserved_bytes"] == row["retired_bytes"] == 0
        assert row["free_bytes"] == row["total_bytes"] - row["used_bytes"]

    slabs = [status for name, status in open_files().items() if name.startswith("/memfd")]
    used = sum(row["used_bytes"] for row in memory["devices"])
    pages = sum(status.st_blocks * 512 for status in slabs)
    assert len(slabs) == sum(layer["device"] != "cpu" for layer in layers)
    assert used <= pages <= used + len(slabs) * mmap.PAGESIZE


def assert_bytes_equal_the_file(client: httpx.Client) -> dict[str, int]:
    """Every tensor, read back from where it is, equals the file; returns how many came from each device."""
    sources: dict[str, int] = {}
    where = {tensor["name"]: tensor["device"] for tensor in answer(client.get(f"{DEMO}/tensors"))["data"]}
    with demo_file().open("rb") as file:
        header = parse_header(file.read(HEADER_BYTES))
        for tensor in header.tensors:
            response = client.get(f"{DEMO}/tensors/{tensor.name}/data")
            file.seek(header.data_offset + tensor.offset)
            assert response.content == file.read(tensor.nbytes), tensor.name
            device = response.headers["x-loadmaster-device"]
            assert device == where[tensor.name]
            sources[device] = sources.get(device, 0) + 1
    return sources


def layer_bytes(client: httpx.Client) -> dict[Json, int]:
    """Tensor bytes by layer."""
    return {layer["layer"]: layer["size_bytes"] for layer in answer(client.get(f"{DEMO}/layers"))["data"]}


def test_layers_move_while_the_model_stays_loaded(client: httpx.Client) -> None:
    """From 12 layers to 30 the missing ones are copied and no other moves; to none nothing is copied at all."""
    sizes = layer_bytes(client)

    first = load(client, n_gpu_layers=12)
    twelve = devices_of(client)
    assert first["bytes_total"] == sizes["input"] + sum(sizes[n] for n in range(12)) + sizes["output"]
    assert {layer for layer, device in twelve.items() if device != "cpu"} == {"input", *range(12), "output"}
    assert set(twelve.values()) == {"cpu", "sim:0", "sim:1"}
    assert_books_balance(client)
    assert assert_bytes_equal_the_file(client).keys() == {"cpu", "sim:0", "sim:1"}

    second = offload(client, n_gpu_layers=30)
    thirty = devices_of(client)
    assert second["bytes_total"] == second["bytes_done"] == sum(sizes[n] for n in range(12, 30))
    assert {layer: thirty[layer] for layer, device in twelve.items() if device != "cpu"} == {
        layer: device for layer, device in twelve.items() if device != "cpu"
    }
    assert "cpu" not in thirty.values()
    assert_books_balance(client)
    assert sum(assert_bytes_equal_the_file(client).values()) == 272

    third = offload(client, n_gpu_layers=0)
    assert third["bytes_total"] == 0
    assert set(devices_of(client).values()) == {"cpu"}
    assert_books_balance(client)
    assert assert_bytes_equal_the_file(client) == {"cpu": 272}


def test_what_is_so_already_is_success(client: httpx.Client) -> None:
    """The same load again ends at once, copies nothing and makes no new generation."""
    first = load(client, n_gpu_layers=3)

    again = answer(client.post(f"{DEMO}/load", json={"n_gpu_layers": 3}))

    assert (again["state"], again["bytes_total"]) == ("succeeded", 0)
    assert again["generation"] == first["generation"]


@pytest.mark.parametrize("strategy", ["first", "last", "ends"])
def test_a_strategy_chooses_the_blocks(client: httpx.Client, strategy: str) -> None:
    """Four blocks: the first, the last, or two at either end."""
    load(client, n_gpu_layers=4, strategy=strategy)

    chosen = {layer for layer, device in devices_of(client).items() if device != "cpu"} - {"input", "output"}
    assert chosen == {"first": {0, 1, 2, 3}, "last": {26, 27, 28, 29}, "ends": {0, 1, 28, 29}}[strategy]


def test_a_plan_that_does_not_fit_says_why_and_a_load_says_the_same(client: httpx.Client) -> None:
    """POST plan answers 200 with the numbers with which load answers 507."""
    body: dict[str, Json] = {"n_gpu_layers": 30, "devices": ["sim:0"]}

    plan = answer(client.post(f"{DEMO}/plan", json=body))
    error = refusal(client.post(f"{DEMO}/load", json=body), 507)

    row = next(device for device in plan["devices"] if device["id"] == "sim:0")
    assert (plan["fits"], row["fits"]) == (False, False)
    assert error["code"] == "does_not_fit"
    assert error["device"] == "sim:0"
    assert (error["required_bytes"], error["available_bytes"]) == (row["required_bytes"], row["available_bytes"])
    assert error["required_bytes"] > error["available_bytes"]
    assert error["largest_n_gpu_layers"] == plan["largest_n_gpu_layers"]

    load(client, **{**body, "n_gpu_layers": error["largest_n_gpu_layers"]})
    refusal(client.patch(f"{DEMO}/offload", json={"n_gpu_layers": error["largest_n_gpu_layers"] + 1}), 507)
    assert_books_balance(client)


def test_a_plan_changes_nothing_and_is_what_a_load_does(client: httpx.Client) -> None:
    """A plan's layers are where a load with the same body puts them; nothing is loaded by planning."""
    body = {"n_gpu_layers": 12, "split": {"weights": "equal"}}

    plan = answer(client.post(f"{DEMO}/plan", json=body))
    assert answer(client.get(DEMO))["state"] == "available"

    load(client, **body)
    assert {layer["layer"]: layer["device"] for layer in plan["layers"]} == devices_of(client)
    assert plan["llama_server_args"] is None
    assert "strategy 'first'" in plan["advice"][0]["message"]


def test_a_patch_keeps_what_it_leaves_out(client: httpx.Client) -> None:
    """Fields of the placement that a PATCH does not name stay: devices, strategy, either part of split."""
    load(client, n_gpu_layers=4, strategy="last", split={"mode": "layer", "weights": [0, 1]})

    offload(client, n_gpu_layers=8)
    assert devices_of(client)[29] == "sim:1"
    assert set(devices_of(client).values()) == {"cpu", "sim:1"}

    offload(client, split={"mode": "layer"}, rebalance=True)
    assert set(devices_of(client).values()) == {"cpu", "sim:1"}

    offload(client, split={"weights": [1, 0]})
    assert set(devices_of(client).values()) == {"cpu", "sim:0"}
    assert [layer for layer, device in devices_of(client).items() if device != "cpu"][1:-1] == list(range(22, 30))


def test_a_patch_that_names_every_field_still_keeps_the_part_of_split_that_it_leaves_out(client: httpx.Client) -> None:
    """`split.weights` stays, whatever else the body holds."""
    load(client, n_gpu_layers=4, split={"mode": "layer", "weights": [0, 1]})

    offload(
        client,
        n_gpu_layers=5,
        strategy="first",
        devices=["sim:0", "sim:1"],
        split={"mode": "layer"},
        margin_bytes=0,
        host="mmap",
        rebalance=True,
        allow_unknown_architecture=False,
    )

    assert set(devices_of(client).values()) == {"cpu", "sim:1"}


def test_if_match_guards_against_a_change_in_between(client: httpx.Client) -> None:
    """The current generation is let through, any other is a 412 that names both, and garbage is a 422."""
    generation = load(client, n_gpu_layers=2)["generation"]

    def patch(if_match: str) -> httpx.Response:
        return client.patch(f"{DEMO}/offload", json={"n_gpu_layers": 3, "wait": True}, headers={"If-Match": if_match})

    stale = refusal(patch(f'"{generation + 1}"'), 412)
    assert (stale["code"], stale["generation"], stale["expected"]) == ("stale_generation", generation, generation + 1)
    for garbage in ("garbage", "", '"x"', 'W/"1"', '"1", "2"', '"-1"', "9" * 100):
        assert refusal(patch(garbage), 422)["param"] == "If-Match"
    assert answer(patch(f'"{generation}"'))["generation"] == generation + 1
    answer(patch("*"))


def test_a_model_that_is_not_loaded_has_no_placement_to_change(client: httpx.Client) -> None:
    """PATCH offload and GET memory of a model that is not loaded are a 409; unloading it is success."""
    assert refusal(client.patch(f"{DEMO}/offload", json={}), 409)["code"] == "not_loaded"
    assert refusal(client.get(f"{DEMO}/memory"), 409)["code"] == "not_loaded"
    assert unload(client)["state"] == "succeeded"


def test_fifty_equal_loads_at_once_are_one_job(client: httpx.Client) -> None:
    """Whoever asks for what is under way already is given that job, and the bytes travel once."""
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: load(client, n_gpu_layers=30), range(50)))

    assert {job["state"] for job in answers} == {"succeeded"}
    copied = [job for job in answers if job["bytes_total"]]
    assert len({job["id"] for job in copied}) == 1
    assert {job["generation"] for job in answers} == {copied[0]["generation"]}
    assert_books_balance(client)


def test_twenty_cycles_leave_nothing_behind(client: httpx.Client) -> None:
    """After twenty loads and unloads no byte is held and no file is open."""
    for n in range(20):
        load(client, n_gpu_layers=n % 4)
        unload(client)

    memory = answer(client.get("/v1/memory"))
    assert memory["models"] == []
    assert [row["used_bytes"] + row["reserved_bytes"] + row["retired_bytes"] for row in memory["devices"]] == [0, 0]
    assert memory["host"]["mapped_bytes"] == memory["host"]["locked_bytes"] == 0
    assert open_files() == {}


def test_a_small_model_with_a_slash_in_its_id_does_all_of_it(client: httpx.Client) -> None:
    """Ids may hold slashes; a second model is loaded beside the first."""
    load(client, n_gpu_layers=12)

    load(client, TINY, n_gpu_layers="all", devices=["sim:1"])
    assert set(devices_of(client, TINY).values()) == {"sim:1"}
    assert [model["id"] for model in answer(client.get("/v1/memory"))["models"]] == [DEMO_ID, "org/tiny"]
    offload(client, TINY, n_gpu_layers=0)
    unload(client, TINY)
    assert_books_balance(client)


def test_a_loaded_model_says_what_it_was_asked_to_be(client: httpx.Client) -> None:
    """All of it, with the defaults, as the body of a load that asks for the same; null where it is not loaded."""
    unload(client)
    assert answer(client.get(DEMO))["request"] is None
    wished = {"n_gpu_layers": 3, "strategy": "best", "devices": ["sim:1"], "margin_bytes": 4096, "keep_alive": 3600}
    context = {"n_ctx": 512, "n_batch": 32, "n_ubatch": 32}
    overrides = [{"pattern": "attn", "device": "cpu"}]
    load(client, **wished, split={"weights": [2]}, context=context, overrides=overrides)
    asked = answer(client.get(DEMO))["request"]

    assert wished.items() <= asked.items()
    assert (asked["host"], asked["n_cpu_moe"], asked["pinned"]) == ("mmap", 0, False)
    assert asked["split"] == {"mode": "layer", "weights": [2.0]}
    assert asked["overrides"] == overrides
    assert asked["context"].items() >= {**context, "n_seq": 1, "cache_type_k": "f16"}.items()
    assert asked.keys() == PlacementBody.model_fields.keys() - {"rebalance", "evict", "wait"}
    assert load(client, **asked)["bytes_total"] == 0
    assert answer(client.post(f"{DEMO}/plan", json=asked))["fits"]

    offload(client, n_gpu_layers=2)
    assert answer(client.get(DEMO))["request"] == {**asked, "n_gpu_layers": 2}
    unload(client)
