"""Moves, by example: how a loaded model gets from one placement to another."""

import doctest
from dataclasses import replace

import app.placement
from app.placement import HOST, MoveMode, Moves, Slab, Step, claims, moves, slab_of
from tests.placement.layers import layer


def slab(number: int, device: str, nbytes: int = 1024) -> Slab:
    """Make the slab of a block."""
    return slab_of(layer(number, nbytes), device)


def test_the_example_in_the_docstring_is_true() -> None:
    """What `app.placement` shows to a reader who opens it first is what happens."""
    failed, tried = doctest.testmod(app.placement)

    assert failed == 0
    assert tried > 0


def test_nothing_to_do_is_no_step() -> None:
    """Between a placement and itself there are no moves."""
    assert moves([slab(0, "sim:0")], [slab(0, "sim:0")], {"sim:0": 1024}) == Moves(MoveMode.ATOMIC, ())


def test_a_load_is_one_step() -> None:
    """Everything is staged, then the model is switched to it."""
    target = [slab(0, "sim:0"), slab(1, "sim:1")]

    found = moves([], target, {"sim:0": 1024, "sim:1": 1024})

    assert found.steps == (Step(stage=tuple(target), release=()),)
    assert (found.copied_bytes, found.claims()) == (2048, {"sim:0": 1024, "sim:1": 1024})


def test_where_both_fit_the_new_stands_beside_the_old() -> None:
    """Block 0 changes devices and block 1 leaves, in one switch; block 2 stays."""
    here = [slab(0, "sim:0"), slab(1, "sim:0"), slab(2, "sim:1")]
    there = [slab(0, "sim:1"), slab(2, "sim:1")]

    found = moves(here, there, {"sim:0": 2048, "sim:1": 2048})

    assert found == Moves(MoveMode.ATOMIC, (Step((slab(0, "sim:1"),), (slab(0, "sim:0"), slab(1, "sim:0"))),))


def test_a_full_device_is_emptied_layer_by_layer() -> None:
    """Without room for both ends, the layers that leave make way one at a time, and no more of them than must."""
    here = [slab(0, "sim:0"), slab(1, "sim:0"), slab(2, "sim:0")]
    there = [slab(2, "sim:0"), slab(3, "sim:0")]

    found = moves(here, there, {"sim:0": 3072})

    assert found.mode is MoveMode.INCREMENTAL
    assert found.steps == (
        Step((), (slab(0, "sim:0"),)),
        Step((slab(3, "sim:0"),), ()),
        Step((), (slab(1, "sim:0"),)),
    )
    assert found.claims() == {"sim:0": 0}


def test_two_layers_that_change_places_need_one_gap() -> None:
    """With two full devices one layer is read from the host while the other one moves."""
    here = [slab(0, "sim:0"), slab(1, "sim:1")]
    there = [slab(0, "sim:1"), slab(1, "sim:0")]

    found = moves(here, there, {"sim:0": 1024, "sim:1": 1024})

    assert found.steps == (
        Step((), (slab(1, "sim:1"),)),
        Step((slab(0, "sim:1"),), (slab(0, "sim:0"),)),
        Step((slab(1, "sim:0"),), ()),
    )


def test_a_layer_that_leaves_makes_way_before_one_that_moves() -> None:
    """Blocks 0 and 1 change places; block 2, which leaves, gives them the gap, so neither is ever off the devices."""
    here = [slab(0, "sim:0"), slab(1, "sim:1"), slab(2, "sim:0")]
    there = [slab(0, "sim:1"), slab(1, "sim:0")]

    found = moves(here, there, {"sim:0": 2048, "sim:1": 1024})

    assert [step.release for step in found.steps] == [(slab(2, "sim:0"),), (slab(1, "sim:1"),), (slab(0, "sim:0"),)]
    assert [step.stage for step in found.steps] == [(), (slab(1, "sim:0"),), (slab(0, "sim:1"),)]


def test_a_buffered_host_is_a_device_like_any_other() -> None:
    """From a device to a copy on the host is a copy, and it needs room there."""
    found = moves([slab(0, "sim:0")], [slab(0, HOST)], {"sim:0": 1024, HOST: 1024})

    assert (found.mode, found.copied_bytes, found.claims()) == (MoveMode.ATOMIC, 1024, {HOST: 1024})


def test_other_bytes_of_the_same_layer_are_another_slab() -> None:
    """A slab whose tensors lie elsewhere in the file is not the one that is there."""
    old = slab(0, "sim:0")
    part = old.slices[0]
    new = replace(old, slices=(replace(part, tensor=replace(part.tensor, offset=4096)),))

    found = moves([old], [new], {"sim:0": 2048})

    assert found.steps == (Step((new,), (old,)),)


def test_claims_count_what_a_step_releases_only_after_it() -> None:
    """The second step reuses what the first one gave back, and the claim is the first one's staging."""
    steps = [
        Step((slab(0, "sim:0", 768),), (slab(1, "sim:0", 768),)),
        Step((slab(2, "sim:0", 512),), (slab(3, "sim:0", 512),)),
    ]

    assert claims(steps) == {"sim:0": 768}
    assert claims([]) == {}
