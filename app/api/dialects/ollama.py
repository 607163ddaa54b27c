"""Ollama's API, as far as it is about models and memory: an empty prompt loads, `keep_alive: 0` unloads.

Shapes: api/types.go of ollama/ollama at commit fb30760; fields of our own stand beside Ollama's, and its clients leave
out what they do not know.
"""

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Response

from app import __version__
from app.api.deps import LoadmasterDep
from app.api.dialects.changes import done, naming
from app.api.dialects.lenient import LenientRoute
from app.api.dialects.ollama_bodies import GenerateBody, Options, ShowBody
from app.api.dialects.ollama_schemas import (
    DetailsOut,
    GenerateOut,
    ProcessesOut,
    ProcessOut,
    ShowOut,
    TagOut,
    TagsOut,
    VersionOut,
)
from app.api.refusals import refusals_in_words
from app.errors import InvalidValue, ModelNotFound, NotLoaded
from app.gguf import Array
from app.placement import HostMode, PlacementRequest
from app.residency import Loadmaster
from app.residency.jobs import Job
from app.residency.reading import read_metadata
from app.residency.registry import Entry
from app.residency.wishes import STAYS

router = APIRouter(tags=["Ollama"], route_class=LenientRoute)

LATEST: Final = ":latest"
INLINE_ELEMENTS: Final = 64
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
NEVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""When a model expires that stays: clients expect a time there, and Ollama's command calls one so far off `Forever`."""

# ── the routes ───────────────────────────────────────────────────────────────────────────────────────────────────


@router.head("/", include_in_schema=False)
async def ping() -> Response:
    """Ollama's command asks whether anybody is there; what a browser gets here is not this dialect's business."""
    return Response()


@router.head("/api/version", include_in_schema=False)
@router.get("/api/version", responses=refusals_in_words())
async def version() -> VersionOut:
    """The version of Loadmaster."""
    return VersionOut(version=__version__)


@router.head("/api/tags", include_in_schema=False)
@router.get("/api/tags", responses=refusals_in_words())
async def tags(loadmaster: LoadmasterDep) -> TagsOut:
    """The models that can be loaded, or are."""
    found = [entry for entry in loadmaster.library.entries() if entry.model and entry.model.type == "model"]
    return TagsOut(models=[_tag(entry) for entry in found])


@router.get("/api/ps", responses=refusals_in_words())
async def processes(loadmaster: LoadmasterDep) -> ProcessesOut:
    """The loaded models, and where their bytes are."""
    found = (_process(loadmaster, entry) for entry in loadmaster.library.entries())
    return ProcessesOut(models=[row for row in found if row is not None])


@router.post("/api/show", responses=refusals_in_words(400, 404, 409, 413, 422, 503))
async def show(body: Annotated[ShowBody, Body()], loadmaster: LoadmasterDep) -> ShowOut:
    """What a model's file says, loaded or not; long arrays are null unless `verbose`."""
    entry = _entry(loadmaster, body.model)
    model, metadata = entry.require_model(), entry.headers[0].metadata
    with naming(entry.id):
        info = {key: await _value(entry, key, verbose=bool(body.verbose)) for key in metadata}
    tensors = [{"name": one.name, "type": one.type, "shape": one.dimensions} for one in model.tensors]
    return ShowOut(
        license=_text(metadata.get("general.license")),
        modelfile=f"FROM {entry.id}\n",
        parameters="\n".join(f"{name:<30} {json.dumps(value)}" for name, value in _options(loadmaster, entry).items()),
        template=_text(metadata.get("tokenizer.chat_template")),
        details=_details(entry),
        model_info={**info, "general.parameter_count": model.parameters},
        tensors=tensors if body.verbose else None,
        modified_at=_moment(entry.created),
    )


@router.post("/api/generate", responses=refusals_in_words(400, 404, 409, 413, 422, 429, 503, 507))
async def generate(body: Annotated[GenerateBody, Body()], loadmaster: LoadmasterDep) -> GenerateOut:
    """Load a model, move its layers, or unload it; answers when that is done. No text is generated."""
    entry = _entry(loadmaster, body.model)
    with naming(entry.id):
        if body.prompt:
            raise InvalidValue(
                f"{entry.id} generates no text here: this service loads models and has no engine; leave the prompt out",
                param="prompt",
            )
        if body.unloads:
            await done(loadmaster, lambda: loadmaster.unload(entry.id))
        else:
            await done(loadmaster, lambda: _load(loadmaster, entry, body))
    return GenerateOut(
        model=body.model,
        created_at=datetime.now(UTC),
        done_reason="unload" if body.unloads else "load",
        options=_options(loadmaster, entry),
    )


