"""`auto` finds what trying everything finds."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import floor

from hypothesis import given, settings
from hypothesis import strategies as st

from app.model import Layer, Role
from app.placement import HOST, Budget, HostMode, PlacementRequest, SplitMode, Strategy, plan
from tests.placement.layers import budget_lists, cuts, devices, host_sizes, layer, model, models, padded, requests


def offloaded(layers: Sequence[Layer], strategy: Strategy, n: int) -> list[Layer]:
    """Choose the layers by the table of strategies, by asking each block how far it is from its end."""
    n_layer = sum(layer.role is Role.BLOCK for layer in layers)

    def chosen(index: int) -> bool:
        match strategy:
            case Strategy.FIRST:
                return index < n
            case Strategy.LAST:
                return n_layer - index <= n
            case _:
                return index < (n + 1) // 2 or n_layer - index <= n // 2

    return [layer for layer in layers if n and (not isinstance(layer.key, int) or chosen(layer.key))]


def counts(n: int, devices: int, weights: tuple[float, ...] | str) -> list[int]:
    """Count each device's blocks as the design has it."""
    if weights == "equal":
        return [n // devices] * (devices - 1) + [n - n // devices * (devices - 1)]
    parts = [Fraction(repr(weight)) for weight in weights]
    stops = [floor(n * sum(parts[: index + 1]) / sum(parts)) for index in range(len(parts))]
    return [stop - start for start, stop in zip([0, *stops], stops, strict=False)]


def assignments(layers: Sequence[Layer], budgets: Sequence[Budget], request: PlacementRequest) -> Iterator[list[int]]:
    """Yield every assignment of these layers that the request allows: the index of each one's device."""
    if request.split_mode is SplitMode.NONE:
        rooms = [budget.available_bytes for budget in budgets]
        chosen = 0 if request.devices is not None else rooms.index(max(rooms))
        yield [chosen] * len(layers)
    elif request.split_weights == "free":
        yield from cuts(len(layers), len(budgets))
    else:
        n = sum(layer.role is Role.BLOCK for layer in layers)
        blocks = [
            index for index, count in enumerate(counts(n, len(budgets), request.split_weights)) for _ in range(count)
        ]
        before = [layer for layer in layers if layer.role is Role.INPUT]
        after = [layer for layer in layers if layer.role is Role.OUTPUT]
        yield blocks[:1] * len(before) + blocks + blocks[-1:] * len(after)


def fits(
    layers: Sequence[Layer], budgets: Sequence[Budget], request: PlacementRequest, host_bytes: int | None, n: int
) -> bool:
    """Tell by brute force whether n layers fit."""
    chosen = offloaded(layers, request.strategy, n)
    stay = [layer for layer in layers if layer not in chosen]
    margin = request.margin_bytes
    if request.host is not HostMode.MMAP and host_bytes is not None:
        needed = sum(map(padded if request.host is HostMode.BUFFERED else lambda layer: layer.size_bytes, stay))
        if needed > max(0, host_bytes - margin):
            return False
    if not chosen:
        return True
    return any(
        all(
            sum(padded(layer) for layer, index in zip(chosen, assigned, strict=True) if index == device)
            <= max(0, budget.available_bytes - margin)
            for device, budget in enumerate(budgets)
        )
        for assigned in assignments(chosen, budgets, request)
    )


@settings(max_examples=200)
@given(st.data())
def test_auto_equals_brute_force(data: st.DataObject) -> None:
    """The largest n is the largest for which any placement that the request allows fits; None where there is none."""
    layers, budgets, host_bytes = data.draw(models()), data.draw(budget_lists()), data.draw(host_sizes)
    n_layer = sum(layer.role is Role.BLOCK for layer in layers)
    request = data.draw(requests(budgets, n_layer))
    candidates = range(n_layer if budgets else 0, -1, -1)
    expected = next((n for n in candidates if fits(layers, budgets, request, host_bytes, n)), None)

    found = plan(layers, budgets, request, host_bytes=host_bytes)

    assert expected == found.largest_n_gpu_layers
    if request.n_gpu_layers == "auto":
        assert (expected or 0, expected is not None) == (found.n_gpu_layers, found.fits)
    else:
        assert fits(layers, budgets, request, host_bytes, found.n_gpu_layers) == found.fits


@given(st.lists(st.integers(1, 40), max_size=30), st.lists(st.integers(0, 400), min_size=1, max_size=3))
def test_every_fit_of_free_is_found(blocks: list[int], rooms: list[int]) -> None:
    """With tightly packed devices a fit is found if and only if one of all contiguous cuts fits."""
    layers = [layer(number, 256 * size) for number, size in enumerate(blocks)]
    possible = any(
        all(
            sum(size for size, index in zip(blocks, cut, strict=True) if index == device) <= room
            for device, room in enumerate(rooms)
        )
        for cut in cuts(len(blocks), len(rooms))
    )

    found = plan(layers, devices(*(256 * room for room in rooms)), PlacementRequest(n_gpu_layers="all"))

    assert possible == found.fits


def test_a_huge_embedding_needs_a_device_of_its_own() -> None:
    """The embedding fills the first device, so the blocks begin on the second."""
    layers = model(*[1024] * 4, input_bytes=8192)

    found = plan(layers, devices(8192, 2048, 2304), PlacementRequest())

    assert found.n_gpu_layers == 4
    assert [row.device for row in found.layers] == ["sim:0", "sim:1", "sim:1", "sim:2", "sim:2", "sim:2"]


def test_an_embedding_that_fits_nowhere_keeps_all_layers_on_the_host() -> None:
    """Input goes with the first block, so without room for it n is 0, and that fits."""
    found = plan(model(256, 256, input_bytes=8192), devices(8191, 8191), PlacementRequest())

    assert (found.fits, found.n_gpu_layers, found.placement.slabs) == (True, 0, ())
    assert [row.device for row in found.layers] == [HOST] * 4
