"""The ledger against a simple model: whatever is done, in whatever order, no device holds more than its limit."""

from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from app.errors import OutOfDeviceMemory
from app.model import Tensor
from app.placement import Slab, Slice
from app.residency.ledger import Ledger

LIMITS = {"sim:0": 100, "sim:1": 60}
MODELS = ["a", "b", "c"]

models = st.sampled_from(MODELS)
devices = st.sampled_from(sorted(LIMITS))
sizes = st.integers(1, 70)


def slab(device: str, nbytes: int) -> Slab:
    """A slab with one byte of padding, if it has more than one."""
    weights = max(1, nbytes - 1)
    tensor = Tensor("t", "I8", (weights,), weights, weights, 0, 0, 0)
    return Slab(0, device, nbytes, (Slice(tensor, 0, weights, 0),))


class Books(RuleBasedStateMachine):
    """Three models on two devices; slabs go from staged to used to retired to free."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(LIMITS)
        self.claimed: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.promised: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.leaving: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.claimants: list[str] = []
        self.ours = dict(LIMITS)
        self.slabs: dict[str, list[tuple[str, Slab]]] = {"staged": [], "used": [], "retired": []}

    def sum(self, state: str, device: str, model: str | None = None) -> int:
        """Bytes in a state."""
        return sum(s.nbytes for m, s in self.slabs[state] if s.device == device and model in (m, None))

    def free(self, device: str) -> int:
        """Bytes that nobody has been given or promised."""
        held = sum(self.sum(state, device) for state in self.slabs)
        return self.ours[device] - held - sum(self.promised[model, device] for model in MODELS)

    def set_aside(self, *first: str) -> None:
        """What is free goes to the claims that lack it, first come, first served."""
        for model in (*first, *self.claimants):
            for device in LIMITS:
                missing = self.claimed[model, device] - self.promised[model, device]
                self.promised[model, device] += max(0, min(missing, self.free(device)))

    def take(self, state: str, data: st.DataObject) -> tuple[str, Slab]:
        """One of the slabs in a state, which leaves it."""
        chosen = data.draw(st.sampled_from(self.slabs[state]))
        self.slabs[state].remove(chosen)
        return chosen

    @rule(model=models, zero=st.integers(0, 120), one=st.integers(0, 120))
    def claim(self, model: str, zero: int, one: int) -> None:
        """A claim sets aside what it can; of the one before it keeps the place in the line, and what it had."""
        self.ledger.claim(model, {"sim:0": zero, "sim:1": one})
        if model not in self.claimants:
            self.claimants.append(model)
        for device, nbytes in (("sim:0", zero), ("sim:1", one)):
            self.promised[model, device] = min(self.promised[model, device], nbytes)
            self.claimed[model, device] = nbytes
        self.set_aside()

    @rule(device=devices, left=st.integers(0, 120))
    def bound(self, device: str, left: int) -> None:
        """Others leave more or less than the limit; what is held or promised already stays so."""
        self.ledger.bound(device, left)
        self.ours[device] = min(LIMITS[device], left)
        self.set_aside()

    @rule(model=models)
    def unclaim(self, model: str) -> None:
        """A job that has ended will stage no more, and what it was to give back has left, or is held."""
        self.ledger.unclaim(model)
        self.claimants = [other for other in self.claimants if other != model]
        for device in LIMITS:
            self.claimed[model, device] = self.promised[model, device] = self.leaving[model, device] = 0
        self.set_aside()

    @rule(model=models, data=st.data())
    def leave(self, model: str, data: st.DataObject) -> None:
        """What a job is about to give back counts as room for others, and for nobody's staging."""
        for device in LIMITS:
            held = self.sum("used", device, model) + self.sum("retired", device, model)
            self.leaving[model, device] = data.draw(st.integers(0, held))
        self.ledger.leave(model, {device: self.leaving[model, device] for device in LIMITS})

    @rule(model=models, device=devices, nbytes=sizes)
    def stage(self, model: str, device: str, nbytes: int) -> None:
        """Staging takes what was promised first, and fails with the numbers where that and the rest are too little."""
        new = slab(device, nbytes)
        room = self.free(device) + self.promised[model, device]
        assert (self.ledger.shortage(model, [new]) is None) is (nbytes <= room)
        if nbytes > room:
            with pytest.raises(OutOfDeviceMemory) as caught:
                self.ledger.stage(model, [new])
            assert (caught.value.requested_bytes, caught.value.free_bytes) == (nbytes, max(0, room))
            return
        self.ledger.stage(model, [new])
        self.slabs["staged"].append((model, new))
        self.claimed[model, device] = max(0, self.claimed[model, device] - nbytes)
        self.promised[model, device] = max(0, self.promised[model, device] - nbytes)

    @precondition(lambda self: self.slabs["staged"])
    @rule(data=st.data(), publish=st.booleans())
    def publish_or_give_up(self, data: st.DataObject, publish: bool) -> None:
        """What is staged is used, or freed, and may then be staged again."""
        model, chosen = self.take("staged", data)
        if publish:
            self.ledger.publish(model, [chosen])
            self.slabs["used"].append((model, chosen))
        else:
            self.ledger.unstage(model, [chosen])
            self.claimed[model, chosen.device] += chosen.nbytes
            self.set_aside(model)

    @precondition(lambda self: self.slabs["used"])
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        """What is used is replaced."""
        model, chosen = self.take("used", data)
        self.ledger.retire(model, [chosen])
        self.slabs["retired"].append((model, chosen))

    @precondition(lambda self: self.slabs["retired"])
    @rule(data=st.data())
    def reap(self, data: st.DataObject) -> None:
        """What was replaced is freed, and goes to the claims that lack something, the model's own first."""
        model, chosen = self.take("retired", data)
        self.ledger.free(model, [chosen])
        self.leaving[model, chosen.device] = max(0, self.leaving[model, chosen.device] - chosen.nbytes)
        self.set_aside(model)

    @invariant()
    def agrees(self) -> None:
        """Every column is the model's, and together they are within the limit."""
        for device, limit in LIMITS.items():
            row = self.ledger.row(device)
            promised = sum(self.promised[model, device] for model in MODELS)
            used = [s for _, s in self.slabs["used"] if s.device == device]
            assert row.used_bytes == self.sum("used", device)
            assert row.retired_bytes == self.sum("retired", device)
            assert row.reserved_bytes == self.sum("staged", device) + promised
            assert row.weights_bytes == sum(s.weights_bytes for s in used)
            assert row.padding_bytes == row.used_bytes - row.weights_bytes
            assert row.used_bytes + row.reserved_bytes + row.retired_bytes <= limit == row.limit_bytes
            for model in MODELS:
                others = [other for other in MODELS if other != model]
                theirs = sum(self.sum(state, device, other) for state in self.slabs for other in others)
                theirs += sum(self.claimed[other, device] - self.leaving[other, device] for other in others)
                room = max(0, self.ours[device] - theirs - self.sum("retired", device, model))
                assert self.ledger.room(device, model) == room
                claimed = sum(self.claimed[other, device] for other in others)
                assert self.ledger.claimed_by_others(device, model) == claimed
                assert self.ledger.held(device, model) == self.sum("used", device, model)


