"""What can be asked of a service, without any I/O: paths, bodies, and how answers are read, each in one place.

A question is a generator: it yields requests, is sent their answers, and returns the result. Whoever drives it does
the I/O: `Client` blocks and `AsyncClient` awaits, and neither knows more than that.

In the examples `client` is a `Client` of a service that has the demo model and two devices of 64 MiB, and `MODEL` is
the demo model's id; with an `AsyncClient` they read the same, with `await`.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Unpack
from urllib.parse import quote

from loadmaster.errors import Refused, UnexpectedAnswer, refusal
from loadmaster.placement import Placement
from loadmaster.records import (
    JSON,
    Device,
    Job,
    Layer,
    Memory,
    Model,
    ModelDetail,
    ModelMemory,
    Plan,
    Record,
    Statistics,
    Tensor,
    Token,
    read,
)

T = TypeVar("T")
R = TypeVar("R", bound=Record)

PAGE = 10_000
"""How many tensors are asked for at once: the most that the service gives."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. A patient one is answered when the work is done, however long that takes."""

    method: str
    path: str
    body: JSON | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    patient: bool = False
    raw: bool = False
    """Whether the answer is bytes, not JSON."""


Question = Generator[Request, Any, T]


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────


def models(*, state: str | None = None) -> Question[tuple[Model, ...]]:
    """All models, or those in one state: available, loading, loaded, moving, unloading, invalid, failed.

    >>> [model.id for model in client.models(state="available")]
    ['smollm2-135m-instruct.q4_1']
    """
    return (yield from _list(Model, "/v1/models", {} if state is None else {"state": state}))


def model(model: str) -> Question[ModelDetail]:
    """One model with its details. Raises NotFound.

    >>> found = client.model(MODEL)
    >>> found.state, found.n_layer, found.vocabulary.n_tokens
    ('available', 30, 49152)
    """
    return read(ModelDetail, (yield Request("GET", _path(model))))


def rescan() -> Question[tuple[Model, ...]]:
    """Look at the models directories again; returns the models that are there now.

    >>> len(client.rescan())
    1
    """
    return _all(Model, (yield Request("POST", "/v1/models/rescan")))


def metadata(model: str) -> Question[dict[str, Any]]:
    """The file's key/value pairs in file order; of a long array only its type, count and head.

    >>> pairs = client.metadata(MODEL)
    >>> pairs["general.architecture"], pairs["tokenizer.ggml.tokens"]["count"]
    ('llama', 49152)
    """
    pairs: dict[str, Any] = _part((yield Request("GET", _path(model, "metadata"))), "data")
    return pairs


def metadata_value(model: str, key: str) -> Question[Any]:
    """One value of the metadata, an array whole. Raises NotFound.

    >>> client.metadata_value(MODEL, "tokenizer.ggml.tokens")[:2]
    ['<|endoftext|>', '<|im_start|>']
    """
    return _part((yield Request("GET", _path(model, "metadata"), params={"key": key})), "value")


def statistics(model: str) -> Question[Statistics]:
    """What the model's tensors add up to: by type, by layer, and the largest.

    >>> numbers = client.statistics(MODEL)
    >>> numbers.parameters, numbers.by_type[0].type
    (134515008, 'Q4_1')
    """
    return read(Statistics, (yield Request("GET", _path(model, "statistics"))))


def layers(model: str) -> Question[tuple[Layer, ...]]:
    """The model's layers, and where their bytes are.

    >>> client.layers(MODEL)[0].role, sum(layer.size_bytes for layer in client.layers(MODEL))
    ('input', 96576768)
    """
    return (yield from _list(Layer, _path(model, "layers")))


def tensors(model: str, *, layer: int | Literal["input", "output"] | None = None) -> Question[tuple[Tensor, ...]]:
    """The model's tensors, or those of one layer, in file order, and where their bytes are.

    >>> [tensor.name for tensor in client.tensors(MODEL, layer="output")]
    ['output_norm.weight']
    """
    chosen: dict[str, str | int] = {} if layer is None else {"layer": layer}
    found: tuple[Tensor, ...] = ()
    while page := (yield from _list(Tensor, _path(model, "tensors"), {**chosen, "limit": PAGE, "offset": len(found)})):
        found += page
        if len(page) < PAGE:
            break
    return found


