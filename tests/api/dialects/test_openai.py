"""OpenAI's own client against the service: `/v1/models` is a superset of what it expects."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.api.server import DEMO_ID, TINY, load


@pytest.fixture
def api(client: httpx.Client) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the shared service."""
    with openai.OpenAI(base_url=str(client.base_url.join("/v1")), api_key="none", max_retries=0) as api:
        yield api


def test_models_are_listed(api: openai.OpenAI, client: httpx.Client) -> None:
    """With what OpenAI's have, and all that ours have beside it: how many layers are where after a load."""
    load(client, TINY, n_gpu_layers=1)
    listed = {model.id: model for model in api.models.list()}

    demo = listed[DEMO_ID]
    assert (demo.object, demo.owned_by, demo.created > 0) == ("model", "loadmaster", True)
    assert demo.model_extra is not None
    assert demo.model_extra["state"] == "available"
    assert (listed["org/tiny"].model_extra or {})["n_gpu_layers"] == 1


def test_an_id_with_a_slash_is_retrieved(api: openai.OpenAI) -> None:
    """The client sends the slash as %2F."""
    assert api.models.retrieve("org/tiny").id == "org/tiny"
    assert api.models.retrieve(DEMO_ID).id == DEMO_ID


def test_errors_are_its_own(api: openai.OpenAI) -> None:
    """An unknown model is its NotFoundError with our code, and so is what an engine would do."""
    with pytest.raises(openai.NotFoundError, match="no model 'org/nope'") as unknown:
        api.models.retrieve("org/nope")
    with pytest.raises(openai.NotFoundError) as no_engine:
        api.chat.completions.create(model=DEMO_ID, messages=[{"role": "user", "content": "Hello!"}])

    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert no_engine.value.code == "route_not_found"
