"""Whatever a client sends is answered with the documented 4xx in the one error shape: never a 500."""

import json

import httpx
import pytest

from tests.api.server import DEMO, TINY, Json, answer, load, refusal

JSON = {"Content-Type": "application/json"}

UNKNOWN_PATHS = [
    "/v1/models/%2e%2e/%2e%2e/etc/passwd",
    "/v1/models/..%2f..%2fetc%2fpasswd",
    "/v1/models//etc/passwd",
    "/v1/models/%2fetc%2fpasswd",
    "/v1/models/a%00b",
    "/v1/models/a%0ab",
    "/v1/models/%ff",
    "/v1/models/%ed%a0%80",
    "/v1/models/" + "a" * 10_000,
    f"{DEMO}.gguf",
    f"{DEMO}/",
    f"{DEMO}/nope",
    DEMO.upper().replace("/V1/MODELS", "/v1/models"),
]

NOT_JSON = {
    "cut off": b"{",
    "nothing but an opening string": b'"',
    "NaN": b'{"margin_bytes": NaN}',
    "infinity": b'{"margin_bytes": -Infinity}',
    "not UTF-8": b'{"strategy": "\xff"}',
    "a lone surrogate": b'{"strategy": "\\ud800"}',
    "a lone surrogate in a key": b'{"\\ud800": 1}',
    "an encoded surrogate": b'"\xed\xa0\x80"',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "arrays 200,000 deep": b"[" * 200_000 + b"]" * 200_000,
    "objects 200,000 deep": b'{"":' * 200_000 + b"1" + b"}" * 200_000,
    "an integer of 10,000 digits": b'{"n_gpu_layers": ' + b"9" * 10_000 + b"}",
}

REFUSED_VALUES: dict[str, list[Json]] = {
    "n_gpu_layers": [1.5, 1.0, True, "12", -1, -2, 31, 2**63, 10**300, 1e300, None, [], {}, "", "ALL", "x" * 50_000],
    "margin_bytes": [1.0, True, "1", -1, 2**63, None],
    "strategy": ["x", "FIRST", None, 1, ["first"]],
    "devices": [
        [],
        "sim:0",
        {},
        1,
        ["sim:0"] * 2,
        ["nope"],
        ["cpu"],
        ["\0"],
        ["x" * 9999],
        [str(n) for n in range(65)],
    ],
    "split": [None, [], "layer"],
    "host": ["x", None, 1],
    "wait": [1, "true", None],
    "rebalance": [1, "true", None],
    "allow_unknown_architecture": [1, "true", None],
    "evict": [1, 0, "true", "models", "none", None, []],
    "pinned": [1, "true", None],
    "keep_alive": [-2, -0.5, 1e10, 10**10, True, "5", "5m", None, []],
    "nope": [1],
    "": [1],
    "n_gpu_layers ": [1],
}

REFUSED_SPLITS: dict[str, list[Json]] = {
    "weights": [
        [],
        [-1, 1],
        [0, 0],
        [1],
        [1, 1, 1],
        [True, 1],
        ["1", 1],
        [None, 1],
        [[1], 1],
        1,
        "x",
        None,
        [1] * 10_000,
    ],
    "mode": ["x", "column", None, 1],
    "nope": [1],
}

REFUSED_QUERIES = [
    *[f"limit={value}" for value in ("0", "-1", "10001", "1e9", "abc", "", "%00", "9" * 5000, "1.5")],
    *[f"offset={value}" for value in ("-1", str(2**63), "abc", "", "1.5")],
]


def plan(client: httpx.Client, content: bytes, **headers: str) -> httpx.Response:
    """Send a body as it is."""
    return client.post(f"{DEMO}/plan", content=content, headers={**JSON, **headers})


@pytest.mark.parametrize("path", UNKNOWN_PATHS, ids=lambda path: path[:60])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_id_is_looked_up_and_nothing_else(client: httpx.Client, path: str, method: str) -> None:
    """Traversal, NUL, bytes that are no text and 10 kB of anything: 404, with no more than 200 characters of it."""
    error = refusal(client.request(method, path if method == "GET" else f"{path}/load"), 404)

    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert len(error["message"]) < 1000


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_no_json_is_a_400(client: httpx.Client, content: bytes) -> None:
    """JSON as its specification has it, of a sane depth."""
    assert refusal(plan(client, content), 400)["code"] == "malformed_json"


