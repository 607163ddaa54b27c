"""The models there are, and what their files say: metadata, tensors, layers, memory."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from app.api.byte_ranges import RangeNotSatisfiable, TensorResponse, byte_range
from app.api.conditional import CONDITIONAL, IF_NONE_MATCH, ConditionalJSON
from app.api.deps import AnswersDep, EntryDep, Limit, LoadmasterDep, Offset, OptionalLimit
from app.api.errors import raw_error_response
from app.api.refusals import refusals
from app.api.schemas import (
    FileOut,
    ListOut,
    MetadataOut,
    MetadataValueOut,
    ModelDetailOut,
    ModelMemoryOut,
    ModelOut,
    ProblemOut,
    RequestOut,
    StatisticsOut,
    VocabularyOut,
    encode_models,
    list_of_models,
)
from app.errors import InvalidValue, NotLoaded
from app.gguf import Array
from app.model import LayerKey, statistics
from app.residency.reading import read_metadata
from app.residency.records import LayerMemoryRecord, LayerRecord, ModelState, TensorRecord

router = APIRouter(prefix="/v1/models", tags=["models"], responses=refusals(422))

INLINE_ELEMENTS = 64
HEAD_ELEMENTS = 8


@router.get("", response_model=ListOut[ModelOut], responses=CONDITIONAL, openapi_extra=IF_NONE_MATCH)
async def models(
    answers: AnswersDep,
    loadmaster: LoadmasterDep,
    state: Annotated[ModelState | None, Query(description="Only models in this state.")] = None,
    offset: Offset = 0,
    limit: OptionalLimit = None,
) -> Response:
    """All models: what OpenAI's clients expect of a list of models, and more."""
    if state is None and not offset and limit is None:
        return await answers.models()
    found = [record for record in loadmaster.library.records() if state is None or record.state is state]
    page = found[offset : None if limit is None else offset + limit]
    return ConditionalJSON(encode_models(page, total=len(found)))


@router.post("/rescan", responses=refusals(503))
async def rescan(loadmaster: LoadmasterDep) -> ListOut[ModelOut]:
    """Look at the models directories again, and list what is there now."""
    await loadmaster.rescan()
    return list_of_models(loadmaster.library.records())


@router.get("/{id:model}/metadata", responses=refusals(404, 409, 503))
async def metadata(
    entry: EntryDep,
    key: Annotated[str | None, Query(description="One key, its array whole.")] = None,
    offset: Offset = 0,
    limit: OptionalLimit = None,
) -> MetadataOut | MetadataValueOut:
    """The file's key/value pairs; long arrays in short, unless one is asked for by `key`."""
    stop = None if limit is None else offset + limit
    if key is not None:
        value = await read_metadata(entry, key)
        raw = entry.headers[0].metadata[key]
        kind = (raw.type if isinstance(raw, Array) else entry.headers[0].value_types[key]).name.lower()
        if not isinstance(value, list):
            return MetadataValueOut(key=key, type=kind, value=value, total=1)
        return MetadataValueOut(key=key, type=kind, value=value[offset:stop], total=len(value))
    entry.require_model()
    pairs = entry.headers[0].metadata
    page = {name: _in_short(value) for name, value in list(pairs.items())[offset:stop]}
    return MetadataOut(data=page, total=len(pairs))


@router.get("/{id:model}/tensors", responses=refusals(404))
async def tensors(
    entry: EntryDep,
    loadmaster: LoadmasterDep,
    layer: Annotated[str | None, Query(description="Only this layer: a number, `input` or `output`.")] = None,
    offset: Offset = 0,
    limit: Limit = 1000,
) -> ListOut[TensorRecord]:
    """The tensors in file order, and where their bytes are."""
    found = entry.require_model().tensors
    if layer is not None:
        wanted = _layer_key(layer)
        found = tuple(tensor for tensor in found if tensor.layer == wanted)
    return ListOut(data=loadmaster.library.tensors(entry, found[offset : offset + limit]), total=len(found))


