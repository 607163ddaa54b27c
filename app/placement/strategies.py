"""Which blocks go to the GPU."""

from collections.abc import Collection
from typing import Final

from app.placement.request import Strategy

BEST_OF: Final = (Strategy.FIRST, Strategy.LAST, Strategy.ENDS)
"""What `best` chooses from."""


def offloaded_blocks(strategy: Strategy, n: int, n_layer: int) -> tuple[int, ...]:
    """Indices of the `n` of `n_layer` blocks that go to the GPU, ascending; `0 <= n <= n_layer`."""
    match strategy:
        case Strategy.FIRST:
            chosen = range(n)
        case Strategy.LAST:
            chosen = range(n_layer - n, n_layer)
        case Strategy.ENDS:
            head, tail = -(-n // 2), n // 2
            return (*range(head), *range(n_layer - tail, n_layer))
    return tuple(chosen)


def strategy_of(blocks: Collection[int], n_layer: int) -> Strategy:
    """The one that `best` was, when it chose these blocks; the first of them where a change ended half-way."""
    n = len(blocks)
    return next((s for s in BEST_OF if set(offloaded_blocks(s, n, n_layer)) == set(blocks)), BEST_OF[0])
