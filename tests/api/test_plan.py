"""Plans over HTTP: llama.cpp's own figures, tables, overrides, and whatever cannot be asked."""

import gzip
import json
from collections.abc import Iterator

import httpx
import pytest

from app.placement import DevicePlan
from benchmarks.oracle import FIXTURES, Cell, Row, asked, body, cells, rows
from tests.api.server import DEMO, TINY, Json, answer, refusal, serving

needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the shared fixtures are not here")


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with two devices of ample size, and the models of the oracle: their headers, and nothing after."""
    models = tmp_path_factory.mktemp("oracle")
    for name, sizes in json.loads((FIXTURES / "headers" / "sizes.json").read_text()).items():
        with (models / name).open("wb") as file:
            file.write(gzip.decompress((FIXTURES / "headers" / f"{name}.head.gz").read_bytes()))
            file.truncate(sizes["size"])
    with serving(tmp_path_factory.mktemp("state"), devices="sim:1TiB,sim:1TiB", models=(models,)) as client:
        yield client


def over_http(client: httpx.Client, row: Row) -> list[Cell]:
    """The figures of an oracle's row, beside those that the service plans for the same arguments."""
    path = f"/v1/models/{row['model'].removesuffix('.gguf').lower()}/plan"
    found = answer(client.post(path, json={**body(asked(row)), "allow_unknown_architecture": True}))
    assert found["fits"], found
    return list(cells(row, [DevicePlan(**device) for device in found["devices"]]))


@needs_fixtures
def test_plans_are_what_llama_cpp_says(roomy: httpx.Client) -> None:
    """All rows of the oracle: weights and context within 1 MiB, compute buffers near in nine of ten cells."""
    measured = [cell for row in rows("llamacpp-memory.json") for cell in over_http(roomy, row)]
    compute = [cell for cell in measured if cell.kind == "compute"]

    assert [cell for cell in measured if cell.kind != "compute" and not cell.agrees] == []
    assert sum(cell.agrees for cell in compute) >= 0.9 * len(compute)


@needs_fixtures
def test_contexts_are_what_llama_cpp_says(roomy: httpx.Client) -> None:
    """63 architectures: 95 of 100 rows agree within 1 MiB on every device."""
    found = [over_http(roomy, row) for row in rows("llamacpp-context.json")]

    assert sum(all(cell.agrees for cell in row if cell.kind == "context") for row in found) >= 0.95 * len(found)


def plan(client: httpx.Client, model: str = DEMO, /, **fields: Json) -> Json:
    """Plan, without an error."""
    return answer(client.post(f"{model}/plan", json=fields))


def test_a_table_has_a_row_for_every_n(client: httpx.Client) -> None:
    """Each is what a plan of that n says."""
    table = plan(client, TINY, table=True, context={"n_ctx": 512})["table"]

    assert [row["n_gpu_layers"] for row in table] == [0, 1, 2, 3, 4]
    for row in table:
        alone = plan(client, TINY, n_gpu_layers=row["n_gpu_layers"], context={"n_ctx": 512})
        for device in (*row["devices"], *alone["devices"]):
            if device["id"] == "cpu":
                device.pop("available_bytes")  # the host's is another from one moment to the next
        assert (row["fits"], row["devices"]) == (alone["fits"], alone["devices"])


def test_without_a_table_there_is_none(client: httpx.Client) -> None:
    """And without a context no memory is planned for one."""
    found = plan(client)

    assert found["table"] is None
    assert {device["context_bytes"] + device["compute_bytes"] for device in found["devices"]} == {0}


def test_only_llama_cpp_s_own_strategy_has_its_arguments(client: httpx.Client) -> None:
    """They say all of the request; for the others the advice says why there are none."""
    overrides = [{"pattern": "blk.0.ffn", "device": "cpu"}]
    fields = {"overrides": overrides, "context": {"n_ctx": 512}, "n_gpu_layers": 3}
    theirs, ours = plan(client, TINY, strategy="llama.cpp", **fields), plan(client, TINY, **fields)

    assert theirs["llama_server_args"][:4] == ["-ngl", "3", "-dev", "CUDA0,CUDA1"]
    assert theirs["llama_server_args"][6:10] == ["-ot", "blk.0.ffn=CPU", "-c", "512"]
    assert ours["llama_server_args"] is None
    assert "no_llama_server_args" in {advice["code"] for advice in ours["advice"]}


def test_a_matrix_may_be_on_several_devices(client: httpx.Client) -> None:
    """A layer that is cut by rows has bytes on each device, and no device of its own."""
    found = plan(client, n_gpu_layers="all", split={"mode": "row", "weights": [1, 3]})
    block = found["layers"][1]

    assert block["device"] is None
    assert sum(block["devices"].values()) == block["size_bytes"]
    assert 2.5 < block["devices"]["sim:1"] / block["devices"]["sim:0"] < 3


