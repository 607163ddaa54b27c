"""Who holds how much of each device: `used + reserved + retired <= limit` at every instant. All sizes are in bytes.

A slab counts in one state at a time: *staged* while it is filled, *used* in the current placement, *retired* once it is
replaced but not freed yet. A job *claims*, before it starts, the most that it will stage; what it has claimed but not
staged yet is promised to it, and promised and staged bytes together are the reserved ones. A claim may be for memory
that a model which makes room has not given back yet (it is *leaving*): whatever is freed goes to the claims that lack
it, the model's own before the others', these first come, first served. So a job that goes step by step never waits for
what somebody else waits for. The event loop owns the ledger: every method is one step for everybody else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.errors import OutOfDeviceMemory
from app.placement import Slab, slab_sums


@dataclass(slots=True)
class _Account:
    """One model's bytes on one device."""

    claimed: int = 0  # what its job may still stage
    promised: int = 0  # the part of it that is set aside: less than claimed while others' slabs are in the way
    staged: int = 0
    used: int = 0
    weights: int = 0
    retired: int = 0
    leaving: int = 0  # of used and retired, what its job is about to give back

    @property
    def total(self) -> int:
        return self.promised + self.staged + self.used + self.retired

    @property
    def committed(self) -> int:
        """What it comes to once everything that is under way is done."""
        return self.claimed + self.staged + self.used + self.retired - self.leaving


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One device's books: `used = weights + padding`, `reserved` is promised or staged."""

    limit_bytes: int
    used_bytes: int
    weights_bytes: int
    padding_bytes: int
    reserved_bytes: int
    retired_bytes: int


@dataclass(frozen=True, slots=True)
class Shortage:
    """Slabs that there is no room for: on this device they need more than there is for the model."""

    device: str
    required_bytes: int
    available_bytes: int


