"""What holds for the moves between any two placements that fit."""

from collections import Counter
from collections.abc import Collection, Iterator

from hypothesis import given
from hypothesis import strategies as st

from app.placement import HOST, MoveMode, Moves, Slab, Step, moves, slab_of, slab_sums
from tests.placement.layers import models

Case = tuple[set[Slab], set[Slab], dict[str, int], Moves]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw two placements of one model, devices with room for each of them and little more, and the moves between."""
    layers = draw(models())
    places = st.sampled_from([None, HOST, "sim:0", "sim:1", "sim:2"])  # None: the file's pages, which no slab holds
    ends = []
    for _ in range(2):
        chosen = [(layer, draw(places)) for layer in layers]
        ends.append([slab for layer, device in chosen if device and (slab := slab_of(layer, device)).nbytes])
    current, target = ends
    before, after = slab_sums(current), slab_sums(target)
    spare = st.sampled_from([0, 0, 256, 1024, 100_000])
    room = {id_: max(before.get(id_, 0), after.get(id_, 0)) + draw(spare) for id_ in {*before, *after}}
    return set(current), set(target), room, moves(current, target, room)


def states(current: Collection[Slab], steps: Collection[Step]) -> Iterator[set[Slab]]:
    """Yield what is held after each staging, then after each release."""
    held = set(current)
    for step in steps:
        assert held.isdisjoint(step.stage)
        held |= set(step.stage)
        yield set(held)
        assert held.issuperset(step.release)
        held -= set(step.release)
        yield set(held)


@given(cases())
def test_applying_the_moves_to_the_start_gives_the_target(case: Case) -> None:
    """Each slab that is new is staged once, each that is gone is released once, and the target is what is left."""
    current, target, _, found = case
    staged = [slab for step in found.steps for slab in step.stage]
    released = [slab for step in found.steps for slab in step.release]

    assert Counter(staged) == Counter(target - current)
    assert Counter(released) == Counter(current - target)
    assert [current, *states(current, found.steps)][-1] == target
    assert all(step.stage or step.release for step in found.steps)


@given(cases())
def test_no_state_on_the_way_exceeds_a_budget(case: Case) -> None:
    """What a step stages is there beside what it releases, and both fit in what the device has."""
    current, _, room, found = case

    for held in states(current, found.steps):
        assert all(nbytes <= room[device] for device, nbytes in slab_sums(held).items())


@given(cases())
def test_moves_leave_alone_what_is_in_both(case: Case) -> None:
    """A slab of both placements is neither staged nor released."""
    current, target, _, found = case
    touched = {slab for step in found.steps for slab in (*step.stage, *step.release)}

    assert touched.isdisjoint(current & target)


@given(cases())
def test_copied_bytes_are_the_weights_of_new_slabs(case: Case) -> None:
    """Padding is not copied, and nothing is copied twice or without need."""
    current, target, _, found = case

    assert found.copied_bytes == sum(slab.weights_bytes for slab in target - current)


@given(cases(), st.data())
def test_a_shrink_copies_nothing(case: Case, data: st.DataObject) -> None:
    """To keep some of the slabs and add none is one step of releases."""
    current, _, room, _ = case
    kept = {slab for slab in current if data.draw(st.booleans())}

    found = moves(current, kept, room)

    assert (found.copied_bytes, found.mode) == (0, MoveMode.ATOMIC)
    assert len(found.steps) == (kept != current)
    assert all(nbytes == 0 for nbytes in found.claims().values())


@given(cases())
def test_incremental_only_where_atomic_does_not_fit(case: Case) -> None:
    """One switch does it all unless a device that gets something cannot hold both ends at once."""
    current, target, room, found = case
    both = slab_sums(current | target)
    too_full = [slab for slab in target - current if both[slab.device] > room[slab.device]]

    assert found.mode == (MoveMode.INCREMENTAL if too_full else MoveMode.ATOMIC)
    if found.mode is MoveMode.ATOMIC:
        assert len(found.steps) == (current != target)


@given(cases())
def test_claims_are_the_true_peak(case: Case) -> None:
    """The claim on a device is the most that is ever held there, less what is held at the start; also for the rest."""
    current, _, _, found = case
    held = set(current)
    for index, step in enumerate(found.steps):
        start = slab_sums(held)
        sums = [slab_sums(state) for state in states(held, found.steps[index:])]
        peak = {
            device: max(0, *(state.get(device, 0) - start.get(device, 0) for state in sums))
            for device in {device for state in sums for device in state}
        }
        claimed = Moves(found.mode, found.steps[index:]).claims()
        assert {id_: nbytes for id_, nbytes in peak.items() if nbytes} == {
            id_: nbytes for id_, nbytes in claimed.items() if nbytes
        }
        held = (held | set(step.stage)) - set(step.release)
    assert not any(moves(held, held, {}).claims().values())


@given(cases())
def test_a_layer_is_dropped_only_where_all_that_is_in_the_way_comes_back(case: Case) -> None:
    """A step that stages nothing takes off what leaves for the host anyway, as long as there is any in the way."""
    current, target, _, found = case
    coming = {slab.layer for slab in target - current}
    held = set(current)
    for step in found.steps:
        wanted = {slab.device for slab in target - held}
        if not step.stage and any(slab.layer in coming for slab in step.release):
            in_the_way = [slab for slab in held - target if slab.device in wanted]
            assert all(slab.layer in coming for slab in in_the_way)
        held = (held | set(step.stage)) - set(step.release)