def tensor_data(model: str, name: str, *, start: int = 0, stop: int | None = None) -> Question[bytes]:
    r"""A tensor's bytes, copied from where they are now: from a device's memory, else from the file.

    `start` and `stop` are byte offsets in it; all bytes, if left out.

    >>> len(client.tensor_data(MODEL, "output_norm.weight")), client.tensor_data(MODEL, "output_norm.weight", stop=4)
    (2304, b'\x00\x00\xe1?')
    """
    part = "" if stop is None else str(stop - 1)
    headers = {"Range": f"bytes={start}-{part}"} if start or stop is not None else {}
    path = f"{_path(model, 'tensors')}/{quote(name, safe='')}/data"
    data: bytes = yield Request("GET", path, headers=headers, raw=True)
    return data


# ── text and tokens ──────────────────────────────────────────────────────────────────────────────────────────────


def tokenize(model: str, text: str, *, add_special: bool = False, parse_special: bool = True) -> Question[list[int]]:
    """The token ids of a text; with `add_special` those that the model wants around it, too.

    >>> client.tokenize(MODEL, "Hello world")
    [19556, 905]
    """
    body = {"content": text, "add_special": add_special, "parse_special": parse_special}
    tokens: list[int] = _part((yield Request("POST", _path(model, "tokenize"), body)), "tokens")
    return tokens


def detokenize(model: str, tokens: list[int]) -> Question[str]:
    """The text of token ids.

    >>> client.detokenize(MODEL, [19556, 905])
    'Hello world'
    """
    text: str = _part((yield Request("POST", _path(model, "detokenize"), {"tokens": tokens})), "content")
    return text


def vocabulary(model: str, *, q: str = "", offset: int = 0, limit: int = 1000) -> Question[tuple[Token, ...]]:
    """A part of the vocabulary, by id: `limit` tokens after the first `offset`; with `q`, of those that hold it.

    >>> len(client.vocabulary(MODEL, offset=100, limit=5))
    5
    """
    params: dict[str, str | int] = {"offset": offset, "limit": limit, **({"q": q} if q else {})}
    return (yield from _list(Token, _path(model, "vocabulary"), params))


# ── placement ────────────────────────────────────────────────────────────────────────────────────────────────────


def plan(model: str, *, table: bool = False, **placement: Unpack[Placement]) -> Question[Plan]:
    """What a load would do; look at `fits`. With `table`, for every number of layers, too. Changes nothing.

    >>> found = client.plan(MODEL, n_gpu_layers="all", devices=["sim:0"])
    >>> found.fits, found.largest_n_gpu_layers
    (False, 16)
    """
    return read(Plan, (yield Request("POST", _path(model, "plan"), {**placement, "table": table})))


def load(model: str, *, wait: bool = True, **placement: Unpack[Placement]) -> Question[Job]:
    """Load a model, or bring a loaded one to where this says. Returns the job: ended if `wait`, else just begun.

    Raises DoesNotFit with its numbers, Busy while another change of this model is under way, InvalidModel, and with
    `wait` whatever the job fails with.

    >>> client.load(MODEL, n_gpu_layers=12).state
    'succeeded'
    >>> try:
    ...     client.load(MODEL, n_gpu_layers="all", devices=["sim:0"])
    ... except DoesNotFit as error:
    ...     print(error.device, error.required_bytes, error.available_bytes, error.largest_n_gpu_layers)
    sim:0 96576768 67108864 16
    """
    return (yield from _change("POST", _path(model, "load"), placement, wait=wait))


def offload(
    model: str, *, generation: int | None = None, wait: bool = True, **placement: Unpack[Placement]
) -> Question[Job]:
    """Change where a loaded model's layers are, while it is in use; what is left out stays as it is.

    With `generation`, only if that is the present one. Raises StaleGeneration, NotLoaded, and what `load` raises.

    >>> client.load(MODEL, n_gpu_layers=12).bytes_total
    56680704
    >>> client.offload(MODEL, n_gpu_layers=0).bytes_total  # copies nothing: the file is still there
    0
    """
    headers = {} if generation is None else {"If-Match": f'"{generation}"'}
    return (yield from _change("PATCH", _path(model, "offload"), placement, wait=wait, headers=headers))


