"""What a model needs of each device: weights, context and compute buffers. All sizes are in bytes.

>>> needs = model_needs(model, caches, ContextRequest(n_ctx=8192))
>>> context_bytes(needs, layout)["cuda:0"], compute_bytes(needs, layout)["cpu"]

`model_needs` looks at the model once; the other two are cheap and asked for each placement that is considered. Read
`context.py` (exact) and `activations.py` (near) for where the numbers come from.
"""

from dataclasses import dataclass
from itertools import cycle

from app.model import Model
from app.model.caches import Caches
from app.placement.activations import Activations, activations
from app.placement.context import ContextRequest, context_size, layer_context_bytes
from app.placement.graph import LOGITS, NOTHING, BlockShares, Share, block_shares, host_bytes, share_bytes
from app.placement.layout import Layout
from app.placement.slabs import HOST


@dataclass(frozen=True, slots=True)
class Needs:
    """What one context of one model needs, wherever its layers will be."""

    layers: tuple[int, ...]
    """The cache of each of llama.cpp's layers."""
    activations: Activations
    blocks: tuple[BlockShares, ...]
    """The blocks of the graph that differ."""
    kinds: tuple[int, ...]
    """By number, which of `blocks` each block is like."""
    kv_offload: bool
    output_buffer: int
    """Where logits are handed over, one row for each sequence; on the host (llama-context.cpp, output_reserve)."""

    def share_bytes(self, share: Share, *, pipelined: bool) -> int:
        """What an accelerator holds for its part of the graph."""
        return share_bytes(self.activations, share, kv_offload=self.kv_offload, pipelined=pipelined)


def model_needs(model: Model, caches: Caches, request: ContextRequest) -> Needs:
    """Measure a model in a context. Raises InvalidValue for a context that the model cannot have."""
    size = context_size(caches, request, model.context_length)
    graph = activations(model, caches, size)
    layers = layer_context_bytes(caches, request, size)
    blocks = block_shares(graph, layers, kv_offload=request.kv_offload)
    distinct = {block: kind for kind, block in enumerate(dict.fromkeys(blocks))}
    return Needs(
        layers=layers,
        activations=graph,
        blocks=tuple(distinct),
        kinds=tuple(map(distinct.__getitem__, blocks)),
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
    parts, pipelined = _shares(needs, layout), is_pipelined(needs, layout)
    host = host_bytes(needs.activations, parts.get(HOST, NOTHING), pipelined=pipelined)
    sums = {HOST: host + needs.output_buffer}
    for device in layout.devices:
        sums[device] = needs.share_bytes(parts.get(device, NOTHING), pipelined=pipelined)
    return sums


def is_pipelined(needs: Needs, layout: Layout) -> bool:
    """Whether micro-batches overtake each other on several devices: only where the host has no share in the work."""
    return needs.kv_offload and layout.offloads_all and len(layout.devices) > 1 and not layout.overridden


def _shares(needs: Needs, layout: Layout) -> dict[str, Share]:
    """By device, its part of the graph. Blocks that are alike, in places that are alike, count once."""
    parts = {layout.output: LOGITS}

    def join(device: str, share: Share) -> None:
        parts[device] = parts.get(device, NOTHING).joined(share)

    for block, network, kind in set(zip(layout.blocks, layout.feed_forward, needs.kinds, strict=True)):
        found = needs.blocks[kind]
        if block == network:
            join(block, found.whole)
        else:
            join(block, found.alone)
            join(network, found.network)
    return parts
