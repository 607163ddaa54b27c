"""Loss: that a device will do nothing any more, and whom to tell."""

import threading
from collections.abc import Callable

from app.errors import DeviceLost


class Loss:
    """Whether a device is lost: for as long as this process lives, and with all that it held.

    Found by whoever calls the device next; the watchers are told once, on the finder's thread, before its call or
    anybody else's raises DeviceLost. Thread-safe; never blocks.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._reason: str | None = None
        self._status: int | None = None
        self._watchers: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def reason(self) -> str | None:
        """What happened to the device; None while it is there."""
        return self._reason

    def watch(self, told: Callable[[], object]) -> None:
        """Have `told` called when the device is found to be lost; at once where it is already. It must not block."""
        with self._lock:
            if self._reason is None:
                self._watchers.append(told)
                return
        told()

    def found(self, reason: str, *, status: int | None = None) -> DeviceLost:
        """The device is lost. Returns the error to be raised, with the words and the number of the first finder."""
        with self._lock:
            if self._reason is None:
                self._reason, self._status = reason, status
                for told in self._watchers:
                    told()
        return self.error()

    def check(self) -> None:
        """Raise DeviceLost if it is."""
        with self._lock:  # its watchers first
            lost = self._reason is not None
        if lost:
            raise self.error()

    def error(self, *, param: str | None = None) -> DeviceLost:
        """A new error for a lost device, `param` the field that asked for it; ValueError where it is not lost."""
        if self._reason is None:
            raise ValueError(f"{self._device} is not lost")
        return DeviceLost(self._device, self._reason, param=param, status=self._status)
