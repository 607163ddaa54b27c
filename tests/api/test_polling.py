"""Polling: answers that are kept, that say whether they are still the same, and that agree with all others."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import httpx
import pytest

from app.api.events import stream
from app.residency.events import PING, Event
from tests.api.server import DEMO, DEMO_ID, Json, answer, listening, load, refusal, unload, until

KEPT = ("/v1/memory", "/v1/models")


def asked_again(client: httpx.Client, path: str, tag: str) -> httpx.Response:
    """The answer for one who has seen the answer of that tag."""
    return client.get(path, headers={"If-None-Match": tag})


@pytest.mark.parametrize("path", KEPT)
def test_what_was_seen_already_is_not_sent_again(client: httpx.Client, path: str) -> None:
    """304 with the tag and without a body; a browser is told to ask each time."""
    for _ in range(100):  # the host's own figures change when they like
        seen = client.get(path)
        again = asked_again(client, path, seen.headers["etag"])
        if again.status_code == 304:
            break

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == seen.headers["etag"]
    assert seen.headers["cache-control"] == again.headers["cache-control"] == "no-cache"
    assert "content-type" not in again.headers


@pytest.mark.parametrize("path", KEPT)
def test_an_etag_stands_for_just_these_bytes(client: httpx.Client, path: str) -> None:
    """Over changes, no tag is of two answers, and no answer has two tags."""
    tags: dict[str, set[bytes]] = {}
    bodies: dict[bytes, set[str]] = {}
    for n_gpu_layers in (1, 2, 1):
        load(client, n_gpu_layers=n_gpu_layers)
        for _ in range(10):
            seen = client.get(path)
            tags.setdefault(seen.headers["etag"], set()).add(seen.content)
            bodies.setdefault(seen.content, set()).add(seen.headers["etag"])

    assert len(tags) >= 3
    assert all(len(found) == 1 for found in tags.values())
    assert all(len(found) == 1 for found in bodies.values())
    assert all(tag.startswith('"') for tag in tags)


@pytest.mark.parametrize("path", KEPT)
def test_a_change_is_sent_to_those_who_have_seen_the_former(client: httpx.Client, path: str) -> None:
    """However soon after it they ask."""
    tag = client.get(path).headers["etag"]

    load(client, n_gpu_layers=1)

    assert asked_again(client, path, tag).status_code == 200


def test_if_none_match_is_read_as_the_standard_has_it(client: httpx.Client) -> None:
    """One of several, a weak form, any; what is no tag of ours is another answer's."""
    tag = client.get("/v1/models").headers["etag"]

    for same in (tag, f"W/{tag}", f'"other", {tag}', f'"other",W/{tag} , "x"', "*"):
        assert asked_again(client, "/v1/models", same).status_code == 304, same
    for other in ('"other"', tag.strip('"'), "", f'"{tag}', "W/", "é"):
        assert client.get("/v1/models", headers={b"If-None-Match": other.encode()}).status_code == 200, other


def test_a_part_of_the_models_has_a_tag_of_its_own(client: httpx.Client) -> None:
    """A query is answered by the route, the whole ahead of it, and both alike."""
    whole = client.get("/v1/models")
    some = client.get("/v1/models?limit=1")

    assert client.get("/v1/models?offset=0").content == whole.content
    assert some.json()["data"] == whole.json()["data"][:1]
    assert some.json()["total"] == whole.json()["total"] > 1
    assert asked_again(client, "/v1/models?limit=1", some.headers["etag"]).status_code == 304
    assert asked_again(client, "/v1/models?limit=1", whole.headers["etag"]).status_code == 200
    assert refusal(client.get("/v1/models?limit=0"), 422)["param"] == "limit"


@pytest.mark.parametrize("path", KEPT)
def test_what_is_kept_is_behind_the_doors(client: httpx.Client, path: str) -> None:
    """A name that the service does not have is refused, and so is a method that the route does not have."""
    assert refusal(client.get(path, headers={"Host": "evil.example"}), 403)["param"] == "Host"
    assert refusal(client.post(path), 405)
    assert refusal(client.get(f"{path}/"), 404)


def test_routes_events_and_metrics_agree(client: httpx.Client) -> None:
    """They show one record: of the same time, it is the same in each of them."""
    load(client, n_gpu_layers=3)

    def the_same_moment() -> bool:
        with listening(client) as events:
            told: Json = next(events).data["memory"]
        shown = answer(client.get("/v1/memory"))
        assert shown["models"] == told["models"]
        assert [row["used_bytes"] for row in shown["devices"]] == [row["used_bytes"] for row in told["devices"]]
        if told["time"] != shown["time"]:
            return False
        assert told == shown
        return True

    until(the_same_moment)


def test_after_a_change_the_books_and_the_device_agree(client: httpx.Client) -> None:
    """What the device has free is seen as it is after a job that was waited for, not as it was before."""
    for change in (partial(load, client, n_gpu_layers=5), partial(unload, client)):
        answer(client.get("/v1/memory"))
        change()
        for row in answer(client.get("/v1/memory"))["devices"]:
            assert row["total_bytes"] == row["free_bytes"] + row["used_bytes"]


def test_a_model_is_listed_as_it_is(client: httpx.Client) -> None:
    """The list and the model's own route say the same, whatever is done with it."""

    def agree() -> None:
        listed = {model["id"]: model for model in answer(client.get("/v1/models"))["data"]}[DEMO_ID]
        assert listed.items() <= answer(client.get(DEMO)).items()

    agree()
    for body in ({"n_gpu_layers": 2}, {"n_gpu_layers": 2, "pinned": True, "keep_alive": 600}, {"n_gpu_layers": 0}):
        load(client, **body)
        agree()
        answer(client.post(f"{DEMO}/touch"))
        agree()
    unload(client)
    agree()


def test_openapi_says_what_is_answered_and_when_it_is_not(client: httpx.Client) -> None:
    """The body, its tag, the 304, and the header that asks for it."""
    paths = answer(client.get("/openapi.json"))["paths"]

    for path, schema in zip(KEPT, ("MemoryRecord", "ListOut_ModelOut_"), strict=True):
        described = paths[path]["get"]
        whole = described["responses"]["200"]
        assert whole["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{schema}"}
        assert "ETag" in whole["headers"]
        assert "content" not in described["responses"]["304"]
        assert "if-none-match" in {parameter["name"].lower() for parameter in described["parameters"]}


def test_a_ping_is_a_comment() -> None:
    """Clients of event streams pass over it."""

    async def pinged() -> AsyncIterator[Event]:
        yield PING
        yield Event("boot-1", "memory", "{}", None)

    async def main() -> None:
        frames = [frame async for frame in stream(pinged()).body_iterator]
        assert frames == [b": ping\n\n", b"event: memory\ndata: {}\nid: boot-1\n\n"]

    asyncio.run(main())
