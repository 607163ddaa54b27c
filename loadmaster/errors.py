"""What can go wrong, as a client sees it.

::

    LoadmasterError
    ├── Unreachable             nobody answers, or the connection broke off; also a ConnectionError
    ├── UnexpectedAnswer        somebody answers who is no Loadmaster, or one that is too old
    └── Refused                 status, code, param, numbers: the service says no, or a job has failed
        ├── InvalidRequest      a value that cannot be: `param` names it
        ├── InvalidModel        the file's fault
        ├── NotAllowed          no key, or one that may not do this
        ├── NotFound            a model, a job, a tensor, a metadata key
        ├── Busy                job: what the model is busy with
        ├── NotLoaded
        ├── StaleGeneration     generation: the present one
        ├── Cancelled           the work was called off
        ├── DoesNotFit          device, required_bytes, available_bytes, largest_n_gpu_layers
        ├── DeviceError         device
        └── Unavailable         not now: starting, stopping, or too many clients
"""

from collections.abc import Mapping
from typing import Any

_WORDS = frozenset({"message", "type", "code", "param"})


class LoadmasterError(Exception):
    """Base of the tree."""


class Unreachable(LoadmasterError, ConnectionError):
    """Nobody answers at the service's address, or the connection broke off before the answer was whole."""


class UnexpectedAnswer(LoadmasterError):
    """An answer that this library cannot read: of another server, of a proxy, or of a service older than it."""


class Refused(LoadmasterError):
    """The service says no, or the job that was waited for has failed. The text is the service's own sentence.

    `status` is the HTTP status, None where the error is a job's; `code` is stable, `param` the field at fault;
    `numbers` holds everything else that the service told, in bytes where it is memory.
    """

    def __init__(self, status: int | None, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("message") or f"HTTP status {status}"))
        self.status = status
        self.code: str | None = error.get("code")
        self.param: str | None = error.get("param")
        self.numbers = {name: value for name, value in error.items() if name not in _WORDS}


class InvalidRequest(Refused):
    """A value in the request cannot be; `param` names it."""


class InvalidModel(Refused):
    """The file is at fault: it is no GGUF, it is damaged, its structure is wrong, or it has changed under a load."""


class NotAllowed(Refused):
    """The service wants a key, and this is none, or one that may not do this."""


class NotFound(Refused):
    """No such model, job, tensor or metadata key."""


class Busy(Refused):
    """Another change of that model is under way."""

    @property
    def job(self) -> str | None:
        """The id of the job that changes it."""
        return self.numbers.get("job")


class NotLoaded(Refused):
    """Only a loaded model can be asked this."""


class StaleGeneration(Refused):
    """The placement has changed since the generation that the request was meant for."""

    @property
    def generation(self) -> int | None:
        """The present generation."""
        return self.numbers.get("generation")


class Cancelled(Refused):
    """The work was called off; everything is as it was before."""


class DoesNotFit(Refused):
    """More memory is needed than there is, and the numbers say how much."""

    @property
    def device(self) -> str | None:
        """The device that lacks most."""
        return self.numbers.get("device")

    @property
    def required_bytes(self) -> int | None:
        """What the placement needs of it."""
        return self.numbers.get("required_bytes")

    @property
    def available_bytes(self) -> int | None:
        """What can be had of it."""
        return self.numbers.get("available_bytes")

    @property
    def largest_n_gpu_layers(self) -> int | None:
        """How many layers would fit; None where not even 0 would."""
        return self.numbers.get("largest_n_gpu_layers")


class DeviceError(Refused):
    """A device failed, or is gone."""

    @property
    def device(self) -> str | None:
        """Which one."""
        return self.numbers.get("device")


class Unavailable(Refused):
    """Not now: the service starts or stops, or has as many clients and jobs as it takes. Worth another try."""


_BY_CODE: dict[str, type[Refused]] = {
    "invalid_model": InvalidModel,
    "invalid_gguf": InvalidModel,
    "not_gguf": InvalidModel,
    "unsupported_version": InvalidModel,
    "truncated": InvalidModel,
    "malformed": InvalidModel,
    "file_changed": InvalidModel,
    "busy": Busy,
    "not_loaded": NotLoaded,
    "stale_generation": StaleGeneration,
    "cancelled": Cancelled,
    "does_not_fit": DoesNotFit,
    "device_error": DeviceError,
}
_BY_STATUS: dict[int | None, type[Refused]] = {
    400: InvalidRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    412: StaleGeneration,
    413: InvalidRequest,
    422: InvalidRequest,
    429: Unavailable,
    503: Unavailable,
    507: DoesNotFit,
}


def refusal(status: int | None, error: Mapping[str, Any]) -> Refused:
    """The exception for an error object; by its code, and where that says nothing here, by the status."""
    kind = _BY_CODE.get(str(error.get("code"))) or _BY_STATUS.get(status, Refused)
    return kind(status, error)