@router.get(
    "/{id:model}/tensors/{name:path}/data",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The tensor's bytes."},
        206: {"content": {"application/octet-stream": {}}, "description": "The range that was asked for."},
        **refusals(404, 409, 416, 503),
    },
)
async def tensor_data(
    entry: EntryDep,
    name: str,
    loadmaster: LoadmasterDep,
    range_: Annotated[str | None, Header(alias="Range", description="One range: `bytes=0-255`.")] = None,
) -> Response:
    """The raw bytes, read back from where the tensor is now: from its slab on a device, else from the file."""
    size = loadmaster.library.tensor(entry, name).nbytes
    try:
        part = byte_range(range_, size)
    except RangeNotSatisfiable:
        message = f"Range: {range_} holds none of the {size} bytes of {name}"
        status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        return raw_error_response(status, message, "Range", {"Content-Range": f"bytes */{size}"})
    reading = await loadmaster.read(entry.id, name)
    start, stop = part or (0, size)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(stop - start),
        "X-Loadmaster-Device": ",".join(reading.devices),
        "X-Loadmaster-Generation": str(reading.generation.number),
    }
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
    return await TensorResponse.begun(reading, start, stop, headers=headers, status_code=status)


@router.get("/{id:model}/statistics", responses=refusals(404))
async def model_statistics(entry: EntryDep) -> StatisticsOut:
    """What the tensors add up to: by type, by layer, the largest, and the experts' share."""
    return StatisticsOut.model_validate(statistics(entry.require_model()))


@router.get("/{id:model}/layers", responses=refusals(404))
async def layers(entry: EntryDep, loadmaster: LoadmasterDep) -> ListOut[LayerRecord]:
    """Every layer with its bytes, parameters, quantisation and devices."""
    found = loadmaster.library.layers(entry)
    return ListOut(data=found, total=len(found))


@router.get("/{id:model}/memory", responses=refusals(404, 409))
async def memory(entry: EntryDep, loadmaster: LoadmasterDep) -> ModelMemoryOut:
    """A loaded model's bytes by device, and by layer."""
    record = loadmaster.memory.model(entry.id)
    if record is None:
        raise NotLoaded(entry.id)
    found = ModelMemoryOut.model_validate(record)
    layers = loadmaster.library.layers(entry)
    found.layers = [LayerMemoryRecord(layer.layer, layer.size_bytes, layer.devices) for layer in layers]
    return found


@router.get("/{id:model}", responses=refusals(404))
async def model(entry: EntryDep, loadmaster: LoadmasterDep) -> ModelDetailOut:
    """One model with hyperparameters, files and facts about its vocabulary."""
    described = entry.model
    listed = ModelOut.model_validate(loadmaster.library.record(entry)).model_dump()
    wish = loadmaster.library.wish(entry.id)
    files = [FileOut.model_validate(file) for file in entry.files]
    if described is None:
        return ModelDetailOut(**listed, files=files)
    vocabulary = described.vocabulary
    return ModelDetailOut(
        **listed,
        request=RequestOut.of(wish, allow_unknown=not described.architecture_known) if wish else None,
        name=described.name,
        architecture_known=described.architecture_known,
        hyperparameters=described.hyperparameters.as_facts(),
        vocabulary=VocabularyOut.model_validate(vocabulary) if vocabulary else None,
        files=files,
        problems=[ProblemOut.model_validate(problem) for problem in described.problems],
        notes=[ProblemOut.model_validate(note) for note in described.notes],
    )


def _in_short(value: Any) -> Any:
    """A value as it is, or a long array's type, length and first elements."""
    if not isinstance(value, Array):
        return value
    if len(value) <= INLINE_ELEMENTS and value.complete:
        return value.tolist()
    return {"type": value.type.name.lower(), "count": len(value), "head": value.head(HEAD_ELEMENTS)}


def _layer_key(text: str) -> LayerKey:
    if text in ("input", "output"):
        return "input" if text == "input" else "output"
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return int(text)
    raise InvalidValue(f'layer: must be a number, "input" or "output", got {text[:100]!r}', param="layer")
