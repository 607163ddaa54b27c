"""What all answers have in common, and how they are read from JSON."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from loadmaster.errors import UnexpectedAnswer

JSON = dict[str, Any]
LayerKey = int | Literal["input", "output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What all answers have in common."""

    body: JSON = field(default_factory=dict, repr=False, compare=False)
    """The JSON object itself, as it was sent."""


R = TypeVar("R", bound=Record)


def read(kind: type[R], body: Any) -> R:
    """The record in a JSON object. Raises UnexpectedAnswer where it is no object, or lacks a field."""
    if not isinstance(body, dict):
        raise UnexpectedAnswer(f"expected a {kind.__name__.lower()}, got {str(body)[:100]!r}")
    found = {}
    for name, convert in _readers(kind).items():
        if name in body:
            found[name] = convert(body[name])
    try:
        return kind(body=body, **found)
    except TypeError:
        lacking = sorted(_readers(kind).keys() - body.keys())
        raise UnexpectedAnswer(f"a {kind.__name__.lower()} without {', '.join(lacking)}") from None


_READERS: dict[type[Record], Mapping[str, Callable[[Any], Any]]] = {}


def _readers(kind: type[Record]) -> Mapping[str, Callable[[Any], Any]]:
    """How the fields of a record are read from JSON values; found out once."""
    if kind not in _READERS:
        hints = get_type_hints(kind)
        _READERS[kind] = {one.name: _reader(hints[one.name]) for one in fields(kind) if one.name != "body"}
    return _READERS[kind]


def _reader(hint: Any) -> Callable[[Any], Any]:
    arguments = get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Record):
        return partial(read, hint)
    if get_origin(hint) is tuple:
        return partial(_read_all, _reader(arguments[0]))
    if get_origin(hint) in (Union, UnionType):
        others = [one for one in arguments if one is not NoneType]
        if len(others) == 1:
            return partial(_read_or_none, _reader(others[0]))
        if all(map(is_dataclass, others)):
            return partial(_read_one_of, others)
    return _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


def _read_all(convert: Callable[[Any], Any], values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list):
        raise UnexpectedAnswer(f"expected a list, got {str(values)[:100]!r}")
    return tuple(map(convert, values))


def _read_or_none(convert: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else convert(value)


def _read_one_of(kinds: list[type[Record]], value: Any) -> Record | None:
    """The first of these records whose fields are all there; the last, if there is none."""
    if value is None:
        return None
    whole = (kind for kind in kinds if isinstance(value, dict) and _readers(kind).keys() <= value.keys())
    return read(next(whole, kinds[-1]), value)
