"""Makes models to load: the shapes and types of Llama 2 7B in Q4_K_M, 3.8 GiB; for other sizes more or fewer blocks.

Every tensor repeats one run of random blocks of its type with good scales: cheap to make, dense on the disk, and found
good by a deep verification.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.gguf import GGMLType
from benchmarks.verify import good_data
from tests.gguf_builder import F32, Q4_K, Q6_K, Tensor, build, llama_metadata, tensor_size

MODEL = "model"
GIB = 3.8
"""What the 32 blocks of the real one come to."""

EMBEDDING, NETWORK, HEADS, VOCABULARY = 4096, 11008, 32, 32000
RUN_BYTES = 8 << 20
SPARE_BYTES = 1 << 30
"""Left on the disk for everybody else."""


@contextmanager
def synthetic_model(gib: float, directory: Path | None) -> Iterator[Path]:
    """The nearest model of that size, alone in a directory of its own; its id is `MODEL`.

    It stays in `directory`, and is taken from there the next time; without one it lies in a temporary one and goes.
    Its pages are clean. Ends the program where there is no room on the disk.
    """
    with tempfile.TemporaryDirectory(prefix="loadmaster-") as temporary:
        n_layer = nearest_blocks(gib)
        path = (directory or Path(temporary)) / f"llama-{n_layer}-blocks" / f"{MODEL}.gguf"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_model(path, n_layer)
        yield path


def nearest_blocks(gib: float) -> int:
    """How many blocks bring a model next to that size; at least one."""
    ends, two = sum(sizes(0)), sum(sizes(64))
    return max(1, round((gib * 2**30 - ends) / ((two - ends) / 64)))


def sizes(n_layer: int) -> list[int]:
    """Bytes of each tensor."""
    return [tensor_size(kind, dims) for _, kind, dims in shapes(n_layer)]


def shapes(n_layer: int) -> list[tuple[str, int, tuple[int, ...]]]:
    """List name, type and dimensions of every tensor, as llama-quantize chooses them for Q4_K_M."""
    found: list[tuple[str, int, tuple[int, ...]]] = [("token_embd.weight", Q4_K, (EMBEDDING, VOCABULARY))]
    for block in range(n_layer):
        better = Q6_K if more_bits(block, n_layer) else Q4_K
        for name, kind, dims in (
            ("attn_norm", F32, (EMBEDDING,)),
            ("attn_q", Q4_K, (EMBEDDING, EMBEDDING)),
            ("attn_k", Q4_K, (EMBEDDING, EMBEDDING)),
            ("attn_v", better, (EMBEDDING, EMBEDDING)),
            ("attn_output", Q4_K, (EMBEDDING, EMBEDDING)),
            ("ffn_norm", F32, (EMBEDDING,)),
            ("ffn_gate", Q4_K, (EMBEDDING, NETWORK)),
            ("ffn_up", Q4_K, (EMBEDDING, NETWORK)),
            ("ffn_down", better, (NETWORK, EMBEDDING)),
        ):
            found.append((f"blk.{block}.{name}.weight", kind, dims))
    return [*found, ("output_norm.weight", F32, (EMBEDDING,)), ("output.weight", Q6_K, (EMBEDDING, VOCABULARY))]


def more_bits(block: int, n_layer: int) -> bool:
    """Whether the block gets Q6_K: the first and last eighth, and each third between (`use_more_bits`, llama.cpp)."""
    eighth = n_layer // 8
    return block < eighth or block >= 7 * n_layer // 8 or (block - eighth) % 3 == 2


def write_model(path: Path, n_layer: int) -> None:
    """Write the model, and wait until the disk has it: only clean pages can be dropped from the page cache."""
    tensors, offset = [], 0
    for name, kind, dims in shapes(n_layer):
        tensors.append(Tensor(name, kind, dims, offset=offset))
        offset += tensor_size(kind, dims)  # of these shapes always a multiple of the alignment
    free = shutil.disk_usage(path.parent).free
    if free < offset + SPARE_BYTES:
        raise SystemExit(f"{offset / 2**30:.1f} GiB for a model are too much for {free / 2**30:.1f} GiB of free disk")
    metadata = llama_metadata(
        n_layer=n_layer, n_embd=EMBEDDING, n_ff=NETWORK, n_head=HEADS, n_head_kv=HEADS, n_vocab=VOCABULARY
    )
    runs = {kind: good_data(GGMLType(kind), RUN_BYTES).data for kind in (F32, Q4_K, Q6_K)}
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        file.write(build(metadata, tensors))
        for tensor in tensors:
            left = tensor_size(tensor.type, tensor.dims)
            while left:
                left -= file.write(runs[tensor.type][:left])
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
