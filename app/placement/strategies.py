"""Which blocks go to the GPU."""

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
