"""A few costly things that many threads use by turns: real threads, and a ledger of who has what."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from app.devices.lending import Lending

SECONDS = 30  # until a test that hangs is given up


class Things:
    """Numbers as the things that are lent, and which of them were ended."""

    def __init__(self, most: int) -> None:
        self._numbers = count()
        self.ended: list[int] = []
        self.lending: Lending[int] = Lending(lambda: next(self._numbers), self.ended.append, most=most)


def test_nothing_is_made_before_it_is_needed() -> None:
    """There is none at first; one that came back is lent again before a second is made."""
    things = Things(most=3)
    assert things.lending.made == 0

    for _ in range(5):
        with things.lending.one() as thing:
            assert thing == 0

    assert things.lending.made == 1


def test_each_is_lent_to_one_at_a_time() -> None:
    """However many threads borrow, no two have the same thing, and there are never more than allowed."""
    things, lent, guard = Things(most=3), set[int](), threading.Lock()
    together: list[int] = []

    def borrow(_: int) -> None:
        for _ in range(200):
            with things.lending.one() as thing:
                with guard:
                    assert thing not in lent
                    lent.add(thing)
                    together.append(len(lent))
                with guard:
                    lent.remove(thing)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(borrow, range(8)))

    assert max(together) <= things.lending.made <= 3


def test_as_many_as_allowed_are_lent_at_once() -> None:
    """Threads that need one each at the same time all get one, up to the most."""
    things, meeting = Things(most=4), threading.Barrier(4)

    def borrow(_: int) -> int:
        with things.lending.one() as thing:
            meeting.wait(SECONDS)
            return thing

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(borrow, range(4))) == [0, 1, 2, 3]


def test_whoever_comes_too_late_waits() -> None:
    """Where all are lent the next borrower gets the first that comes back."""
    things, waited = Things(most=1), threading.Event()

    def borrow() -> int:
        with things.lending.one() as thing:
            waited.set()
            return thing

    with ThreadPoolExecutor(1) as threads:
        with things.lending.one() as thing:
            late = threads.submit(borrow)
            assert not waited.is_set()
        assert late.result(SECONDS) == thing


def test_it_comes_back_from_a_failure() -> None:
    """A block that fails gives its thing back."""
    things = Things(most=1)

    with pytest.raises(ZeroDivisionError), things.lending.one():
        1 / 0  # noqa: B018 - that it fails is the point

    with things.lending.one() as thing:
        assert thing == 0


def test_what_could_not_be_made_does_not_count() -> None:
    """A failure to make one is the borrower's to see; the next may try again."""
    attempts, ended = iter([None, 7]), list[int]()

    def make() -> int:
        if (made := next(attempts)) is None:
            raise OSError("none left")
        return made

    lending = Lending(make, ended.append, most=1)

    with pytest.raises(OSError, match="none left"), lending.one():
        pass
    assert lending.made == 0
    with lending.one() as thing:
        assert thing == 7


def test_close_ends_each_once() -> None:
    """Closing ends all, a second time none; what is borrowed later is new."""
    things = Things(most=2)
    with things.lending.one(), things.lending.one():
        pass

    things.lending.close()
    things.lending.close()

    assert sorted(things.ended) == [0, 1]
    assert things.lending.made == 0
    with things.lending.one() as thing:
        assert thing == 2


def test_close_waits_for_what_is_lent() -> None:
    """Nothing is ended under a borrower's hands."""
    things = Things(most=2)
    with ThreadPoolExecutor(1) as threads:
        with things.lending.one():
            closing = threads.submit(things.lending.close)
            assert things.ended == []
        closing.result(SECONDS)

    assert things.ended == [0]


def test_close_goes_on_after_a_failure() -> None:
    """One that cannot be ended keeps none of the others, and is not hidden."""
    ended: list[int] = []

    def end(thing: int) -> None:
        ended.append(thing)
        raise OSError(f"thing {thing} does not end")

    numbers = count()
    lending = Lending(lambda: next(numbers), end, most=2)
    with lending.one(), lending.one():
        pass

    with pytest.raises(OSError, match="does not end"):
        lending.close()
    assert sorted(ended) == [0, 1]
