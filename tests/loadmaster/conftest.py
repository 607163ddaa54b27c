"""One service that the client's tests share, with nothing loaded at the start of each."""

from collections.abc import Iterator

import pytest

from loadmaster import Client
from tests.api.server import serving


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with the demo model and two simulated devices."""
    with serving(tmp_path_factory.mktemp("state")) as http:
        yield str(http.base_url)


@pytest.fixture
def client(service: str) -> Iterator[Client]:
    """A client of it."""
    with Client(service) as found:
        yield found
        for model in found.models():
            if model.generation is not None or model.job is not None:
                found.unload(model.id)