def test_the_ledger_agrees_with_the_model() -> None:
    """Hypothesis plays with both, and looks at every column after every step."""
    run_state_machine_as_test(Books, settings=settings(max_examples=40, stateful_step_count=30))


def test_staging_is_all_or_nothing() -> None:
    """Where one of several slabs is too much, none is counted."""
    ledger = Ledger(LIMITS)
    with pytest.raises(OutOfDeviceMemory) as caught:
        ledger.stage("a", [slab("sim:0", 50), slab("sim:1", 61)])
    assert caught.value.device == "sim:1"
    assert ledger.row("sim:0").reserved_bytes == 0


def test_a_job_that_goes_step_by_step_keeps_what_it_was_promised() -> None:
    """Not even one that came before it, and waits for memory that somebody holds, gets what it frees or has yet."""
    ledger = Ledger({"sim:0": 100})
    there, new = slab("sim:0", 60), slab("sim:0", 10)
    for model, one in (("held", there), ("mover", new)):
        ledger.stage(model, [one])
        ledger.publish(model, [one])
    ledger.leave("held", {"sim:0": 60})
    ledger.claim("waits", {"sim:0": 80})
    ledger.claim("mover", {"sim:0": 10})
    assert ledger.row("sim:0").reserved_bytes == 30
    ledger.retire("mover", [new])
    ledger.free("mover", [new])
    ledger.claim("mover", {"sim:0": 10})
    assert ledger.shortage("mover", [new]) is None
    assert ledger.shortage("waits", [slab("sim:0", 31)]) is not None


def test_what_is_freed_goes_to_whoever_lacks_it() -> None:
    """Once the holder has let go, the claim that was made before is whole."""
    ledger = Ledger({"sim:0": 100})
    there = slab("sim:0", 60)
    ledger.stage("held", [there])
    ledger.publish("held", [there])
    ledger.leave("held", {"sim:0": 60})
    ledger.claim("waits", {"sim:0": 80})
    ledger.retire("held", [there])
    assert ledger.shortage("waits", [slab("sim:0", 80)]) is not None
    ledger.free("held", [there])
    assert ledger.shortage("waits", [slab("sim:0", 80)]) is None


def test_a_lost_device_has_no_room() -> None:
    """Whoever had claimed some of it has not; what is on it counts until it is freed, whatever others leave."""
    ledger, held = Ledger(LIMITS), [slab("sim:0", 30)]
    ledger.claim("a", {"sim:0": 40, "sim:1": 10})
    ledger.stage("a", held)
    ledger.publish("a", held)

    ledger.lose("sim:0")
    ledger.bound("sim:0", 90)
    ledger.claim("b", {"sim:0": 5, "sim:1": 5})

    row = ledger.row("sim:0")
    assert (row.used_bytes, row.reserved_bytes, row.limit_bytes) == (30, 0, 100)
    assert [ledger.room("sim:0", model) for model in ("a", "b", "c")] == [0, 0, 0]
    assert [ledger.row("sim:1").reserved_bytes, ledger.room("sim:1", "c")] == [15, 45]
    with pytest.raises(OutOfDeviceMemory):
        ledger.stage("b", [slab("sim:0", 1)])
    ledger.retire("a", held)
    ledger.free("a", held)
    assert (ledger.row("sim:0").used_bytes, ledger.row("sim:0").retired_bytes) == (0, 0)
    assert ledger.room("sim:0", "a") == 0
