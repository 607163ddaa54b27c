"""What a model needs of each device: weights, context and compute buffers. All sizes are in bytes.

>>> needs = model_needs(model, caches, ContextRequest(n_ctx=8192))
>>> context_bytes(needs, layout)["cuda:0"], compute_bytes(needs, layout)["cpu"]

`model_needs` looks at the model once; the other two are cheap and asked for each placement that is considered. Read
`context.py` (exact) and `activations.py` (near) for where the numbers come from.
"""

from dataclasses import dataclass
from itertools import cycle
from typing import Final

from app.model import Model
from app.model.caches import Caches
from app.placement.activations import Activations, CacheKind, activations
from app.placement.context import ContextRequest, context_size, layer_context_bytes
from app.placement.layout import Layout
from app.placement.slabs import HOST

_COPIES: Final = 4
"""Micro-batches under way in a pipeline of devices (GGML_SCHED_MAX_COPIES, ggml-backend.cpp)."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one context of one model needs, wherever its layers will be."""

    layers: tuple[int, ...]
    """The cache of each of llama.cpp's layers."""
    activations: Activations
    kv_offload: bool
    output_buffer: int
    """Where logits are handed over, one row for each sequence; on the host (llama-context.cpp, output_reserve)."""


def model_needs(model: Model, caches: Caches, request: ContextRequest) -> Needs:
    """Measure a model in a context. Raises InvalidValue for a context that the model cannot have."""
    size = context_size(caches, request, model.context_length)
    graph = activations(model, caches, size)
    return Needs(
        layers=layer_context_bytes(caches, request, size),
        activations=graph,
        kv_offload=request.kv_offload,
        output_buffer=graph.row_of_logits * size.n_seq,
    )


def context_bytes(needs: Needs, layout: Layout) -> dict[str, int]:
    """By device: the caches of the layers that are on it, or all of them on the host. Equal to llama.cpp's."""
    sums = dict.fromkeys((HOST, *layout.devices), 0)
    if not needs.kv_offload:
        sums[HOST] = sum(needs.layers)
        return sums
    for device, nbytes in zip(cycle(layout.blocks), needs.layers, strict=False):
        sums[device] += nbytes
    return sums


def compute_bytes(needs: Needs, layout: Layout) -> dict[str, int]:
    """By device: what the graph of one micro-batch holds at its widest moment, the host's output buffer included.

    Near llama.cpp's figures, and more often above than below. Weights on the host are taken to be computed there: an
    engine that copies them to a GPU for large batches (llama.cpp's op_offload) needs room for the largest of them too.
    """
    graph = needs.activations
    widest, fetched = _widest(graph, layout), {} if needs.kv_offload else _fetched(needs, layout)
    pipelined = needs.kv_offload and layout.offloads_all and len(layout.devices) > 1 and not layout.overridden
    sums = {HOST: _host(graph, layout, widest.get(HOST, 0), pipelined=pipelined) + needs.output_buffer}
    seen = _seen(graph, layout)
    for device in layout.devices:
        blocks, logits = widest.get(device, 0), _last(graph, layout) if device == layout.output else 0
        inputs = graph.inputs_of(seen.get(device, ()))
        if pipelined and (blocks or logits):
            handed_over = graph.hidden if layout.blocks[:1] == (device,) else 2 * graph.hidden
            sums[device] = max(blocks, logits) + _COPIES * (inputs + handed_over)
        elif device in fetched:
            sums[device] = max(blocks, logits) + fetched[device] + inputs
        else:
            sums[device] = max(blocks + inputs, logits)
    return sums


def _host(graph: Activations, layout: Layout, blocks: int, *, pipelined: bool) -> int:
    """The embedded tokens and the inputs that all devices copy from, and the host's own share of the work."""
    inputs = graph.inputs_of(graph.inputs)
    if pipelined:
        return graph.hidden + _COPIES * (inputs + graph.hidden)
    logits = _last(graph, layout) if layout.output == HOST else 0
    return graph.hidden + max(blocks + inputs, logits, inputs + graph.hidden)


def _seen(graph: Activations, layout: Layout) -> dict[str, set[CacheKind]]:
    """By device, the kinds of cache that its blocks attend to."""
    seen: dict[str, set[CacheKind]] = {}
    for block, kinds in zip(layout.blocks, graph.sees, strict=True):
        seen.setdefault(block, set()).update(kinds)
    return seen


def _widest(graph: Activations, layout: Layout) -> dict[str, int]:
    """By device, the widest moment of its blocks: residual, norm and result stand around a feed-forward network."""
    widest = dict.fromkeys({*layout.blocks, *layout.feed_forward}, 0)
    moments = zip(layout.blocks, layout.feed_forward, graph.attention, graph.feed_forward, strict=True)
    for block, network, attention, feed_forward in moments:
        around = 3 * graph.hidden if network == block else graph.hidden
        widest[block] = max(widest[block], attention)
        widest[network] = max(widest[network], feed_forward + around)
    return widest


def _fetched(needs: Needs, layout: Layout) -> dict[str, int]:
    """By device, the most that one block's attention takes with its cache, which comes over from the host for it.

    The packing seldom finds a place for it in what other moments leave free: it counts beside them.
    """
    fetched: dict[str, int] = {}
    for block, attention, cache in zip(layout.blocks, needs.activations.attention, needs.layers, strict=False):
        fetched[block] = max(fetched.get(block, 0), attention + cache)
    return fetched


def _last(graph: Activations, layout: Layout) -> int:
    """What the output's device holds when the logits are made, and the inputs are gone."""
    pulled = 0
    if layout.blocks and layout.feed_forward[-1] != layout.output and graph.experts_out[-1]:
        pulled = graph.experts_out[-1] + graph.hidden  # summing experts takes no weights: nothing holds it back
    return graph.logits + graph.hidden + pulled
