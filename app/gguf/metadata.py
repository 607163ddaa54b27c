"""The metadata section: key, type, value, one after another."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from app.gguf.arrays import VIEW_BYTES, Array, Scalar
from app.gguf.cursor import Cursor
from app.gguf.types import DEFAULT_ALIGNMENT, MAX_ARRAY_ELEMENTS, SCALAR_LAYOUTS, VALUE_TYPES, ValueType

Value = Scalar | Array

ALIGNMENT_KEY = "general.alignment"
MIN_METADATA_BYTES = 8 + 1 + 4 + 1  # length and one byte of key, type, one byte of value
MAX_FIELD_CHARACTERS = 128  # of a key by which an error names its field


@dataclass(frozen=True, slots=True)
class Metadata:
    """The records in file order, and the alignment in bytes that they declare; `offsets[i]` is of the i-th value."""

    values: dict[str, Value]
    types: dict[str, ValueType]
    offsets: Sequence[int]
    alignment: int


def read_metadata(cursor: Cursor, count: int) -> Metadata:
    """Read `count` records."""
    values: dict[str, Value] = {}
    types: dict[str, ValueType] = {}
    offsets = array("Q")
    alignment = DEFAULT_ALIGNMENT
    for index in range(count):
        cursor.record = f"metadata[{index}]"
        key = _read_key(cursor, values)
        if len(key) <= MAX_FIELD_CHARACTERS and key.isprintable():
            cursor.record = key
        start = cursor.position
        types[key] = _read_type(cursor, ".type")
        offsets.append(cursor.position)
        values[key] = _read_value(cursor, types[key])
        if key == ALIGNMENT_KEY:
            alignment = _alignment(cursor, types[key], values[key], start)
    return Metadata(values, types, offsets, alignment)


def _read_key(cursor: Cursor, seen: dict[str, Value]) -> str:
    start = cursor.position
    key = cursor.name(".key")
    if not key:
        raise cursor.malformed("an empty key", ".key", offset=start)
    if key in seen:
        raise cursor.malformed(f"a second value for the key {key[:MAX_FIELD_CHARACTERS]!r}", ".key", offset=start)
    return key


def _read_type(cursor: Cursor, field: str) -> ValueType:
    start = cursor.position
    number = cursor.u32(field)
    value_type = VALUE_TYPES.get(number)
    if value_type is None:
        message = f"unknown value type {number}; 0 to {max(VALUE_TYPES)} are known"
        raise cursor.malformed(message, field, offset=start)
    return value_type


def _read_value(cursor: Cursor, value_type: ValueType) -> Value:
    if value_type is ValueType.ARRAY:
        return _read_array(cursor)
    if value_type is ValueType.STRING:
        return str(cursor.string(""), "utf-8", "replace")  # as array elements are: for display, never a name
    number: Scalar = cursor.numbers(SCALAR_LAYOUTS[value_type], "")[0]
    return number


def _read_array(cursor: Cursor) -> Array:
    """Find out where an array ends, and decode none of it."""
    start = cursor.position
    element_type = _read_type(cursor, ".element_type")
    if element_type is ValueType.ARRAY:
        raise cursor.malformed("an array of arrays, which GGUF does not have", ".element_type", offset=start)
    count = cursor.u64(".count")
    if count > MAX_ARRAY_ELEMENTS:
        message = f"an array of {count} elements; {MAX_ARRAY_ELEMENTS} are allowed"
        raise cursor.malformed(message, ".count", offset=start + 4)
    start = cursor.position
    if element_type is ValueType.STRING:
        cursor.skip_strings(count)
    else:
        cursor.skip(count * SCALAR_LAYOUTS[element_type].size, "")
    data = cursor.view[start : cursor.position]
    held = data if len(data) > VIEW_BYTES else bytes(data)
    return Array(type=element_type, count=count, offset=start, nbytes=len(data), _data=held, _held=count)


def _alignment(cursor: Cursor, value_type: ValueType, value: Value, start: int) -> int:
    """Check `general.alignment`, whose type stands at byte `start`; 1 is a power of two."""
    if value_type is not ValueType.UINT32 or not isinstance(value, int):
        raise cursor.malformed(f"an alignment of type {value_type.name}; it must be UINT32", ".type", offset=start)
    if value.bit_count() != 1:
        raise cursor.malformed(f"an alignment of {value} bytes; it must be a power of two", "", offset=start + 4)
    return value