async def _load(loadmaster: Loadmaster, entry: Entry, body: GenerateBody) -> Job:
    """Of a loaded model what is left out stays as it is: a call that only names it moves nothing."""
    options = body.options or Options()
    n_layer = entry.require_model().n_layer or 0

    def changed(former: PlacementRequest) -> PlacementRequest:
        return options.changed(former, n_layer, loadmaster.accelerators)

    try:
        return await loadmaster.offload(entry.id, changed if options.names_a_place else None, body.retained)
    except NotLoaded:
        return await loadmaster.load(entry.id, changed(PlacementRequest()), body.retained(STAYS))


# ── what is made of the registry ─────────────────────────────────────────────────────────────────────────────────


def _entry(loadmaster: Loadmaster, name: str) -> Entry:
    """The model of this name; Ollama's clients put `:latest` to a name without a tag. ModelNotFound."""
    try:
        return loadmaster.library.entry(name)
    except ModelNotFound:
        return loadmaster.library.entry(name.removesuffix(LATEST))


def _name(entry: Entry) -> str:
    """The id with a tag: clients that put `:latest` to what has none look it up among the names that we list."""
    return entry.id if ":" in entry.id else entry.id + LATEST


def _tag(entry: Entry) -> TagOut:
    return TagOut(
        name=_name(entry),
        model=_name(entry),
        modified_at=_moment(entry.created),
        size=entry.size_bytes,
        digest=_digest(entry),
        details=_details(entry),
    )


def _process(loadmaster: Loadmaster, entry: Entry) -> ProcessOut | None:
    """None where the model is not loaded."""
    memory = loadmaster.memory.model(entry.id)
    if memory is None:
        return None
    record = loadmaster.library.record(entry)
    options = _options(loadmaster, entry)
    return ProcessOut(
        name=_name(entry),
        model=_name(entry),
        size=memory.total_bytes,
        digest=_digest(entry),
        details=_details(entry),
        expires_at=NEVER if record.expires_at is None else _moment(record.expires_at),
        size_vram=memory.gpu_bytes,
        context_length=options.get("num_ctx") or record.context_length or 0,
        devices=memory.devices,
        options=options,
    )


def _options(loadmaster: Loadmaster, entry: Entry) -> dict[str, int | bool]:
    """The options that would bring a loaded model to where it is; none where it is not loaded."""
    wish, n_gpu_layers = loadmaster.library.wish(entry.id), loadmaster.library.record(entry).n_gpu_layers
    if wish is None or n_gpu_layers is None:
        return {}
    asked = wish.request
    options: dict[str, int | bool] = {"num_gpu": n_gpu_layers}
    # A wish may be from before a restart, and name a device that is gone.
    if asked.devices is not None and len(asked.devices) == 1 and asked.devices[0] in loadmaster.accelerators:
        options["main_gpu"] = loadmaster.accelerators.index(asked.devices[0])
    if asked.context is not None and asked.context.n_ctx is not None:
        options["num_ctx"] = asked.context.n_ctx
    options["use_mmap"] = asked.host is not HostMode.BUFFERED
    options["use_mlock"] = asked.host is HostMode.MLOCK
    return options


def _details(entry: Entry) -> DetailsOut:
    model = entry.require_model()
    return DetailsOut(
        family=model.architecture,
        families=[model.architecture],
        parameter_size=_shortened(model.parameters),
        quantization_level=model.quantization or "unknown",
    )


def _digest(entry: Entry) -> str:
    """Another one for another file: of names, sizes and times of modification, for contents are not hashed."""
    files = [(file.shown_path, file.size_bytes, file.mtime_ns) for file in entry.files]
    return sha256(repr((entry.id, files)).encode()).hexdigest()


def _shortened(parameters: int) -> str:
    """As Ollama writes it (format/format.go): 134.52M, 7.6B."""
    for least, digits, unit in ((10**9, 1, "B"), (10**6, 2, "M"), (10**3, 0, "K")):
        if parameters >= least:
            return f"{parameters / least:.{digits}f}{unit}"
    return str(parameters)


async def _value(entry: Entry, key: str, *, verbose: bool) -> Any:
    value = entry.headers[0].metadata[key]
    if isinstance(value, Array) and not verbose and not (len(value) <= INLINE_ELEMENTS and value.complete):
        return None
    return await read_metadata(entry, key)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _moment(seconds: float) -> datetime:
    """A time since the epoch; one that no calendar has, as a file's may be, is moved to the nearest that it has."""
    return EPOCH + timedelta(seconds=min(max(seconds, 0), (NEVER - EPOCH).total_seconds()))
