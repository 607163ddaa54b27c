"""What is in the file: bytes to values, no I/O. Specification: ggml's docs/gguf.md.

>>> header = parse_header(data)
>>> header.metadata["general.architecture"], len(header.tensors), header.data_offset

Knows the format; refuses to know files, devices and models. Read `header.py` first, then `metadata.py` and
`tensors.py`, and `cursor.py` for how a hostile file is kept in bounds. `splits.py` says which files are one model,
`blocks.py` whether tensor data can be weights.
"""

from app.gguf.arrays import Array
from app.gguf.blocks import first_invalid_block, is_checkable
from app.gguf.header import Header, parse_header
from app.gguf.metadata import Value
from app.gguf.splits import check_splits
from app.gguf.tensors import TensorInfo
from app.gguf.types import GGMLType, ValueType, tensor_bytes

__all__ = [
    "Array", "GGMLType", "Header", "TensorInfo", "Value", "ValueType",
    "check_splits", "first_invalid_block", "is_checkable", "parse_header", "tensor_bytes",
]  # fmt: skip
