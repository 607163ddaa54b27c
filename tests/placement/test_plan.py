"""Plans, by example: which layers go where, and what is said about them."""

import pytest

from app.errors import InvalidValue
from app.model import LayerKey, group
from app.placement import HOST, HostMode, PlacementRequest, SplitMode, Strategy, plan
from tests.placement.cases import tensor
from tests.placement.layers import OWN_STRATEGIES, devices, layer, model, places

ROOMY = 1_000_000


@pytest.mark.parametrize(
    ("strategy", "n", "blocks"),
    [
        (Strategy.FIRST, 1, [0]),
        (Strategy.FIRST, 3, [0, 1, 2]),
        (Strategy.LAST, 1, [4]),
        (Strategy.LAST, 3, [2, 3, 4]),
        (Strategy.ENDS, 1, [0]),
        (Strategy.ENDS, 2, [0, 4]),
        (Strategy.ENDS, 3, [0, 1, 4]),
        (Strategy.ENDS, 4, [0, 1, 3, 4]),
        *((strategy, 5, [0, 1, 2, 3, 4]) for strategy in OWN_STRATEGIES),
    ],
)
def test_a_strategy_chooses_the_blocks(strategy: Strategy, n: int, blocks: list[int]) -> None:
    """`first` takes the first n, `last` the last n, `ends` one more of the first than of the last where n is odd."""
    found = plan(model(*[256] * 5), devices(ROOMY), PlacementRequest(n_gpu_layers=n, strategy=strategy))

    assert places(found) == {"sim:0": ["input", *blocks, "output"]}


@pytest.mark.parametrize("strategy", OWN_STRATEGIES)
def test_no_blocks_means_no_input_and_output_either(strategy: Strategy) -> None:
    """With n = 0 everything is on the host, and there need not be a device."""
    found = plan(model(256, 256), [], PlacementRequest(n_gpu_layers=0, strategy=strategy))

    assert (found.fits, places(found), [row.id for row in found.devices]) == (True, {}, [HOST])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("equal", {"sim:0": ["input", 0, 1], "sim:1": [2, 3], "sim:2": [4, 5, 6, 7, "output"]}),
        ((1.0, 1.0, 2.0), {"sim:0": ["input", 0, 1], "sim:1": [2, 3], "sim:2": [4, 5, 6, 7, "output"]}),
        ((0.0, 3.0, 1.0), {"sim:1": ["input", 0, 1, 2, 3, 4, 5], "sim:2": [6, 7, "output"]}),
        ((1.0, 0.0, 0.0), {"sim:0": ["input", 0, 1, 2, 3, 4, 5, 6, 7, "output"]}),
        ((1e308, 1e308, 0.0), {"sim:0": ["input", 0, 1, 2, 3], "sim:1": [4, 5, 6, 7, "output"]}),
    ],
)
def test_a_split_by_count(weights: tuple[float, ...] | str, expected: dict[str, list[LayerKey]]) -> None:
    """Devices get contiguous runs of the blocks; the input goes to the first one used, the output to the last."""
    request = PlacementRequest(n_gpu_layers="all", split_weights=weights)  # type: ignore[arg-type]

    assert places(plan(model(*[256] * 8), devices(ROOMY, ROOMY, ROOMY), request)) == expected


def test_equal_with_fewer_blocks_than_devices() -> None:
    """N // g is 0 then, so the last device gets all, and is the first one used as well."""
    request = PlacementRequest(n_gpu_layers=2, split_weights="equal")

    found = plan(model(*[256] * 4), devices(ROOMY, ROOMY, ROOMY), request)

    assert places(found) == {"sim:2": ["input", 0, 1, "output"]}


def test_free_fills_every_device_to_the_same_share() -> None:
    """A device with three times the room gets three times the bytes, in contiguous runs."""
    layers = [layer(number, 1024) for number in range(8)]

    found = plan(layers, devices(30_720, 10_240), PlacementRequest(n_gpu_layers="all"))

    assert places(found) == {"sim:0": [0, 1, 2, 3, 4, 5], "sim:1": [6, 7]}


@pytest.mark.parametrize(
    ("named", "expected"),
    [(None, {"sim:1": ["input", 0, "output"]}), (("sim:0", "sim:1"), {"sim:0": ["input", 0, "output"]})],
)
def test_mode_none_takes_one_device(named: tuple[str, ...] | None, expected: dict[str, list[LayerKey]]) -> None:
    """All goes to the device with the most room, or to the first of those that were named."""
    request = PlacementRequest(n_gpu_layers=1, devices=named, split_mode=SplitMode.NONE)

    assert places(plan(model(256, 256), devices(10_000, 20_000), request)) == expected


def test_a_slab_is_the_tensors_at_multiples_of_256() -> None:
    """Each tensor begins at a multiple of 256 bytes, and the end is rounded up as well."""
    found = plan([layer(0, 100, 0, 256, 257)], devices(ROOMY), PlacementRequest())
    (slab,) = found.placement.slabs

    assert [(part.slab_offset, part.nbytes) for part in slab.slices] == [(0, 100), (256, 0), (256, 256), (512, 257)]
    assert (slab.nbytes, slab.weights_bytes) == (1024, 613)
    assert (found.devices[0].required_bytes, found.devices[0].padding_bytes) == (1024, 411)


