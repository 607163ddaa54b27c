"""Every error that Loadmaster raises on purpose. Knows nothing of HTTP: `app.api.errors` maps it there.

::

    LoadmasterError                 code, param, facts
    ├── GGUFError                   file, offset, field      the file's fault
    │   ├── NotGGUF
    │   ├── UnsupportedVersion      version
    │   ├── Truncated               needed_bytes
    │   └── Malformed
    ├── InvalidVocabulary           key                      the file's tokens, or what is said of its tokenizer
    │   └── UnsupportedTokenizer    tokenizer
    ├── InvalidValue                param                    a value in a request or a setting that cannot be
    │   ├── UnknownDevice           device
    │   └── MalformedJSON
    ├── ModelError                  model
    │   ├── ModelNotFound
    │   ├── InvalidModel            problem
    │   ├── ModelBusy               job
    │   ├── NotLoaded
    │   ├── StaleGeneration         generation, expected
    │   └── FileChanged             file
    ├── NotFound                    a job, a tensor, a metadata key
    ├── DoesNotFit                  device, required_bytes, available_bytes, largest_n_gpu_layers, pinned, in_use, idle
    ├── DeviceError                 device
    │   ├── DeviceUnavailable
    │   ├── DeviceLost              happened, status
    │   ├── OutOfDeviceMemory       requested_bytes, free_bytes; also a MemoryError
    │   └── TransferFailed          done_bytes, requested_bytes
    ├── HostError                   the host's fault: a file that cannot be read, a limit on locked memory
    ├── Cancelled                   the work was called off
    ├── TooManyClients              limit
    ├── TooManyJobs                 limit
    └── Unavailable                 not now: starting or stopping
"""

from collections.abc import Sequence
from typing import ClassVar, Self

Fact = int | float | str | bool | list[str] | None


class LoadmasterError(Exception):
    """Base of the tree: a sentence, a stable `code`, the request's field at fault (`param`), and numbers."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, **facts: Fact) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.facts = facts

    def __str__(self) -> str:
        return self.message


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────


class GGUFError(LoadmasterError):
    """A GGUF file's own fault. `offset` is in bytes from the start of the file, `field` names what stood there."""

    code = "invalid_gguf"

    def __init__(self, message: str, *, offset: int, field: str, param: str | None = None, **facts: Fact) -> None:
        super().__init__(message, param=param, offset=offset, field=field, **facts)
        self.offset = offset
        self.field = field
        self.file: str | None = None

    def in_file(self, file: str) -> Self:
        """Name the file (the parser sees only bytes) and return the same error, to be raised."""
        self.file = file
        self.facts["file"] = file
        return self

    def __str__(self) -> str:
        where = f"{self.message} (byte {self.offset}, {self.field})"
        return f"{self.file}: {where}" if self.file else where


class NotGGUF(GGUFError):
    """The first four bytes are not `GGUF`."""

    code = "not_gguf"


class UnsupportedVersion(GGUFError):
    """A GGUF version that cannot be read here, or one of the other byte order."""

    code = "unsupported_version"

    def __init__(self, message: str, *, version: int, offset: int, field: str) -> None:
        super().__init__(message, offset=offset, field=field, version=version)
        self.version = version


class Truncated(GGUFError):
    """The bytes end too early: at least `needed_bytes` from the start of the file would have to be there."""

    code = "truncated"

    def __init__(self, message: str, *, needed_bytes: int, offset: int, field: str) -> None:
        super().__init__(message, offset=offset, field=field, needed_bytes=needed_bytes)
        self.needed_bytes = needed_bytes


class Malformed(GGUFError):
    """A field holds what the format does not allow."""

    code = "malformed"


class InvalidVocabulary(LoadmasterError):
    """A file's vocabulary cannot be used. `key` is the metadata key at fault; weights may be loaded all the same."""

    code = "invalid_vocabulary"

    def __init__(self, message: str, *, key: str, param: str | None = None, **facts: Fact) -> None:
        super().__init__(f"{key}: {message}", param=param, key=key, **facts)
        self.key = key


class UnsupportedTokenizer(InvalidVocabulary):
    """A tokenizer, or a pre-tokenizer, that is not known here: `tokenizer` is its name in the file."""

    code = "unsupported_tokenizer"

    def __init__(self, message: str, *, key: str, tokenizer: str | None) -> None:
        super().__init__(message, key=key, tokenizer=tokenizer)
        self.tokenizer = tokenizer


# ── the request ──────────────────────────────────────────────────────────────────────────────────────────────────


class InvalidValue(LoadmasterError):
    """A value that cannot be; `param` names it and the message holds the numbers."""

    code = "invalid_value"


class UnknownDevice(InvalidValue):
    """A device id or UUID that this service does not have."""

    code = "unknown_device"

    def __init__(self, device: str, known: list[str], *, param: str = "devices") -> None:
        super().__init__(
            f"{param}: no device {device!r}; there are {', '.join(known) or 'none'}",
            param=param,
            device=device,
            known=known,
        )


class MalformedJSON(InvalidValue):
    """A body that is not JSON."""

    code = "malformed_json"


class NotFound(LoadmasterError):
    """A job, tensor or metadata key that is not there."""

    code = "not_found"


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────


class ModelError(LoadmasterError):
    """Something about one model, named by its id."""

    def __init__(self, message: str, *, model: str, param: str | None = None, **facts: Fact) -> None:
        super().__init__(message, param=param, model=model, **facts)
        self.model = model


