"""A few costly things that many threads use by turns."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Lending(Generic[T]):
    """Lends things, each to one thread at a time: at most `most` of them, made when first needed, kept until `close`.

    Thread-safe. `make` and `end` run outside the lock: making one may be slow, and keeps nobody from borrowing another.
    """

    def __init__(self, make: Callable[[], T], end: Callable[[T], None], *, most: int) -> None:
        self._make = make
        self._end = end
        self._most = most
        self._made = 0  # lent, idle or being made
        self._idle: list[T] = []
        self._changed = threading.Condition()

    @property
    def made(self) -> int:
        """How many there are, those included that are just being made. Never waits."""
        return self._made

    @contextmanager
    def one(self) -> Iterator[T]:
        """Lend one for the time of the block: an idle one, or a new one, or else the next that comes back.

        The last that came back goes first: the processor's caches may still know it. Raises what `make` raises.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._made < self._most)
            idle = self._idle.pop() if self._idle else None
            self._made += idle is None
        thing = self._new() if idle is None else idle
        try:
            yield thing
        finally:
            with self._changed:
                self._idle.append(thing)
                self._changed.notify_all()

    def close(self) -> None:
        """End all of them, once each has come back; what is borrowed later is made anew. Idempotent.

        Raises what `end` raises, after all were ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) == self._made)
            things, self._idle = self._idle, []
            self._made = 0
            self._changed.notify_all()
        with ExitStack() as ending:
            for thing in things:
                ending.callback(self._end, thing)

    def _new(self) -> T:
        try:
            return self._make()
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify_all()
            raise
