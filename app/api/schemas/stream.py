"""What is encoded by us, and not by the framework: events, and the answers that are kept."""

from collections.abc import Sequence

from pydantic import TypeAdapter

from app.api.schemas.changes import JobOut
from app.api.schemas.envelopes import Out
from app.api.schemas.models import ModelOut, list_of_models
from app.residency.events import Payload
from app.residency.records import JobRecord, MemoryRecord, ModelRecord, Snapshot


class SnapshotOut(Out):
    """The present, as a stream opens with it."""

    models: tuple[ModelOut, ...]
    jobs: tuple[JobOut, ...]
    memory: MemoryRecord


_MEMORY = TypeAdapter(MemoryRecord)


def encode(payload: Payload) -> str:
    """One line of JSON: the same body that the route of that name answers with."""
    match payload:
        case JobRecord():
            return JobOut.model_validate(payload).model_dump_json()
        case ModelRecord():
            return ModelOut.model_validate(payload).model_dump_json()
        case MemoryRecord():
            return encode_memory(payload).decode()
        case Snapshot():
            return SnapshotOut.model_validate(payload).model_dump_json()


def encode_memory(record: MemoryRecord) -> bytes:
    """The body of /v1/memory, and the data of its event."""
    return _MEMORY.dump_json(record)


def encode_models(records: Sequence[ModelRecord], total: int | None = None) -> bytes:
    """The body of /v1/models; `total` where these are a part."""
    return list_of_models(records, total).model_dump_json().encode()
