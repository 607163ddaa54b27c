"""Typed access to what the lifespan made."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from starlette.convertors import Convertor, register_url_convertor

from app.api.answers import Answers
from app.api.traffic import Traffic
from app.residency import Loadmaster
from app.residency.events import Listener
from app.residency.registry import SUBRESOURCES, Entry


class ModelIdConvertor(Convertor[str]):
    """A model id in a path. None ends in one of our own routes: a GET of an action is a 405, not an unknown model."""

    regex = "(?s:.+)" + "".join(f"(?<!/{name})" for name in sorted(SUBRESOURCES))

    def convert(self, value: str) -> str:
        """As it is: ids are looked up, never joined to a path."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


register_url_convertor("model", ModelIdConvertor())


def _loadmaster(request: Request) -> Loadmaster:
    loadmaster: Loadmaster = request.state.loadmaster
    return loadmaster


LoadmasterDep = Annotated[Loadmaster, Depends(_loadmaster)]


def _answers(request: Request) -> Answers:
    answers: Answers = request.state.answers
    return answers


AnswersDep = Annotated[Answers, Depends(_answers)]

ModelId = Annotated[str, Path(alias="id", description="The model's id; it may hold slashes.")]


def _entry(model: ModelId, loadmaster: LoadmasterDep) -> Entry:
    return loadmaster.library.entry(model)


EntryDep = Annotated[Entry, Depends(_entry)]


async def _listener(
    loadmaster: LoadmasterDep,
    last_event_id: Annotated[str | None, Header(description="Replay what came after this event.")] = None,
) -> AsyncIterator[Listener]:
    """A listener that leaves when the response ends. Made here, for an error inside a stream could not be told."""
    listener = loadmaster.broadcast.listen(last_event_id)
    try:
        yield listener
    finally:
        listener.close()


ListenerDep = Annotated[Listener, Depends(_listener)]


def _traffic(request: Request) -> Traffic:
    traffic: Traffic = request.state.traffic
    return traffic


TrafficDep = Annotated[Traffic, Depends(_traffic)]

Offset = Annotated[int, Query(ge=0, le=2**63 - 1, description="How many to leave out at the front.")]
Limit = Annotated[int, Query(ge=1, le=10_000, description="How many to give at most.")]
OptionalLimit = Annotated[int | None, Query(ge=1, le=10_000, description="How many to give at most; all if left out.")]
