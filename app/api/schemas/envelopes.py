"""What every answer is wrapped in: a list, or an error."""

from collections.abc import Sequence
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from app.api.errors import error_object
from app.errors import LoadmasterError

T = TypeVar("T")


class ErrorObject(BaseModel):
    """What went wrong: a sentence, a stable code, the field at fault, and the numbers behind it."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorObject


class ErrorText(BaseModel):
    """The body of every error in the dialects of Ollama and of Triton."""

    error: str


def _as_object(error: object) -> object:
    return error_object(error) if isinstance(error, LoadmasterError) else error


ErrorOut = Annotated[ErrorObject | None, BeforeValidator(_as_object)]


class Out(BaseModel):
    """What goes out, read from the attributes of a record."""

    model_config = ConfigDict(from_attributes=True)


class ListOut(BaseModel, Generic[T]):
    """A list, or a part of one: `total` counts all there are."""

    object: Literal["list"] = "list"
    data: Sequence[T]
    total: int
