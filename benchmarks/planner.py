"""How long planning takes: a model of 80 blocks on 8 devices, for every kind of request.

usage: python -m benchmarks.planner [--record] [--rounds N]

The model has the shape of a 70B llama with biases, 963 tensors in all, once dense and once with 16 experts. Half of
its bytes fit on the devices, so that `auto` has to search. Timed as the best of N rounds in processor time, what
an engine needs included; the service answers nothing else meanwhile. `--record` appends the table to RESULTS.md.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple, TypeVar

from app.gguf import parse_header
from app.model import Model, describe
from app.placement import (
    Budget,
    ContextRequest,
    HostMode,
    Override,
    PlacementRequest,
    SplitMode,
    Strategy,
    fits,
    model_needs,
    output_matrix,
    plan,
)
from benchmarks._record import record
from tests.gguf_builder import F32, Q4_K, STRING, UINT32, KeyValue, Tensor, build, tensor_size

Answer = TypeVar("Answer")

N_LAYER: Final = 80
N_DEVICES: Final = 8
FITS_MS: Final = 5
PLAN_MS: Final = 50
TABLE_MS: Final = 200
EMBEDDING, NETWORK, KEYS, VOCABULARY = 8192, 28672, 1024, 128256

CONTEXT: Final = ContextRequest(n_ctx=32768, n_seq=4, cache_type_k="q8_0", cache_type_v="q8_0")
REQUESTS: Final = {
    **{strategy.value: PlacementRequest(strategy=strategy) for strategy in Strategy},
    "split by count": PlacementRequest(split_weights="equal"),
    "split by rows": PlacementRequest(split_mode=SplitMode.ROW),
    "a copy on the host": PlacementRequest(host=HostMode.BUFFERED),
    "with a context": PlacementRequest(context=CONTEXT),
    "llama.cpp, with a context": PlacementRequest(strategy=Strategy.LLAMA_CPP, context=CONTEXT),
    "best, with a context": PlacementRequest(strategy=Strategy.BEST, context=CONTEXT),
    "20 overrides, with a context": PlacementRequest(
        overrides=tuple(Override(rf"blk\.{block}\.ffn_down", "cpu") for block in range(20)), context=CONTEXT
    ),
}


class Row(NamedTuple):
    """One request's measurements: times in milliseconds."""

    request: str
    n: int
    fits: float
    """Only whether it fits: the slowest of this request, all layers, and four fewer than are there."""
    plan: float
    table: float


def large_model(*, n_expert: int = 0) -> Model:
    """Describe a model by its header; there is no data."""
    shape = {
        "context_length": 131072,
        "embedding_length": EMBEDDING,
        "block_count": N_LAYER,
        "feed_forward_length": NETWORK,
        "attention.head_count": 64,
        "attention.head_count_kv": 8,
        "vocab_size": VOCABULARY,
    } | ({"expert_count": n_expert, "expert_used_count": 2} if n_expert else {})
    metadata: list[KeyValue] = [(f"llama.{key}", UINT32, value) for key, value in shape.items()]
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (EMBEDDING, VOCABULARY)}
    for block in range(N_LAYER):
        shapes |= {f"blk.{block}.{name}": dims for name, dims in block_shapes(n_expert).items()}
    shapes |= {"output_norm.weight": (EMBEDDING,), "output.weight": (EMBEDDING, VOCABULARY)}
    tensors, offset = [], 0
    for name, dims in shapes.items():
        kind = F32 if len(dims) == 1 else Q4_K
        tensors.append(Tensor(name, kind, dims, offset=offset))
        offset += tensor_size(kind, dims)
    return describe([parse_header(build([("general.architecture", STRING, "llama"), *metadata], tensors))])