class Ledger:
    """The books of all devices, by device and model."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)
        self._left_by_others = dict(limits)
        self._lost: set[str] = set()
        self._accounts: dict[str, dict[str, _Account]] = {device: {} for device in limits}
        self._claimants: dict[str, None] = {}
        """The models that have claims, in the order in which they came."""
        self.revision = 0
        """Grows with every change of the books; what others leave is no entry of ours."""

    def bound(self, device: str, left_bytes: int) -> None:
        """Others, who are no models of ours, leave so much of the device; its limit holds all the same."""
        self._left_by_others[device] = left_bytes
        self._set_aside(device)

    def lose(self, device: str) -> None:
        """The device is lost: it has no room and nobody a claim on it. What is on it counts until it is freed."""
        self.revision += 1
        self._lost.add(device)
        for account in self._accounts[device].values():
            account.claimed = account.promised = 0

    def is_lost(self, device: str) -> bool:
        """Whether nothing can be had of the device any more."""
        return device in self._lost

    @property
    def devices(self) -> tuple[str, ...]:
        """The ids of all devices, the host's among them."""
        return tuple(self._limits)

    def row(self, device: str) -> LedgerRow:
        """The device's books now."""
        accounts = self._accounts[device].values()
        used = sum(account.used for account in accounts)
        weights = sum(account.weights for account in accounts)
        return LedgerRow(
            limit_bytes=self._limits[device],
            used_bytes=used,
            weights_bytes=weights,
            padding_bytes=used - weights,
            reserved_bytes=sum(account.promised + account.staged for account in accounts),
            retired_bytes=sum(account.retired for account in accounts),
        )

    def room(self, device: str, model: str) -> int:
        """What the model may come to hold of the device: all but what others hold or have claimed.

        Its own current slabs are room, and so is what others are about to give back. Its own retired slabs are not:
        somebody still reads them.
        """
        accounts = self._accounts[device]
        others = sum(account.committed for id_, account in accounts.items() if id_ != model)
        own = accounts.get(model)
        return max(0, self._ours(device) - others - (own.retired if own else 0))

    def held(self, device: str, model: str) -> int:
        """The model's current slabs on the device."""
        return self._account(device, model).used

    def claimed_by_others(self, device: str, model: str) -> int:
        """What other models' jobs may still stage on the device, and have not allocated yet."""
        return sum(account.claimed for id_, account in self._accounts[device].items() if id_ != model)

    def claim(self, model: str, claims: Mapping[str, int]) -> None:
        """Set what the model's job may still stage, and set it aside as far as there is room.

        What was set aside for it before stays so, as far as it is claimed anew.
        """
        self.revision += 1
        self._claimants.setdefault(model)
        for device in self._limits:
            account = self._account(device, model)
            account.claimed = 0 if self.is_lost(device) else claims.get(device, 0)
            account.promised = min(account.promised, account.claimed)
            self._set_aside(device)

    def unclaim(self, model: str) -> None:
        """The model's job has ended: it will stage no more, and what was to leave has left, or is held."""
        self.revision += 1
        self._claimants.pop(model, None)
        for device in self._limits:
            account = self._account(device, model)
            account.claimed = account.promised = account.leaving = 0
            self._set_aside(device)

    def leave(self, model: str, nbytes: Mapping[str, int]) -> None:
        """The model's job is about to give back so much of each device."""
        self.revision += 1
        for device in self._limits:
            self._account(device, model).leaving = nbytes.get(device, 0)

    def stage(self, model: str, slabs: Iterable[Slab]) -> None:
        """Count slabs as staged, out of what was promised; all of them, or OutOfDeviceMemory and none."""
        self.revision += 1
        slabs = tuple(slabs)
        if short := self.shortage(model, slabs):
            free = short.available_bytes
            raise OutOfDeviceMemory(device=short.device, requested_bytes=short.required_bytes, free_bytes=free)
        for device, nbytes in slab_sums(slabs).items():
            account = self._account(device, model)
            account.promised = max(0, account.promised - nbytes)
            account.claimed = max(0, account.claimed - nbytes)
            account.staged += nbytes

    def shortage(self, model: str, slabs: Iterable[Slab]) -> Shortage | None:
        """What keeps `stage` from taking these slabs now; None where it would take them."""
        for device, nbytes in slab_sums(slabs).items():
            if nbytes > self._stageable(device, model):
                return Shortage(device, nbytes, max(0, self._stageable(device, model)))
        return None

    def blames_others(self, model: str, shortage: Shortage) -> bool:
        """Whether there would be room but for what others, who are no models of ours, have taken of the device."""
        taken = self._limits[shortage.device] - self._ours(shortage.device)
        return shortage.required_bytes <= self._stageable(shortage.device, model) + taken

    def unstage(self, model: str, slabs: Iterable[Slab]) -> None:
        """Staged slabs were freed without ever having been used; they may be staged again."""
        self.revision += 1
        for slab in slabs:
            account = self._account(slab.device, model)
            account.staged -= slab.nbytes
            account.claimed += slab.nbytes
            self._top_up(slab.device, model)
            self._set_aside(slab.device)

    def publish(self, model: str, slabs: Iterable[Slab]) -> None:
        """Staged slabs are in the current placement."""
        self.revision += 1
        for slab in slabs:
            account = self._account(slab.device, model)
            account.staged -= slab.nbytes
            account.used += slab.nbytes
            account.weights += slab.weights_bytes

    def retire(self, model: str, slabs: Iterable[Slab]) -> None:
        """Used slabs were replaced, and are not freed yet."""
        self.revision += 1
        for slab in slabs:
            account = self._account(slab.device, model)
            account.used -= slab.nbytes
            account.weights -= slab.weights_bytes
            account.retired += slab.nbytes

    def free(self, model: str, slabs: Iterable[Slab]) -> None:
        """Retired slabs were given back to the device; the claims that lack something get it, the model's own first."""
        self.revision += 1
        for slab in slabs:
            account = self._account(slab.device, model)
            account.retired -= slab.nbytes
            account.leaving = max(0, account.leaving - slab.nbytes)
            self._top_up(slab.device, model)
            self._set_aside(slab.device)

    def _account(self, device: str, model: str) -> _Account:
        return self._accounts[device].setdefault(model, _Account())

    def _stageable(self, device: str, model: str) -> int:
        return self._free(device) + self._account(device, model).promised

    def _ours(self, device: str) -> int:
        return 0 if self.is_lost(device) else min(self._limits[device], self._left_by_others[device])

    def _free(self, device: str) -> int:
        return self._ours(device) - sum(account.total for account in self._accounts[device].values())

    def _set_aside(self, device: str) -> None:
        for model in self._claimants:
            self._top_up(device, model)

    def _top_up(self, device: str, model: str) -> None:
        account = self._account(device, model)
        account.promised += max(0, min(account.claimed - account.promised, self._free(device)))
