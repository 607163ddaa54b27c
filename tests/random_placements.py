"""Placements at random, and two models that are large enough for their layers to be on the way for a while."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np

from tests.gguf_builder import F32, UINT32, KeyValue, Tensor, build, llama_parts, split, tensor_data

KIB: Final = 1 << 10
MIB: Final = 1 << 20
DEVICES: Final = ("sim:0", "sim:1")
EXPERTS: Final = 4
PATTERNS: Final = (None, None, None, None, "ffn_up", r"blk\.[0-3]\..*attn", "token_embd", "output", r"blk\.[15]\.")


@dataclass(frozen=True, slots=True, eq=False)
class BuiltModel:
    """A model as it was built: its files by name, and the bytes of its tensors, which are the truth about them."""

    id: str
    n_layer: int
    files: dict[str, bytes] = field(repr=False)
    tensors: dict[str, bytes] = field(repr=False)

    def write(self, directory: Path) -> None:
        """Write the files to a directory."""
        directory.mkdir(exist_ok=True)
        for name, data in self.files.items():
            (directory / name).write_bytes(data)


@cache
def two_models() -> tuple[BuiltModel, BuiltModel]:
    """A tied one of 7.7 MiB in one file, and one of 5.1 MiB with experts and an output of its own in two shards."""
    tied = llama_parts(10, 256, 512, 8, 2048, None, 1, tied=True, uneven=True)
    metadata, tensors = _with_experts(*llama_parts(8, 192, 192, 6, 1024, 3, 2, tied=False, uneven=True))
    shards = split(metadata, tensors, 2)
    return (
        BuiltModel("tied", 10, {"tied.gguf": build(*tied)}, _truth(tied[1])),
        BuiltModel(
            "experts",
            8,
            {f"experts-{number:05}-of-00002.gguf": data for number, data in enumerate(shards, 1)},
            _truth(tensors),
        ),
    )


def _truth(tensors: Sequence[Tensor]) -> dict[str, bytes]:
    return {str(tensor.name): tensor.data for tensor in tensors}


def _with_experts(metadata: list[KeyValue], tensors: Sequence[Tensor]) -> tuple[list[KeyValue], list[Tensor]]:
    """Put EXPERTS experts, and the matrix that chooses among them, in the place of each block's network."""
    rng = np.random.default_rng(3)
    found = []
    for tensor in tensors:
        name = str(tensor.name)
        if any(part in name for part in ("ffn_gate", "ffn_up", "ffn_down")):
            dims = (*tensor.dims, EXPERTS)
            apart = name.replace(".weight", "_exps.weight")
            found.append(Tensor(apart, tensor.type, dims, tensor_data(rng, tensor.type, dims)))
        else:
            found.append(tensor)
        if "ffn_norm" in name:
            dims = (tensor.dims[0], EXPERTS)
            chooser = name.replace("ffn_norm", "ffn_gate_inp")
            found.append(Tensor(chooser, F32, dims, tensor_data(rng, F32, dims)))
    experts = [("llama.expert_count", UINT32, EXPERTS), ("llama.expert_used_count", UINT32, 2)]
    return [*metadata, *experts], found


def chances(*seed: object) -> Random:
    """What to draw from: the same for the same seed."""
    return Random(repr(seed))  # noqa: S311 - chances, no secrets


def random_body(rng: Random, n_layer: int) -> dict[str, Any]:
    """Make the body of an offload that gives every field, so that nothing of the placement before is left in it."""
    strategy = rng.choice(("first", "last", "ends", "best", "llama.cpp"))
    devices = rng.choice((DEVICES, DEVICES, DEVICES[::-1], DEVICES[:1], DEVICES[1:]))
    shares = [rng.randint(1, 9), *(rng.randint(0, 9) for _ in devices[1:])]
    modes = ("layer", "layer", "none") if strategy == "llama.cpp" else ("layer", "layer", "none", "row")
    pattern, elsewhere = rng.choice(PATTERNS), rng.choice((*devices, "cpu"))
    return {
        "n_gpu_layers": rng.choice(("all", "auto", *range(n_layer + 1 + (strategy == "llama.cpp")))),
        "strategy": strategy,
        "devices": list(devices),
        "split": {"mode": rng.choice(modes), "weights": rng.choice(("free", "equal", shares))},
        "overrides": [{"pattern": pattern, "device": elsewhere}] if pattern else [],
        "n_cpu_moe": rng.choice((0, 0, rng.randint(0, n_layer))),
        "margin_bytes": rng.choice((0, 64 * KIB)),
        "host": rng.choice(("mmap", "mmap", "mmap", "buffered")),
        "evict": False,
        "rebalance": rng.random() < 0.3,
    }


def random_range(rng: Random, nbytes: int) -> tuple[int, int]:
    """Choose a range of so many bytes: all of them, one, or any."""
    start = rng.randrange(nbytes)
    return rng.choice(((0, nbytes), (start, start + 1), (start, rng.randint(start + 1, nbytes))))
