"""Who holds how much of each device: `used + reserved + retired <= limit` at every instant. All sizes are in bytes.

A slab counts in one state at a time: *staged* while it is filled, *used* in the current placement, *retired* once it is
replaced but not freed yet. A job *claims*, before it starts, the most that it will stage; what it has claimed but not
staged yet is promised to it, and promised and staged bytes together are the reserved ones. The event loop owns the
ledger: every method is one step for everybody else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.errors import OutOfDeviceMemory
from app.placement import Slab, slab_sums


@dataclass(slots=True)
class _Account:
    """One model's bytes on one device."""

    claimed: int = 0  # what its job may still stage
    promised: int = 0  # the part of it that is set aside: less than claimed while retired slabs are in the way
    staged: int = 0
    used: int = 0
    weights: int = 0
    retired: int = 0

    @property
    def total(self) -> int:
        return self.promised + self.staged + self.used + self.retired


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One device's books: `used = weights + padding`, `reserved` is promised or staged."""

    limit_bytes: int
    used_bytes: int
    weights_bytes: int
    padding_bytes: int
    reserved_bytes: int
    retired_bytes: int


class Ledger:
    """The books of all devices, by device and model."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)
        self._accounts: dict[str, dict[str, _Account]] = {device: {} for device in limits}

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
        """What the model may hold of the device: all that others do not, its own current slabs included.

        Its own retired slabs are not: somebody still reads them.
        """
        own = self._accounts[device].get(model)
        return self._free(device) + (own.used + own.promised + own.staged if own else 0)

    def held(self, device: str, model: str) -> int:
        """The model's current slabs on the device."""
        return self._account(device, model).used

    def promised_to_others(self, device: str, model: str) -> int:
        """What is set aside on the device for other models, and not allocated yet."""
        return sum(account.promised for id_, account in self._accounts[device].items() if id_ != model)

    def claim(self, model: str, claims: Mapping[str, int]) -> None:
        """Set what the model's job may still stage, and set it aside as far as there is room."""
        for device in self._limits:
            account = self._account(device, model)
            account.promised = 0
            account.claimed = claims.get(device, 0)
            self._set_aside(device, account)

    def unclaim(self, model: str) -> None:
        """The model's job will stage no more."""
        self.claim(model, {})

    def stage(self, model: str, slabs: Iterable[Slab]) -> None:
        """Count slabs as staged, out of what was promised; all of them, or OutOfDeviceMemory and none."""
        needed = slab_sums(slabs)
        for device, nbytes in needed.items():
            if nbytes > self._stageable(device, model):
                free = self._stageable(device, model)
                raise OutOfDeviceMemory(device=device, requested_bytes=nbytes, free_bytes=free)
        for device, nbytes in needed.items():
            account = self._account(device, model)
            account.promised = max(0, account.promised - nbytes)
            account.claimed = max(0, account.claimed - nbytes)
            account.staged += nbytes

    def has_room(self, model: str, slabs: Iterable[Slab]) -> bool:
        """Whether `stage` would take these slabs now."""
        return all(nbytes <= self._stageable(device, model) for device, nbytes in slab_sums(slabs).items())

    def unstage(self, model: str, slabs: Iterable[Slab]) -> None:
        """Staged slabs were freed without ever having been used."""
        for slab in slabs:
            self._account(slab.device, model).staged -= slab.nbytes

    def publish(self, model: str, slabs: Iterable[Slab]) -> None:
        """Staged slabs are in the current placement."""
        for slab in slabs:
            account = self._account(slab.device, model)
            account.staged -= slab.nbytes
            account.used += slab.nbytes
            account.weights += slab.weights_bytes

    def retire(self, model: str, slabs: Iterable[Slab]) -> None:
        """Used slabs were replaced, and are not freed yet."""
        for slab in slabs:
            account = self._account(slab.device, model)
            account.used -= slab.nbytes
            account.weights -= slab.weights_bytes
            account.retired += slab.nbytes

    def free(self, model: str, slabs: Iterable[Slab]) -> None:
        """Retired slabs were given back to the device; what a claim of the same model still lacks is set aside."""
        for slab in slabs:
            account = self._account(slab.device, model)
            account.retired -= slab.nbytes
            self._set_aside(slab.device, account)

    def _account(self, device: str, model: str) -> _Account:
        return self._accounts[device].setdefault(model, _Account())

    def _stageable(self, device: str, model: str) -> int:
        return self._free(device) + self._account(device, model).promised

    def _free(self, device: str) -> int:
        return self._limits[device] - sum(account.total for account in self._accounts[device].values())

    def _set_aside(self, device: str, account: _Account) -> None:
        missing = account.claimed - account.promised
        account.promised += max(0, min(missing, self._free(device)))
