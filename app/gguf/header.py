"""Parse a GGUF header: read, then validate, before anything is allocated. Specification: ggml's docs/gguf.md.

A header is hostile input. It is refused where llama.cpp's reader (ggml/src/gguf.cpp) refuses it, by the same
limits; every refusal names the byte and the field, with the numbers found and allowed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from app.errors import GGUFError, Truncated
from app.gguf.arrays import Array
from app.gguf.cursor import Cursor
from app.gguf.magic import read_version
from app.gguf.metadata import MIN_METADATA_BYTES, Value, read_metadata
from app.gguf.tensors import MIN_TENSOR_BYTES, TensorInfo, padded, read_tensors
from app.gguf.types import MAX_INT64, ValueType

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says before its tensor data.

    `data_offset` is the file's byte where tensor data starts, `data_bytes` the size of that section with each
    tensor padded to `alignment`. Metadata, `value_offsets` and tensors are in file order. Arrays refer to the
    parsed buffer.
    """

    version: int
    alignment: int
    data_offset: int
    data_bytes: int
    metadata: Mapping[str, Value]
    value_types: Mapping[str, ValueType]
    value_offsets: Sequence[int]
    tensors: tuple[TensorInfo, ...]

    def offset_of(self, key: str) -> int:
        """Find the file's byte where a key's value stands, behind its type; 0 where there is no such key."""
        return next((at for known, at in zip(self.metadata, self.value_offsets, strict=True) if known == key), 0)

    def check_data(self, file_bytes: int) -> None:
        """Raise Truncated, naming the first tensor at fault, unless a file of that size holds all tensors.

        The padding behind the last tensor may be missing, as llama.cpp's loader has it.
        """
        ends = [self.data_offset + tensor.offset + tensor.nbytes for tensor in self.tensors]
        if not ends or ends[-1] <= file_bytes:  # the index is packed in order, so the last end is the largest
            return
        index = next(i for i, end in enumerate(ends) if end > file_bytes)
        start = self.data_offset + self.tensors[index].offset
        raise Truncated(
            f"{self.tensors[index].name!r} is bytes {start} to {ends[index]} of a file of {file_bytes}",
            needed_bytes=ends[-1],
            offset=start,
            field=f"tensors[{index}]",
        )

    def detached(self) -> "Header":
        """Return the same header without the buffer: of long arrays it keeps the head, and where they are.

        Copies at most 64 KiB per array. `Array.decode` takes the bytes of one, read again.
        """
        metadata = {
            key: value.detached() if isinstance(value, Array) else value for key, value in self.metadata.items()
        }
        return replace(self, metadata=MappingProxyType(metadata))


def parse_header(buffer: "ReadableBuffer") -> Header:
    """Parse a buffer that holds a GGUF file from byte 0, whole or only a first part of it. Copies none of it.

    Raises NotGGUF, UnsupportedVersion, Malformed, or Truncated where the header goes on behind the buffer's
    end; with a longer part of the file, at least the error's `needed_bytes`, it is worth trying again. Tensor
    data is neither needed nor looked at: `Header.check_data` compares it with the size of the file.
    """
    try:
        with _bytes_of(buffer) as view:
            return _read_header(Cursor(view))
    except GGUFError as error:
        # The parser's frames refer to the buffer, but registries keep errors, and mappings get closed.
        raise error.with_traceback(None) from None


def _bytes_of(buffer: "ReadableBuffer") -> memoryview:
    view = memoryview(buffer)
    return view if view.format == "B" and view.ndim == 1 and view.contiguous else view.cast("B")


def _read_header(cursor: Cursor) -> Header:
    version = read_version(cursor)
    tensor_count = _read_count(cursor, "tensor_count")
    metadata_count = _read_count(cursor, "metadata_kv_count")
    cursor.require(metadata_count * MIN_METADATA_BYTES + tensor_count * MIN_TENSOR_BYTES, "metadata_kv_count")

    metadata = read_metadata(cursor, metadata_count)
    tensors, data_bytes = read_tensors(cursor, tensor_count, metadata.alignment)
    return Header(
        version=version,
        alignment=metadata.alignment,
        data_offset=padded(cursor.position, metadata.alignment),
        data_bytes=data_bytes,
        metadata=MappingProxyType(metadata.values),
        value_types=MappingProxyType(metadata.types),
        value_offsets=metadata.offsets,
        tensors=tensors,
    )


def _read_count(cursor: Cursor, field: str) -> int:
    """Read a number of records; llama.cpp holds it in a signed integer."""
    start = cursor.position
    count = cursor.u64(field)
    if count > MAX_INT64:
        raise cursor.malformed(f"a count of {count}; {MAX_INT64} are allowed", field, offset=start)
    return count
