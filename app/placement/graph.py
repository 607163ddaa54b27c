"""The graph of one micro-batch, shared among devices: what each needs for its share. All sizes are in bytes.

A part says of some layers what matters to the device that they are on: maxima, sets and marks, so that the parts of two
sets of layers join to the part of both, in any order. `share_bytes` is the one formula, for a whole placement and for a
run of layers that is only considered.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from app.placement.activations import Activations, CacheKind

_COPIES: Final = 4
"""Micro-batches under way in a pipeline of devices (GGML_SCHED_MAX_COPIES, ggml-backend.cpp)."""


class Share(NamedTuple):
    """What one device computes."""

    widest: int = 0
    """The widest moment of its blocks: residual, norm and result stand around a feed-forward network."""
    fetched: int = 0
    """The most that one block's attention takes with its cache, where that comes over from the host for it."""
    sees: frozenset[CacheKind] = frozenset()
    """The kinds of cache that its blocks attend to."""
    first: bool = False
    """Whether the first block is here, which nobody hands anything over to."""
    last: bool = False
    """Whether the last block's feed-forward network is here."""
    output: bool = False
    """Whether the logits are made here."""

    def joined(self, other: "Share") -> "Share":
        """The part of a device that has the layers of both."""
        return Share(
            max(self.widest, other.widest),
            max(self.fetched, other.fetched),
            self.sees | other.sees,
            self.first or other.first,
            self.last or other.last,
            self.output or other.output,
        )


class BlockShares(NamedTuple):
    """What one block adds to devices' parts."""

    whole: Share
    """Where the block and its network are."""
    alone: Share
    """Where the block is, without its network."""
    network: Share
    """Where the network is, without its block."""


NOTHING: Final = Share()
LOGITS: Final = Share(output=True)


def block_shares(graph: Activations, caches: Sequence[int], *, kv_offload: bool) -> tuple[BlockShares, ...]:
    """Measure each block. `caches` are by layer, of which a looped model has more than blocks."""
    return tuple(
        _block(graph, number, 0 if kv_offload else graph.attention[number] + caches[number])
        for number in range(len(graph.sees))
    )


def _block(graph: Activations, number: int, fetched: int) -> BlockShares:
    attention, network = graph.attention[number], graph.feed_forward[number]
    last = number == len(graph.sees) - 1
    alone = Share(attention, fetched, graph.sees[number], first=number == 0)
    whole = alone._replace(widest=max(attention, network + 3 * graph.hidden), last=last)
    return BlockShares(whole, alone, Share(network + graph.hidden, last=last))


def share_bytes(graph: Activations, share: Share, *, kv_offload: bool, pipelined: bool) -> int:
    """What an accelerator holds for its share, at the widest moment.

    It grows with `widest`, `fetched` and `sees`, and with `output`, but may shrink where `first` or `last` joins.
    A cache that is fetched counts beside all else: the packing seldom finds a place for it in what other moments
    leave free.
    """
    logits = last_bytes(graph, share) if share.output else 0
    inputs = graph.inputs_of(share.sees)
    if pipelined and (share.widest or logits):
        handed_over = graph.hidden if share.first else 2 * graph.hidden
        return max(share.widest, logits) + _COPIES * (inputs + handed_over)
    if kv_offload:
        return max(share.widest + inputs, logits)
    return max(share.widest, logits) + share.fetched + inputs


def host_bytes(graph: Activations, share: Share, *, pipelined: bool) -> int:
    """The embedded tokens and the inputs that all devices copy from, and the host's own share of the work."""
    inputs = graph.inputs_of(graph.inputs)
    if pipelined:
        return graph.hidden + _COPIES * (inputs + graph.hidden)
    logits = last_bytes(graph, share) if share.output else 0
    return graph.hidden + max(share.widest + inputs, logits, inputs + graph.hidden)


def last_bytes(graph: Activations, share: Share) -> int:
    """What the output's device holds when the logits are made, and the inputs are gone."""
    return graph.logits + graph.hidden + (0 if share.last else pulled_bytes(graph))


def pulled_bytes(graph: Activations) -> int:
    """What comes over to the output from a last network elsewhere: summing experts takes no weights."""
    experts_out = graph.experts_out[-1] if graph.experts_out else 0
    return experts_out + graph.hidden if experts_out else 0
