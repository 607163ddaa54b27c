"""Who may still be using a resource when it is to be freed."""

import threading
from collections.abc import Callable
from types import TracebackType


class Lifetime:
    """Lets users in until it ends, and frees the resource once the last of them has left.

    Freed memory must not be read, and a closed descriptor's number may be another file's already: a release
    that comes during a read waits for it, and a read that comes after it is refused.
    """

    def __init__(self, what: str, free: Callable[[], None]) -> None:
        self._what = what
        self._free: Callable[[], None] | None = free
        self._users = 0
        self._ending = False
        self._left = threading.Condition()

    def __enter__(self) -> None:
        with self._left:
            if self._ending:
                raise ValueError(f"{self._what} was released")
            self._users += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._left:
            self._users -= 1
            if not self._users:
                self._left.notify_all()

    def end(self) -> None:
        """Refuse new users, wait for the present ones, free. Idempotent; when it returns, all is free."""
        with self._left:
            self._ending = True
            self._left.wait_for(lambda: not self._users)
            free, self._free = self._free, None
            if free:
                free()
