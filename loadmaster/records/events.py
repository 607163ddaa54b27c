"""What a stream of events sends."""

from dataclasses import dataclass

from loadmaster.records.base import Record
from loadmaster.records.changes import Job
from loadmaster.records.memory import Memory
from loadmaster.records.models import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Record):
    """The present, as a stream of events opens with it."""

    models: tuple[Model, ...]
    jobs: tuple[Job, ...]
    memory: Memory


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `data` is a Snapshot, a Job, a Model or a Memory, by the event's `name`.

    Of a name that this library does not know it is a plain Record; its `body` has the JSON.
    """

    id: str
    name: str
    data: Record
