"""Writes GGUF from the specification with struct: good files, and bad ones by knobs.

Imports nothing from `app` and nothing from the `gguf` package, so that no reader is judged by its own author.
Sizes and offsets are in bytes; dimensions are in GGUF order, fastest first.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
SCALARS = {
    UINT8: "<B", INT8: "<b", UINT16: "<H", INT16: "<h", UINT32: "<I", INT32: "<i", FLOAT32: "<f",
    BOOL: "<B", UINT64: "<Q", INT64: "<q", FLOAT64: "<d",
}  # fmt: skip

F32, F16, Q4_0, Q4_1, Q8_0, Q2_K, Q4_K, Q6_K, I8, I32, I64 = 0, 1, 2, 3, 8, 10, 12, 14, 24, 26, 27
BLOCKS = {  # tensor type: elements and bytes of a block
    F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q4_1: (32, 20), Q8_0: (32, 34), Q2_K: (256, 84),
    Q4_K: (256, 144), Q6_K: (256, 210), I8: (1, 1), I32: (1, 4), I64: (1, 8),
}  # fmt: skip


class Raw(bytes):
    """Bytes that are written as they are, in place of a value, a key or a name with its length."""


class Tensor(NamedTuple):
    """One tensor; `offset` and `n_dims` say something else than the truth where they are given."""

    name: str | bytes
    type: int
    dims: Sequence[int]
    data: bytes = b""
    offset: int | None = None
    n_dims: int | None = None


KeyValue = tuple[str | bytes, int, Any]  # an array's value is (element type, elements)


def build(
    metadata: Sequence[KeyValue] = (),
    tensors: Sequence[tuple[Any, ...]] = (),
    *,
    version: int = 3,
    alignment: int = 32,
    declare_alignment: bool = True,
    magic: bytes = b"GGUF",
    tensor_count: int | None = None,
    metadata_kv_count: int | None = None,
    pad_last: bool = True,
) -> bytes:
    """Write a whole file; `tensors` are Tensor or tuples of its fields.

    An alignment other than 32 is declared as `general.alignment` unless `declare_alignment` is false. The
    counts lie where they are given; without `pad_last` the file ends with the last tensor's last byte.
    """
    pairs = list(metadata)
    if alignment != 32 and declare_alignment:
        pairs.append(("general.alignment", UINT32, alignment))
    index = [Tensor(*tensor) for tensor in tensors]
    header = magic + struct.pack(
        "<IQQ",
        version,
        len(index) if tensor_count is None else tensor_count,
        len(pairs) if metadata_kv_count is None else metadata_kv_count,
    )
    header += b"".join(key_value(*pair) for pair in pairs)
    data = b""
    for tensor in index:
        header += tensor_info(tensor, len(data))
        data += padded(tensor.data, alignment)
    if index and not pad_last:
        data = data[: len(data) - len(padded(index[-1].data, alignment)) + len(index[-1].data)]
    return (padded(header, alignment) if index else header) + data


def padded(data: bytes, alignment: int) -> bytes:
    """Append zeros up to a multiple of `alignment`."""
    return data + bytes(-len(data) % alignment)


def string(text: str | bytes) -> bytes:
    """Put a string's length before it."""
    if isinstance(text, Raw):
        return text
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def key_value(key: str | bytes, kind: int, value: Any) -> bytes:
    """One metadata record."""
    return string(key) + struct.pack("<I", kind) + encoded(kind, value)


def encoded(kind: int, value: Any) -> bytes:
    """Write a value without its type."""
    if isinstance(value, Raw):
        return value
    if kind == STRING:
        return string(value)
    if kind == ARRAY:
        element_type, elements = value
        head = struct.pack("<IQ", element_type, len(elements))
        return head + b"".join(encoded(element_type, element) for element in elements)
    return struct.pack(SCALARS[kind], value)


def tensor_info(tensor: Tensor, offset: int) -> bytes:
    """One record of the tensor index."""
    n_dims = len(tensor.dims) if tensor.n_dims is None else tensor.n_dims
    return (
        string(tensor.name)
        + struct.pack("<I", n_dims)
        + b"".join(struct.pack("<Q", dim % 2**64) for dim in tensor.dims)
        + struct.pack("<IQ", tensor.type, offset if tensor.offset is None else tensor.offset)
    )


def tensor_size(kind: int, dims: Sequence[int]) -> int:
    """Bytes of a tensor's data."""
    block, size = BLOCKS[kind]
    return math.prod(dims) // block * size