def test_a_layer_without_bytes_needs_no_slab() -> None:
    """Nothing is allocated for it, and it counts as offloaded all the same."""
    found = plan([layer(0, 0), layer(1, 256)], devices(256), PlacementRequest())

    assert (found.n_gpu_layers, [slab.layer for slab in found.placement.slabs]) == (2, [1])


def test_a_margin_is_taken_off_every_device() -> None:
    """What is to be kept free does not count as available; a margin above all there is leaves nothing."""
    layers, budgets = model(1024, 1024), devices(4096)

    assert plan(layers, budgets, PlacementRequest(margin_bytes=1536)).n_gpu_layers == 2
    assert plan(layers, budgets, PlacementRequest(margin_bytes=1537)).n_gpu_layers == 1
    beyond = plan(layers, budgets, PlacementRequest(margin_bytes=2**63))
    assert (beyond.fits, beyond.n_gpu_layers, beyond.devices[0].available_bytes) == (True, 0, 0)


def test_what_does_not_fit_says_why_and_what_would() -> None:
    """The plan is there to be looked at, and names the device that is shortest."""
    found = plan(model(1024, 1024, 1024), devices(2048, 1280), PlacementRequest(n_gpu_layers="all"))

    assert (found.fits, found.largest_n_gpu_layers) == (False, 2)
    assert found.shortest.available_bytes is not None
    assert found.shortest.required_bytes > found.shortest.available_bytes
    assert found.shortest == max(
        (row for row in found.devices if not row.fits), key=lambda row: row.required_bytes - (row.available_bytes or 0)
    )


@pytest.mark.parametrize(("host", "fits"), [(HostMode.MMAP, True), (HostMode.MLOCK, False), (HostMode.BUFFERED, False)])
def test_the_host_needs_room_unless_it_maps(host: HostMode, fits: bool) -> None:
    """Mapped pages come and go; locked and copied ones must fit, and n = 0 does not help then."""
    found = plan(model(1000, 1000), [], PlacementRequest(host=host), host_bytes=2000)

    assert (fits, 0 if fits else None) == (found.fits, found.largest_n_gpu_layers)
    assert found.devices[-1].required_bytes == (2560 if host is HostMode.BUFFERED else 2512)


def test_a_short_host_sends_more_to_the_devices() -> None:
    """Where the host is full, a smaller n fits less, not more."""
    request = PlacementRequest(host=HostMode.BUFFERED)

    assert plan(model(1024, 1024), devices(1536), request, host_bytes=1024).n_gpu_layers == 1
    assert plan(model(1024, 1024), devices(1536), request, host_bytes=1023).largest_n_gpu_layers is None


def test_sizes_up_to_the_largest_number_of_the_interface_are_exact() -> None:
    """At 2^63 one byte more or less still decides."""
    layers = [layer(0, 2**62), layer(1, 2**62 - 256)]

    assert plan(layers, devices(2**63 - 256), PlacementRequest()).n_gpu_layers == 2
    assert plan(layers, devices(2**63 - 257), PlacementRequest()).n_gpu_layers == 1


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (PlacementRequest(n_gpu_layers=3), "n_gpu_layers"),
        (PlacementRequest(n_gpu_layers=2**63), "n_gpu_layers"),
        (PlacementRequest(n_gpu_layers=-1), "n_gpu_layers"),
        (PlacementRequest(split_weights=(1.0,)), "split.weights"),
        (PlacementRequest(split_weights=(1.0, 1.0, 1.0)), "split.weights"),
    ],
)
def test_what_the_model_and_the_devices_do_not_have_is_refused(request_: PlacementRequest, param: str) -> None:
    """An n above the model's blocks, or a list of weights of another length than that of devices, names its field."""
    with pytest.raises(InvalidValue) as caught:
        plan(model(256, 256), devices(ROOMY, ROOMY), request_)

    assert caught.value.param == param


@pytest.mark.parametrize("n", [1, "all"])
def test_layers_without_a_device_are_refused(n: int) -> None:
    """To ask for offloaded layers where there is no device is an error; `auto` then offloads none."""
    with pytest.raises(InvalidValue, match="there is none"):
        plan(model(256, 256), [], PlacementRequest(n_gpu_layers=n))

    assert plan(model(256, 256), [], PlacementRequest()).n_gpu_layers == 0


def test_a_device_named_twice_is_refused() -> None:
    """Its room must not be counted twice: a request may name a device by its id and by its UUID."""
    with pytest.raises(InvalidValue, match="twice") as caught:
        plan(model(256), [*devices(512), *devices(512)], PlacementRequest())

    assert caught.value.param == "devices"


def test_experts_that_no_count_reaches_stay() -> None:
    """Blocks may be numbered with gaps: `auto` asks for no more of them than there are."""
    tensors = [
        tensor(f"blk.{block}.{part}.weight", block, 16, 32) for block in (0, 9) for part in ("attn_q", "ffn_up_exps")
    ]

    found = plan(group(tensors), devices(1024), PlacementRequest())

    assert (found.fits, found.n_gpu_layers, found.n_cpu_moe) == (True, 1, 0)