BAD_DEVICES: list[Json] = ["", "sim:2", "cuda:0", "CPU", "\0", None, 0, []]
REFUSED: dict[str, list[Json]] = {
    "context.n_ctx": [0, -1, 1.5, True, "512", 2**31, 2**64, 10**300],
    "context.n_seq": [0, -1, None, 257, 1.0],
    "context.n_batch": [0, -1, None, 2**31],
    "context.n_ubatch": [0, -1, None, 2**31],
    "context.cache_type_k": ["F16", "q6_k", "", None, 1, "x" * 1000],
    "context.cache_type_v": ["nope", "i8", None],
    "context.flash_attention": [1, "auto", None],
    "context.kv_offload": [1, None],
    "context.kv_unified": ["true", None],
    "context.nope": [1],
    "context": [[], 1, "4096"],
    "n_cpu_moe": [-1, 31, 2**63 - 1, 2**63, None, True, 1.0, "1"],
    "n_gpu_layers": [31, 2**63 - 1],
    "overrides": [None, {}, "x", [{"pattern": "x", "device": "cpu"}] * 300],
    "overrides[0]": [[None], [[]], ["x"]],
    "overrides[0].pattern": [
        [{"pattern": pattern, "device": "cpu"}]
        for pattern in ("", "(", "*", "[z-a]", r"\1", "(?=x)", "a{1001}", "((a{100}){100}){100}", "x" * 1001, None, 1)
    ],
    "overrides[0].device": [[{"pattern": "x", "device": name}] for name in BAD_DEVICES],
    "overrides[1].pattern": [[{"pattern": "x", "device": "cpu"}, {"pattern": "(", "device": "sim:0"}]],
    "overrides[1].device": [[{"pattern": "x", "device": "cpu"}, {"pattern": "x", "device": "sim:9"}]],
    "table": [1, "true", None],
}


def asking(param: str, value: Json) -> Json:
    """A body that has this value in the field at fault."""
    outer, _, inner = param.partition(".")
    return {outer.partition("[")[0]: value} if outer.startswith("overrides") or not inner else {outer: {inner: value}}


@pytest.mark.parametrize("param", REFUSED)
def test_what_cannot_be_is_named(client: httpx.Client, param: str) -> None:
    """422 with the path of the field, whatever stands there."""
    for value in REFUSED[param]:
        error = refusal(client.post(f"{DEMO}/plan", json=asking(param, value)), 422)
        assert error["param"] == param, (value, error)
        assert len(error["message"]) < 2000


@pytest.mark.parametrize("request_", ["plan", "load", "offload"])
def test_load_and_offload_refuse_the_same(client: httpx.Client, request_: str) -> None:
    """One request for all three."""
    answer(client.post(f"{TINY}/load", json={"wait": True}))
    method = "PATCH" if request_ == "offload" else "POST"
    for fields, param in (
        ({"context": {"n_ctx": 0}}, "context.n_ctx"),
        ({"overrides": [{"pattern": "(", "device": "cpu"}]}, "overrides[0].pattern"),
        ({"overrides": [{"pattern": "x", "device": "sim:9"}]}, "overrides[0].device"),
        ({"n_cpu_moe": 5}, "n_cpu_moe"),
        ({"n_gpu_layers": 5}, "n_gpu_layers"),
        ({"n_gpu_layers": 6, "strategy": "llama.cpp"}, "n_gpu_layers"),
        ({"strategy": "llama.cpp", "split": {"mode": "row"}}, "split.mode"),
    ):
        assert refusal(client.request(method, f"{TINY}/{request_}", json=fields), 422)["param"] == param


@pytest.mark.parametrize(
    ("context", "param"),
    [
        ({"cache_type_v": "q8_0", "flash_attention": False}, "context.cache_type_v"),
        ({"n_ctx": 2**31 - 1, "n_seq": 256}, None),
        ({"n_ctx": 2**31 - 1, "n_seq": 4, "kv_unified": True}, None),
    ],
)
def test_a_context_that_the_model_cannot_have(client: httpx.Client, context: Json, param: str | None) -> None:
    """Quantised values need flash attention; a context as long as can be is planned for, and does not fit."""
    response = client.post(f"{DEMO}/plan", json={"context": context, "n_gpu_layers": "all"})

    if param:
        assert refusal(response, 422)["param"] == param
    else:
        assert answer(response)["fits"] is False


def test_no_number_that_is_none(client: httpx.Client) -> None:
    """NaN and infinity are no JSON."""
    for number in ("NaN", "Infinity", "-Infinity"):
        content = f'{{"context": {{"n_ctx": {number}}}}}'
        headers = {"Content-Type": "application/json"}
        assert refusal(client.post(f"{DEMO}/plan", content=content, headers=headers), 400)["code"] == "malformed_json"


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(.*)*(.*)*(.*)*(.*)*x", "(x+x+)+y", "((((.{1,30}){1,30})?)?)?z", "(?i)" + "(a|b|ab)*" * 50]
)
def test_no_pattern_hangs(client: httpx.Client, pattern: str) -> None:
    """What takes a backtracking engine for ever is answered, 64 times over."""
    overrides = [{"pattern": f"{pattern}{number}", "device": "cpu"} for number in range(64)]

    response = client.post(f"{DEMO}/plan", json={"overrides": overrides})

    assert response.status_code in (200, 422)


def test_an_override_may_name_a_device_that_is_not_used_else(client: httpx.Client) -> None:
    """Of the devices that were asked for."""
    overrides = [{"pattern": r"blk\.0\.attn", "device": "sim:1"}]

    found = plan(client, TINY, n_gpu_layers=0, overrides=overrides)
    error = refusal(client.post(f"{TINY}/plan", json={"devices": ["sim:0"], "overrides": overrides}), 422)

    assert {device["id"]: device["weights_bytes"] > 0 for device in found["devices"]} == {
        "sim:0": False,
        "sim:1": True,
        "cpu": True,
    }
    assert error["param"] == "overrides[0].device"
