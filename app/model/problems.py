"""A problem is a value: what a file says about its model that cannot be, and exactly where."""

from dataclasses import dataclass
from enum import StrEnum

from app.model.layers import LayerKey


class ProblemKind(StrEnum):
    """What is wrong, in one word."""

    MISSING = "missing"
    """A required key or tensor is not there."""
    UNEXPECTED = "unexpected"
    """A tensor is there that this model cannot have."""
    WRONG_DIMENSIONS = "wrong_dimensions"
    """A tensor's dimensions contradict the hyperparameters."""
    WRONG_TYPE = "wrong_type"
    """A tensor is of a type that ggml cannot compute with in its place."""
    HYPERPARAMETER = "hyperparameter"
    """A key holds a value of the wrong type, out of range, or in contradiction to another."""
    INVALID_DATA = "invalid_data"
    """A tensor holds a number that nobody can compute with: a scale, or a weight, that is NaN or infinite."""
    WRONG_COPY = "wrong_copy"
    """A device's copy of a tensor differs from the file."""
    LOST_COPY = "lost_copy"
    """A device's copy of a tensor is gone with the device."""
    FILE_CHANGED = "file_changed"
    """The file is not what it was when the model was described, or ends too early."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason not to load a model. Whatever does not apply is None."""

    kind: ProblemKind
    message: str
    layer: LayerKey | None = None
    tensor: str | None = None
    key: str | None = None
    expected: str | None = None
    found: str | None = None
