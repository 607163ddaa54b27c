"""Loss: found once, told before anybody is refused, and for good."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.devices import Loss
from app.errors import DeviceLost


def test_a_device_is_there_until_it_is_found_to_be_lost() -> None:
    """The words and the number of whoever found it first stay; each error is a new one."""
    loss = Loss("cuda:1")
    loss.check()
    assert loss.reason is None
    with pytest.raises(ValueError, match="cuda:1 is not lost"):
        loss.error()

    first = loss.found("freeing 3 bytes: an illegal memory access", status=700)
    second = loss.found("something else", status=719)

    assert str(first) == str(second) == "cuda:1 is lost: freeing 3 bytes: an illegal memory access"
    assert first is not second
    assert (
        first.facts
        == second.facts
        == {
            "device": "cuda:1",
            "reason": "lost",
            "happened": "freeing 3 bytes: an illegal memory access",
            "status": 700,
        }
    )
    with pytest.raises(DeviceLost, match="illegal memory access"):
        loss.check()
    assert loss.error(param="devices").param == "devices"


def test_watchers_are_told_once() -> None:
    """Each of them, at the first finding; one that comes later, at once."""
    loss, told = Loss("sim:0"), []
    loss.watch(lambda: told.append("first"))
    loss.watch(lambda: told.append("second"))
    assert told == []

    loss.found("burnt")
    loss.found("burnt again")
    loss.watch(lambda: told.append("late"))

    assert told == ["first", "second", "late"]


def test_nobody_is_refused_before_the_watchers_are_told() -> None:
    """Whoever comes while they are being told waits for it."""
    loss, being_told, go_on = Loss("sim:0"), threading.Event(), threading.Event()
    told = []

    def watcher() -> None:
        being_told.set()
        go_on.wait(30)
        told.append(True)

    def come_by() -> list[bool]:
        try:
            loss.check()
        except DeviceLost:
            return list(told)
        raise AssertionError("it is lost")

    loss.watch(watcher)
    with ThreadPoolExecutor(2) as threads:
        finding = threads.submit(loss.found, "burnt")
        being_told.wait(30)
        refused = threads.submit(come_by)
        go_on.set()
        assert refused.result() == [True]
        assert isinstance(finding.result(), DeviceLost)