class ModelNotFound(ModelError):
    """No such id in the registry."""

    code = "model_not_found"

    def __init__(self, model: str) -> None:
        shown = model if len(model) <= 200 else model[:200] + "…"
        super().__init__(f"no model {shown!r}", model=shown, param="model")


class InvalidModel(ModelError):
    """The file is listed but cannot be loaded: its header or its structure is wrong, and the message says where."""

    code = "invalid_model"


class ModelBusy(ModelError):
    """Another change of this model is queued or running."""

    code = "busy"

    def __init__(self, model: str, *, job: str, kind: str) -> None:
        super().__init__(f"{model} is busy: {kind} job {job} is not done yet", model=model, job=job)
        self.job = job


class NotLoaded(ModelError):
    """An offload of a model that is not loaded."""

    code = "not_loaded"

    def __init__(self, model: str) -> None:
        super().__init__(f"{model} is not loaded", model=model)


class StaleGeneration(ModelError):
    """`If-Match` named a generation that is no longer (or not yet) the current one."""

    code = "stale_generation"

    def __init__(self, model: str, *, expected: int, generation: int) -> None:
        super().__init__(
            f"{model} is at generation {generation}, not {expected}",
            model=model,
            param="If-Match",
            expected=expected,
            generation=generation,
        )


class FileChanged(ModelError):
    """The file is not the one that was planned: replaced, resized, rewritten or gone."""

    code = "file_changed"


# ── memory and devices ───────────────────────────────────────────────────────────────────────────────────────────


class DoesNotFit(LoadmasterError):
    """A placement needs more than a device has. All in bytes; `largest_n_gpu_layers` is None where nothing fits.

    `pinned`, `in_use` and `idle` are the ids of other models that hold some of the device, and were not evicted.
    """

    code = "does_not_fit"

    def __init__(
        self,
        *,
        device: str,
        required_bytes: int,
        available_bytes: int,
        largest_n_gpu_layers: int | None,
        pinned: Sequence[str] = (),
        in_use: Sequence[str] = (),
        idle: Sequence[str] = (),
    ) -> None:
        largest = "nothing would" if largest_n_gpu_layers is None else f"n_gpu_layers {largest_n_gpu_layers} would"
        others = {"pinned": pinned, "in use": in_use, "idle, but not evicted": idle}
        there = "; ".join(f"{why}: {', '.join(models)}" for why, models in others.items() if models)
        all_pinned = "all models there are " if pinned and not in_use and not idle else ""
        super().__init__(
            f"does not fit: {device} needs {required_bytes} bytes and has {available_bytes}; {largest}"
            + (f"; {all_pinned}{there}" if there else ""),
            param="n_gpu_layers",
            device=device,
            required_bytes=required_bytes,
            available_bytes=available_bytes,
            largest_n_gpu_layers=largest_n_gpu_layers,
            pinned=list(pinned),
            in_use=list(in_use),
            idle=list(idle),
        )
        self.device = device
        self.required_bytes = required_bytes
        self.available_bytes = available_bytes
        self.largest_n_gpu_layers = largest_n_gpu_layers


class DeviceError(LoadmasterError):
    """A device refused or failed. One code for all of them; `reason`, where there is one, tells them apart."""

    code = "device_error"

    def __init__(self, message: str, *, device: str, param: str | None = None, **facts: Fact) -> None:
        super().__init__(message, param=param, device=device, **facts)
        self.device = device


class DeviceUnavailable(DeviceError):
    """The device cannot be opened."""


class DeviceLost(DeviceError):
    """Nothing works on the device any more, and what it held is gone. `status` is the driver's number, if any."""

    def __init__(self, device: str, happened: str, *, param: str | None = None, status: int | None = None) -> None:
        super().__init__(
            f"{device} is lost: {happened}",
            device=device,
            param=param,
            reason="lost",
            happened=happened,
            status=status,
        )
        self.happened = happened


class OutOfDeviceMemory(DeviceError, MemoryError):
    """An allocation failed: `requested_bytes` were asked for, `free_bytes` were there (None where unknown)."""

    def __init__(self, *, device: str, requested_bytes: int, free_bytes: int | None) -> None:
        free = "unknown" if free_bytes is None else f"{free_bytes} bytes"
        super().__init__(
            f"{device}: allocating {requested_bytes} bytes failed, free: {free}",
            device=device,
            reason="out_of_memory",
            requested_bytes=requested_bytes,
            free_bytes=free_bytes,
        )
        self.requested_bytes = requested_bytes
        self.free_bytes = free_bytes


class TransferFailed(DeviceError):
    """A copy failed or came up short: `done_bytes` of `requested_bytes` had arrived."""

    def __init__(self, message: str, *, device: str, done_bytes: int, requested_bytes: int) -> None:
        super().__init__(
            message, device=device, reason="transfer", done_bytes=done_bytes, requested_bytes=requested_bytes
        )
        self.done_bytes = done_bytes
        self.requested_bytes = requested_bytes


class HostError(LoadmasterError):
    """The host refused: a file or directory that cannot be read, or memory that may not be locked."""

    code = "host_error"


# ── the service ──────────────────────────────────────────────────────────────────────────────────────────────────


class Cancelled(LoadmasterError):
    """The work was called off before it was done; everything that it had staged is undone."""

    code = "cancelled"


class TooManyClients(LoadmasterError):
    """More listeners than the service will serve at once."""

    code = "too_many_clients"


class TooManyJobs(LoadmasterError):
    """More jobs that have not ended than the service will take on."""

    code = "too_many_jobs"


class Unavailable(LoadmasterError):
    """Not now: the service is starting or stopping."""

    code = "unavailable"