def tensor_data(rng: np.random.Generator, kind: int, dims: Sequence[int]) -> bytes:
    """Random weights of a type: F32, F16, Q8_0 or Q4_0, every number and every block's scale finite."""
    if kind in (F32, F16):
        return rng.standard_normal(math.prod(dims)).astype("<f4" if kind == F32 else "<f2").tobytes()
    block, size = BLOCKS[kind]
    blocks = rng.integers(0, 256, (math.prod(dims) // block, size), dtype=np.uint8)
    blocks[:, :2] = rng.uniform(0.001, 0.1, (len(blocks), 1)).astype("<f2").view(np.uint8)
    return blocks.tobytes()


def llama_metadata(
    *, n_layer: int, n_embd: int, n_ff: int, n_head: int, n_head_kv: int, n_vocab: int
) -> list[KeyValue]:
    """List the keys of a llama model, in the order in which converters write them."""
    tokens = ["<unk>", "<s>", "</s>", "▁", *(f"▁{i}" for i in range(4, n_vocab))][:n_vocab]
    return [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, "Tiny Llama"),
        ("general.file_type", UINT32, 2),
        ("llama.block_count", UINT32, n_layer),
        ("llama.context_length", UINT32, 512),
        ("llama.embedding_length", UINT32, n_embd),
        ("llama.feed_forward_length", UINT32, n_ff),
        ("llama.attention.head_count", UINT32, n_head),
        ("llama.attention.head_count_kv", UINT32, n_head_kv),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("llama.rope.dimension_count", UINT32, n_embd // n_head),
        ("tokenizer.ggml.model", STRING, "llama"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.scores", ARRAY, (FLOAT32, [-float(i) for i in range(n_vocab)])),
        ("tokenizer.ggml.token_type", ARRAY, (INT32, [2, 3, 3, *[1] * n_vocab][:n_vocab])),
        ("tokenizer.ggml.bos_token_id", UINT32, 1),
        ("tokenizer.ggml.eos_token_id", UINT32, 2),
    ]


def llama_shapes(
    *, n_layer: int, n_embd: int, n_ff: int, n_kv: int, n_vocab: int, tied: bool, uneven: bool
) -> list[tuple[str, int, tuple[int, ...]]]:
    """List name, type and dimensions of a llama model's tensors, in file order."""
    block = [
        ("attn_norm", F32, (n_embd,)),
        ("attn_q", Q4_0, (n_embd, n_embd)),
        ("attn_k", Q4_0, (n_embd, n_kv)),
        ("attn_v", Q8_0, (n_embd, n_kv)),
        ("attn_output", F16, (n_embd, n_embd)),
        ("ffn_norm", F32, (n_embd,)),
        ("ffn_gate", Q4_0, (n_embd, n_ff)),
        ("ffn_up", Q4_0, (n_embd, n_ff)),
        ("ffn_down", Q8_0, (n_ff, n_embd)),
    ]
    shapes: list[tuple[str, int, tuple[int, ...]]] = [("token_embd.weight", Q8_0, (n_embd, n_vocab))]
    for layer in range(n_layer):
        for role, kind, dims in block:
            own = (Q4_0, Q8_0, F16)[layer % 3] if uneven and len(dims) > 1 else kind
            shapes.append((f"blk.{layer}.{role}.weight", own, dims))
    shapes.append(("output_norm.weight", F32, (n_embd,)))
    if not tied:
        shapes.append(("output.weight", Q8_0, (n_embd, n_vocab)))
    return shapes


def tiny_llama(
    n_layer: int = 4,
    n_embd: int = 64,
    n_ff: int = 128,
    n_head: int = 4,
    n_vocab: int = 96,
    *,
    n_head_kv: int | None = None,
    seed: int = 0,
    tied: bool = True,
    uneven: bool = False,
) -> bytes:
    """Write a complete small llama model with random, finite weights in F32, F16, Q8_0 and Q4_0.

    `n_embd` and `n_ff` are multiples of 32. Without `tied` there is an `output.weight`. With `uneven` the
    matrices of layer i are all Q4_0, Q8_0 or F16 by i modulo 3: no layer is as large as its neighbours.
    """
    return build(*llama_parts(n_layer, n_embd, n_ff, n_head, n_vocab, n_head_kv, seed, tied=tied, uneven=uneven))


def split_llama(shards: int, *, n_layer: int = 4, seed: int = 0, tied: bool = True) -> list[bytes]:
    """Write the model of `tiny_llama` with the same arguments in so many shards, each with a run of its tensors."""
    metadata, tensors = llama_parts(n_layer, 64, 128, 4, 96, None, seed, tied=tied, uneven=False)
    return split(metadata, tensors, shards)


def split(metadata: Sequence[KeyValue], tensors: Sequence[tuple[Any, ...]], shards: int) -> list[bytes]:
    """Write a model in shards, as gguf-split does: all metadata in the first, the split's own keys in each."""
    bounds = [len(tensors) * shard // shards for shard in range(shards + 1)]
    return [
        build(
            [*(metadata if number == 0 else ()), *split_keys(number, shards, len(tensors))],
            tensors[bounds[number] : bounds[number + 1]],
        )
        for number in range(shards)
    ]


def split_keys(number: int, shards: int, tensors: int) -> list[KeyValue]:
    """List the keys of one shard, `number` counted from 0, of a model with so many tensors in all its shards."""
    return [
        ("split.no", UINT16, number),
        ("split.count", UINT16, shards),
        ("split.tensors.count", INT32, tensors),
    ]


def llama_parts(
    n_layer: int,
    n_embd: int,
    n_ff: int,
    n_head: int,
    n_vocab: int,
    n_head_kv: int | None,
    seed: int,
    *,
    tied: bool,
    uneven: bool,
) -> tuple[list[KeyValue], list[Tensor]]:
    """Make the metadata and the tensors of a llama model."""
    n_head_kv = n_head if n_head_kv is None else n_head_kv
    n_kv = n_embd // n_head * n_head_kv
    metadata = llama_metadata(
        n_layer=n_layer, n_embd=n_embd, n_ff=n_ff, n_head=n_head, n_head_kv=n_head_kv, n_vocab=n_vocab
    )
    shapes = llama_shapes(
        n_layer=n_layer, n_embd=n_embd, n_ff=n_ff, n_kv=n_kv, n_vocab=n_vocab, tied=tied, uneven=uneven
    )
    rng = np.random.default_rng(seed)
    return metadata, [Tensor(name, kind, dims, tensor_data(rng, kind, dims)) for name, kind, dims in shapes]