def block_shapes(n_expert: int) -> dict[str, tuple[int, ...]]:
    """The tensors of one block."""
    apart, experts = ("_exps", (n_expert,)) if n_expert else ("", ())
    return {
        "attn_norm.weight": (EMBEDDING,),
        "attn_q.weight": (EMBEDDING, EMBEDDING),
        "attn_k.weight": (EMBEDDING, KEYS),
        "attn_v.weight": (EMBEDDING, KEYS),
        "attn_q.bias": (EMBEDDING,),
        "attn_k.bias": (KEYS,),
        "attn_v.bias": (KEYS,),
        "attn_output.weight": (EMBEDDING, EMBEDDING),
        "ffn_norm.weight": (EMBEDDING,),
        f"ffn_gate{apart}.weight": (EMBEDDING, NETWORK, *experts),
        f"ffn_up{apart}.weight": (EMBEDDING, NETWORK, *experts),
        f"ffn_down{apart}.weight": (NETWORK, EMBEDDING, *experts),
        **({"ffn_gate_inp.weight": (EMBEDDING, n_expert)} if n_expert else {}),
    }


def best_ms(rounds: int, work: Callable[[], object]) -> float:
    """The best processor time of so many rounds, in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def measure(name: str, model: Model, request: PlacementRequest, rounds: int) -> Row:
    """Plan on devices with room for half of the model, with and without the table."""
    each = model.size_bytes // 2 // N_DEVICES
    budgets = [Budget(f"sim:{number}", each * (12 + number) // 16) for number in range(N_DEVICES)]

    def work(ask: Callable[..., Answer], request: PlacementRequest = request, **options: object) -> Answer:
        return ask(
            model.layers,
            budgets,
            request,
            host_bytes=model.size_bytes,
            needs=model_needs(model, model.caches, request.context) if request.context else None,
            output=output_matrix(model),
            expert_share=1 / 8,
            **options,
        )

    there = work(plan)
    fewer = replace(request, n_gpu_layers=max(0, there.n_gpu_layers - 4), n_cpu_moe=there.n_cpu_moe)
    return Row(
        request=name,
        n=there.n_gpu_layers,
        fits=max(
            best_ms(rounds, lambda: work(fits)),
            best_ms(rounds, lambda: work(fits, fewer, current=there.placement)),
            best_ms(rounds, lambda: work(fits, replace(request, n_gpu_layers="all"))),
        ),
        plan=best_ms(rounds, lambda: work(plan)),
        table=best_ms(rounds, lambda: work(plan, table=True)),
    )


def table(measured: list[Row]) -> str:
    """Lay the measurements out as Markdown."""
    lines = ["| request | n | fits, ms | plan, ms | with the table of all n, ms |", "|---|---:|---:|---:|---:|"]
    lines += [f"| {row.request} | {row.n} | {row.fits:.1f} | {row.plan:.1f} | {row.table:.1f} |" for row in measured]
    late = [row.request for row in measured if row.fits > FITS_MS or row.plan > PLAN_MS or row.table > TABLE_MS]
    limits = f"{FITS_MS} ms, {PLAN_MS} ms, and {TABLE_MS} ms with the table"
    verdict = f"Too slow: {'; '.join(late)}." if late else f"All under {limits}."
    return "\n".join([*lines, "", verdict])


def main() -> None:
    """Measure, print, and record where asked to."""
    parser = argparse.ArgumentParser(description="Time the planner.")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    parser.add_argument("--rounds", type=int, default=5, help="of which the best counts")
    options = parser.parse_args()
    dense, sparse = large_model(), large_model(n_expert=16)
    measured = [measure(name, dense, request, options.rounds) for name, request in REQUESTS.items()]
    measured += [
        measure(f"{name}, 16 experts", sparse, REQUESTS[name], options.rounds)
        for name in ("first", "llama.cpp, with a context", "best, with a context")
    ]
    report = table(measured)
    print(report)
    if options.record:
        record("Planning 80 blocks on 8 devices", f"best of {options.rounds} rounds, processor time", report)


if __name__ == "__main__":
    main()