def test_a_body_must_say_that_it_is_json(client: httpx.Client) -> None:
    """Other content types are a 400 that says what to send."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "garbage/", ""):
        error = refusal(client.post(f"{DEMO}/plan", content=b"{}", headers={"Content-Type": kind}), 400)
        assert "Content-Type: application/json" in error["message"]
    refusal(client.post(f"{DEMO}/plan", files={"file": b"x"}), 400)


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
def test_a_body_that_is_too_large_is_a_413(client: httpx.Client, chunked: bool) -> None:
    """2 MB are refused in the error shape, however they are sent."""
    body = b" " * (2 << 20)
    content = iter([body]) if chunked else body

    response = client.post(f"{DEMO}/plan", content=content, headers=JSON)

    assert refusal(response, 413)["code"] == "body_too_large"


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b" \n{ } "])
def test_an_absent_or_null_body_is_an_empty_one(client: httpx.Client, content: bytes) -> None:
    """All fields have defaults, and so has the body."""
    assert answer(plan(client, content))["layers"] == answer(client.post(f"{DEMO}/plan"))["layers"]


@pytest.mark.parametrize("name", REFUSED_VALUES)
def test_a_value_that_cannot_be_is_named(client: httpx.Client, name: str) -> None:
    """422 with the field in `param` and in the message, for plan, load and offload alike; nothing is begun."""
    load(client, TINY, n_gpu_layers=1)
    jobs = answer(client.get("/v1/jobs"))

    for value in REFUSED_VALUES[name]:
        for method, action in (("POST", "plan"), ("POST", "load"), ("PATCH", "offload")):
            error = refusal(client.request(method, f"{TINY}/{action}", json={name: value}), 422)
            assert error["code"] in ("invalid_value", "unknown_device")
            assert error["param"].split(".")[0].split("[")[0] == (name or "body")
            assert len(error["message"]) < 500

    assert answer(client.get("/v1/jobs")) == jobs


@pytest.mark.parametrize("name", REFUSED_SPLITS)
def test_a_split_that_cannot_be_is_named(client: httpx.Client, name: str) -> None:
    """The same one level down: `split.weights`, `split.mode`."""
    for value in REFUSED_SPLITS[name]:
        error = refusal(client.post(f"{DEMO}/plan", json={"split": {name: value}}), 422)
        assert error["param"] == f"split.{name}"


def test_a_number_beyond_all_floats_is_refused(client: httpx.Client) -> None:
    """1e400 is JSON, but no number that we could use."""
    for body in (b'{"n_gpu_layers": 1e400}', b'{"margin_bytes": 1e400}', b'{"split": {"weights": [1e400, 1]}}'):
        refusal(plan(client, body), 422)


@pytest.mark.parametrize("body", [[], "x", 1, True, [{}]])
def test_a_body_that_is_no_object_is_a_422(client: httpx.Client, body: Json) -> None:
    """For every route that takes one."""
    for method, action in (("POST", "plan"), ("POST", "load"), ("PATCH", "offload"), ("POST", "unload")):
        assert refusal(client.request(method, f"{DEMO}/{action}", json=body), 422)["param"] == "body"


def test_an_unload_takes_wait_and_nothing_else(client: httpx.Client) -> None:
    """Unknown fields and wrong types are a 422 here too."""
    for body in ({"wait": 1}, {"wait": None}, {"force": True}):
        assert refusal(client.post(f"{DEMO}/unload", json=body), 422)["param"] == next(iter(body))


@pytest.mark.parametrize("query", REFUSED_QUERIES, ids=lambda query: query[:40])
def test_a_query_that_cannot_be_is_named(client: httpx.Client, query: str) -> None:
    """`limit` from 1 to 10000, `offset` from 0 to 2^63 - 1, wherever they are taken."""
    for path in ("/v1/models", f"{DEMO}/tensors", f"{DEMO}/metadata", f"{DEMO}/metadata?key=a", "/v1/jobs"):
        error = refusal(client.get(f"{path}{'&' if '?' in path else '?'}{query}"), 422)
        assert error["param"] == query.partition("=")[0]


@pytest.mark.parametrize("layer", ["foo", "-1", "", "1.5", "²", "9" * 5000, "Input"])
def test_a_layer_that_cannot_be_is_named(client: httpx.Client, layer: str) -> None:
    """A number, `input` or `output`."""
    assert refusal(client.get(f"{DEMO}/tensors", params={"layer": layer}), 422)["param"] == "layer"


def test_an_unknown_state_is_named(client: httpx.Client) -> None:
    """Only states that there are can be asked for."""
    assert refusal(client.get("/v1/models?state=happy"), 422)["param"] == "state"


@pytest.mark.parametrize("path", ["/nope", "/v1", "/v1/nope", "/v1/jobs/x/y", "/v1/memory/x"])
def test_an_unknown_route_is_a_404(client: httpx.Client, path: str) -> None:
    """In the error shape like everything else."""
    assert refusal(client.get(path), 404)["code"] == "route_not_found"


@pytest.mark.parametrize("id_", ["x", "%00", "c" * 10_000])
def test_an_unknown_job_is_a_404(client: httpx.Client, id_: str) -> None:
    """To look at, to cancel and to listen to."""
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        assert refusal(client.request(method, f"/v1/jobs/{id_}{path}"), 404)["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", f"{DEMO}/load", "POST"),
        ("GET", f"{DEMO}/plan", "POST"),
        ("GET", f"{DEMO}/unload", "POST"),
        ("GET", f"{DEMO}/offload", "PATCH"),
        ("POST", f"{DEMO}/offload", "PATCH"),
        ("GET", "/v1/models/rescan", "POST"),
        ("DELETE", DEMO, "GET"),
        ("POST", f"{DEMO}/tensors", "GET"),
        ("PUT", "/v1/memory", "GET"),
        ("POST", "/v1/models", "GET"),
        ("POST", "/healthz", "GET, HEAD"),
        ("PUT", "/v1/jobs/x", "DELETE, GET"),
        ("HEAD", "/v1/events", "GET"),
        ("POST", "/static/dashboard/main.js", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_a_405_that_says_the_right_one(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    """Also a GET of an action: it is a route of ours, not a model that is unknown."""
    response = client.request(method, path)

    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert refusal(response, 405)["code"] == "method_not_allowed"


def test_an_error_is_json_whatever_was_sent(client: httpx.Client) -> None:
    """Values are shown in the message as they were sent, cut where they are long, and never break the answer."""
    response = client.post(f"{DEMO}/plan", json={"strategy": '"\n\x00<script>' * 100})

    error = json.loads(response.content)["error"]
    assert error["message"].startswith("strategy: ")
    assert len(error["message"]) < 300
