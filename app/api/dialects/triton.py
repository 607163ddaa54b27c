"""Triton's and KServe's v2 protocol, as far as it is about models and memory: nothing is inferred here.

Shapes: docs/protocol of triton-inference-server/server at commit e1db8a6. Of each model there is one version, "1".
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Path, Request
from pydantic import ValidationError
from pydantic_core import from_json

from app.api.deps import LoadmasterDep
from app.api.dialects.changes import done, naming
from app.api.dialects.lenient import LenientRoute
from app.api.dialects.triton_schemas import (
    VERSION,
    Config,
    ConfigOut,
    IndexBody,
    IndexOut,
    LiveOut,
    MemoryStatisticsOut,
    MemoryUsage,
    ModelMetadataOut,
    ModelReadyOut,
    ModelStatistics,
    ReadyOut,
    RepositoryBody,
    ServerOut,
)
from app.api.errors import translated
from app.api.refusals import refusals_in_words
from app.errors import InvalidValue, MalformedJSON, NotFound, NotLoaded, Unavailable
from app.placement import HOST
from app.residency import Loadmaster
from app.residency.records import ModelRecord, ModelState
from app.residency.registry import Entry

router = APIRouter(prefix="/v2", tags=["Triton"], route_class=LenientRoute)

STATE: Final = {
    ModelState.LOADED: "READY",
    ModelState.MOVING: "READY",
    ModelState.LOADING: "LOADING",
    ModelState.UNLOADING: "UNLOADING",
}
"""All others are UNAVAILABLE."""

# ── the routes ───────────────────────────────────────────────────────────────────────────────────────────────────

ModelName = Annotated[str, Path(alias="model", description="The model's id; it may hold slashes.")]


def _entry(model: ModelName, loadmaster: LoadmasterDep, request: Request) -> Entry:
    """The model's entry, where the path names no version, or the one there is."""
    entry = loadmaster.library.entry(model)
    version = request.path_params.get("version", VERSION)
    if version != VERSION:
        raise NotFound(f"{model} has no version {version[:100]!r}, only {VERSION!r}", param="version", model=model)
    return entry


EntryDep = Annotated[Entry, Depends(_entry)]

# Of two decorators the lower one's route comes first: a path with a version would match the other one, too.


@router.get("", responses=refusals_in_words())
async def server() -> ServerOut:
    """The server, and what it knows of the protocol."""
    return ServerOut()


@router.get("/health/live", responses=refusals_in_words())
async def live() -> LiveOut:
    """The process is alive."""
    return LiveOut()


@router.get("/health/ready", responses=refusals_in_words(503))
async def ready(loadmaster: LoadmasterDep) -> ReadyOut:
    """As /readyz: not before what was loaded in an earlier process is loaded again."""
    if loadmaster.restoring:
        raise Unavailable("models are being loaded again")
    return ReadyOut()


@router.get("/models/stats", responses=refusals_in_words())
async def all_statistics(loadmaster: LoadmasterDep) -> MemoryStatisticsOut:
    """The memory of all loaded models."""
    found = (_statistics(loadmaster, entry.id) for entry in loadmaster.library.entries())
    return MemoryStatisticsOut(model_stats=[one for one in found if one is not None])


@router.get("/models/{model:path}/stats", responses=refusals_in_words(404, 409, 422))
@router.get("/models/{model:path}/versions/{version}/stats", include_in_schema=False)
async def statistics(entry: EntryDep, loadmaster: LoadmasterDep) -> MemoryStatisticsOut:
    """One loaded model's memory: `memory_usage`, in bytes, by device."""
    found = _statistics(loadmaster, entry.id)
    if found is None:
        raise NotLoaded(entry.id)
    return MemoryStatisticsOut(model_stats=[found])


@router.get("/models/{model:path}/ready", responses=refusals_in_words(404, 409, 422))
@router.get("/models/{model:path}/versions/{version}/ready", include_in_schema=False)
async def model_ready(entry: EntryDep, loadmaster: LoadmasterDep) -> ModelReadyOut:
    """Whether the model is loaded: 200, also while its layers move, or 409."""
    if loadmaster.library.record(entry).generation is None:
        raise NotLoaded(entry.id)
    return ModelReadyOut(name=entry.id)