def unload(model: str, *, wait: bool = True) -> Question[Job]:
    """Give a model's memory back; a load that is under way is called off.

    >>> client.unload(MODEL).state
    'succeeded'
    """
    return (yield from _change("POST", _path(model, "unload"), {}, wait=wait))


def touch(model: str) -> Question[Model]:
    """Count as a use of a loaded model: of idle ones, those that were used longest ago make room first.

    >>> client.load(MODEL, n_gpu_layers=1).state, client.touch(MODEL).used_at is not None
    ('succeeded', True)
    """
    return read(Model, (yield Request("POST", _path(model, "touch"))))


def verify(model: str, *, deep: bool = False, wait: bool = True) -> Question[Job]:
    """Check a model's structure, and with `deep` every byte of it: valid data, and true copies on devices.

    The job succeeds even where it finds problems: look at its `result`.

    >>> client.verify(MODEL).result.summary
    'structure: 32 of 32 layers ok, no problems'
    """
    return (yield from _change("POST", _path(model, "verify"), {"deep": deep}, wait=wait))


# ── memory and jobs ──────────────────────────────────────────────────────────────────────────────────────────────


def devices() -> Question[tuple[Device, ...]]:
    """The accelerators, and the host, with what they can do.

    >>> [device.id for device in client.devices()]
    ['sim:0', 'sim:1', 'cpu']
    """
    return (yield from _list(Device, "/v1/devices"))


def memory() -> Question[Memory]:
    """All memory at one moment: accelerators, host, loaded models.

    >>> [(device.id, device.limit_bytes) for device in client.memory().devices]
    [('sim:0', 67108864), ('sim:1', 67108864)]
    """
    return read(Memory, (yield Request("GET", "/v1/memory")))


def model_memory(model: str) -> Question[ModelMemory]:
    """A loaded model's bytes, by device and by layer. Raises NotLoaded.

    >>> client.load(MODEL, n_gpu_layers="all").state, client.model_memory(MODEL).gpu_percent
    ('succeeded', 100.0)
    """
    return read(ModelMemory, (yield Request("GET", _path(model, "memory"))))


def jobs() -> Question[tuple[Job, ...]]:
    """All jobs that run and the last that ended, newest first.

    >>> client.load(MODEL, n_gpu_layers=2).id == client.jobs()[0].id
    True
    """
    return (yield from _list(Job, "/v1/jobs"))


def job(job: str) -> Question[Job]:
    """One job by its id. Raises NotFound.

    >>> client.job(client.load(MODEL).id).kind
    'load'
    """
    return read(Job, (yield Request("GET", _job(job))))


def cancel(job: str) -> Question[Job]:
    """Call a job off: everything that it staged is undone. One that has ended stays as it ended.

    >>> client.cancel(client.load(MODEL).id).state
    'succeeded'
    """
    return read(Job, (yield Request("DELETE", _job(job))))


# ── how questions are put ────────────────────────────────────────────────────────────────────────────────────────


def job_events(job: str) -> str:
    """The path of the stream of one job."""
    return f"{_job(job)}/events"


def failure(job: Job) -> Refused | None:
    """The error of a job that has come to nothing; None for any other."""
    return None if job.error is None else refusal(None, job.error)


def _change(
    method: str, path: str, body: Mapping[str, Any], *, wait: bool, headers: Mapping[str, str] | None = None
) -> Question[Job]:
    asked = Request(method, path, {**body, "wait": wait}, headers=headers or {}, patient=wait)
    return read(Job, (yield asked))


def _list(kind: type[R], path: str, params: Mapping[str, str | int] | None = None) -> Question[tuple[R, ...]]:
    return _all(kind, (yield Request("GET", path, params=params or {})))


def _all(kind: type[R], body: Any) -> tuple[R, ...]:
    return tuple(read(kind, one) for one in _part(body, "data"))


def _part(body: Any, name: str) -> Any:
    if not isinstance(body, dict) or name not in body:
        raise UnexpectedAnswer(f"expected an object with {name!r}, got {str(body)[:100]!r}")
    return body[name]


def _path(model: str, action: str | None = None) -> str:
    """Ids hold slashes, which stay; everything else that is not plain is escaped."""
    path = f"/v1/models/{quote(model, safe='/')}"
    return f"{path}/{action}" if action else path


def _job(job: str) -> str:
    return f"/v1/jobs/{quote(job, safe='')}"
