"""Models made of numbers, and all the requests there are: what the tests of the planner are fed with.

Sizes are in bytes and small, so that a slab's padding to 256 matters as much as the weights do.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

from hypothesis import strategies as st

from app.model import Layer, LayerKey, Tensor, group
from app.placement import HOST, Budget, HostMode, PlacementRequest, Plan, SplitMode, Strategy

OWN_STRATEGIES = (Strategy.FIRST, Strategy.LAST, Strategy.ENDS)
WHOLE_LAYERS = (SplitMode.NONE, SplitMode.LAYER)


def layer(key: LayerKey, *sizes: int) -> Layer:
    """Make a layer of tensors with these sizes."""
    tensors = [
        Tensor(f"{key}.{number}", "I8", (size,), parameters=size, nbytes=size, file=0, offset=0, layer=key)
        for number, size in enumerate(sizes)
    ]
    return group(tensors)[0]


def model(*blocks: int, input_bytes: int = 256, output_bytes: int = 256) -> list[Layer]:
    """Make a model whose blocks have these sizes, with an input and an output layer."""
    return [layer("input", input_bytes), *map(layer, range(len(blocks)), blocks), layer("output", output_bytes)]


def devices(*available: int) -> list[Budget]:
    """Make devices `sim:0`, `sim:1`, … with so many bytes for the model."""
    return [Budget(f"sim:{number}", nbytes) for number, nbytes in enumerate(available)]


def padded(layer: Layer) -> int:
    """Add up the tensors, each rounded up to 256 bytes: the long way, for `slab_bytes` is under test."""
    return sum((tensor.nbytes + 255) // 256 * 256 for tensor in layer.tensors)


def total(layers: Sequence[Layer]) -> int:
    """Add up the tensors' own bytes."""
    return sum(tensor.nbytes for layer in layers for tensor in layer.tensors)


def places(found: Plan) -> dict[str, list[LayerKey]]:
    """List the layers of each device in use, the host's left out."""
    used = {row.device for row in found.layers if row.device not in (None, HOST)}
    return {id_: [row.layer for row in found.layers if row.device == id_] for id_ in sorted(map(str, used))}


def cuts(length: int, pieces: int) -> Iterator[list[int]]:
    """Yield every way to cut a row into so many contiguous pieces, some of them empty: the piece of each item."""
    for ends in combinations_with_replacement(range(length + 1), pieces - 1):
        yield [sum(end <= item for end in ends) for item in range(length)]


_sizes = st.one_of(st.sampled_from([0, 1, 255, 256, 257]), st.integers(0, 1500))
_tensors = st.lists(_sizes, min_size=1, max_size=3)


@st.composite
def models(draw: st.DrawFn, *, most_blocks: int = 6) -> list[Layer]:
    """Draw a model: uneven blocks, now and then one huge embedding, no input, no output, or no block at all."""
    embedding = draw(st.one_of(st.none(), _tensors, st.integers(5000, 9000).map(lambda size: [size])))
    blocks = draw(st.lists(_tensors, max_size=most_blocks))
    output = draw(st.one_of(st.none(), _tensors))
    return [
        *([] if embedding is None else [layer("input", *embedding)]),
        *(layer(number, *sizes) for number, sizes in enumerate(blocks)),
        *([] if output is None else [layer("output", *output)]),
    ]


def budget_lists(*, fewest: int = 0, most: int = 4) -> st.SearchStrategy[list[Budget]]:
    """Draw devices: some too small for anything, some large enough for all."""
    return st.lists(st.integers(0, 12_000), min_size=fewest, max_size=most).map(lambda sizes: devices(*sizes))


@st.composite
def requests(draw: st.DrawFn, budgets: Sequence[Budget], n_layer: int) -> PlacementRequest:
    """Draw a request that `plan` accepts for these devices."""
    names = tuple(budget.device for budget in budgets)
    numbers = st.one_of(st.floats(0, 1e308), st.integers(0, 3).map(float))
    lists = (
        st.lists(numbers, min_size=len(names), max_size=len(names)).filter(any).map(tuple) if names else st.nothing()
    )
    counts = st.one_of(st.integers(0, n_layer), st.just("all")) if names else st.just(0)
    return PlacementRequest(
        n_gpu_layers=draw(st.one_of(st.just("auto"), counts)),
        strategy=draw(st.sampled_from(OWN_STRATEGIES)),
        devices=draw(st.sampled_from([None, names])),
        split_mode=draw(st.sampled_from(WHOLE_LAYERS)),
        split_weights=draw(st.one_of(st.sampled_from(["free", "equal"]), lists)),
        margin_bytes=draw(st.sampled_from([0, 0, 1, 700, 10**9])),
        host=draw(st.sampled_from(HostMode)),
    )


host_sizes = st.one_of(st.none(), st.integers(0, 20_000))