@router.get("/models/{model:path}/config", response_model_exclude_none=True, responses=refusals_in_words(404, 422))
@router.get("/models/{model:path}/versions/{version}/config", response_model_exclude_none=True, include_in_schema=False)
async def config(entry: EntryDep, loadmaster: LoadmasterDep) -> ConfigOut:
    """A model's configuration: of a loaded one where its layers are, in the words of a load's `config`."""
    record, wish = loadmaster.library.record(entry), loadmaster.library.wish(entry.id)
    return ConfigOut(
        name=entry.id,
        n_gpu_layers=record.n_gpu_layers,
        strategy=record.strategy,
        devices=wish.request.devices if wish else None,
    )


@router.get("/models/{model:path}", responses=refusals_in_words(404, 422))
@router.get("/models/{model:path}/versions/{version}", include_in_schema=False)
async def model(entry: EntryDep) -> ModelMetadataOut:
    """A model's metadata, loaded or not."""
    return ModelMetadataOut(name=entry.id)


@router.post("/repository/index", responses=refusals_in_words(400, 413, 422))
async def index(loadmaster: LoadmasterDep, body: Annotated[IndexBody | None, Body()] = None) -> list[IndexOut]:
    """All models and what they are doing; with `ready` only those that are loaded."""
    rows = [_row(record) for record in loadmaster.library.records() if record.type in ("model", None)]
    only_ready = body is not None and body.ready
    return [row for row in rows if row.state == "READY" or not only_ready]


OptionalBody = Annotated[RepositoryBody | None, Body()]
CHANGE_REFUSALS: Final = refusals_in_words(400, 404, 409, 413, 422, 429, 503)


@router.post("/repository/models/{model:path}/load", responses={**CHANGE_REFUSALS, **refusals_in_words(507)})
async def load(model: ModelName, loadmaster: LoadmasterDep, body: OptionalBody = None) -> IndexOut:
    """Load a model, or take a loaded one to where `parameters.config` says; answers when that is done."""
    entry = loadmaster.library.entry(model)
    with naming(model):
        config = _config(body.parameters or {} if body else {})
        await done(
            loadmaster,
            lambda: loadmaster.load(
                model,
                config.request(),
                config.retention(),
                rebalance=config.rebalance,
                evict=config.eviction(),
                allow_unknown=config.allow_unknown_architecture,
            ),
        )
    return _row(loadmaster.library.record(entry))


@router.post("/repository/models/{model:path}/unload", responses=CHANGE_REFUSALS)
async def unload(model: ModelName, loadmaster: LoadmasterDep, body: OptionalBody = None) -> dict[str, str]:
    """Give the model's memory back; answers when it is free. No model has dependents."""
    del body  # unload_dependents is all that may be in it
    with naming(model):
        await done(loadmaster, lambda: loadmaster.unload(model))
    return {}


def _config(parameters: dict[str, Any]) -> Config:
    """The load body in `parameters.config`; a file's content as a parameter is refused."""
    for name in parameters:
        if name.startswith("file:"):
            raise InvalidValue(f"parameters: {name[:100]!r}: models are files of the models directories", param=name)
    given = parameters.get("config")
    if isinstance(given, str):
        try:
            given = from_json(given, allow_inf_nan=False)
        except ValueError as error:
            raise MalformedJSON(f"parameters.config is not JSON: {error}", param="parameters.config") from None
    try:
        return Config.model_validate({} if given is None else given)
    except ValidationError as error:
        found = [{**one, "loc": ("body", "parameters", "config", *one["loc"])} for one in error.errors()]
        raise translated(found) from None


def _row(record: ModelRecord) -> IndexOut:
    reason = str(record.error) if record.error else ""
    return IndexOut(name=record.id, state=STATE.get(record.state, "UNAVAILABLE"), reason=reason)


def _statistics(loadmaster: Loadmaster, model: str) -> ModelStatistics | None:
    """None where the model is not loaded."""
    record = loadmaster.memory.model(model)
    if record is None:
        return None
    usage = [
        MemoryUsage(type="CPU", id=0, byte_size=nbytes)
        if id_ == HOST
        else MemoryUsage(type="GPU", id=loadmaster.accelerators.index(id_), byte_size=nbytes)
        for id_, nbytes in record.devices.items()
    ]
    return ModelStatistics(name=model, memory_usage=usage)
