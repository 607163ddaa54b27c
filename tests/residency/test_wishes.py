"""Wishes: what was asked for is on the disk before anybody is told, and read again as it was written."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import HostError
from app.placement import HostMode, PlacementRequest, SplitMode, Strategy
from app.residency.wishes import Wish, Wishes
from tests.residency.deck import ALL, at, service, slow_device, two_devices

requests = st.builds(
    PlacementRequest,
    n_gpu_layers=st.integers(0, 500) | st.sampled_from(["all", "auto"]),
    strategy=st.sampled_from(Strategy),
    devices=st.none() | st.lists(st.text()).map(tuple),
    split_mode=st.sampled_from(SplitMode),
    split_weights=st.lists(st.floats(0, allow_infinity=False)).map(tuple) | st.sampled_from(["free", "equal"]),
    margin_bytes=st.integers(0, 2**63 - 1),
    host=st.sampled_from(HostMode),
)
layers = st.integers(0, 500) | st.sampled_from(["input", "output"])
wishes = st.builds(Wish, requests, st.none() | st.lists(st.tuples(layers, st.text())).map(tuple))


@given(wish=wishes)
def test_a_wish_reads_as_it_was_written(wish: Wish) -> None:
    """Round trip, tuples and enumerations included, on one line."""
    assert Wish.from_json(wish.to_json()) == wish
    assert "\n" not in wish.to_json()


def stored(place: Path) -> dict[str, str]:
    """What another reader finds in the file."""
    with closing(sqlite3.connect(f"file:{place}/state/wishes.sqlite?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT model, wish FROM wishes").fetchall())


def test_a_wish_is_durable_before_the_answer(place: Path) -> None:
    """As soon as load, offload and unload have returned, a second reader of the file sees what was asked for."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(0))).wait()
            assert Wish.from_json(stored(place)["tiny"]) == Wish(PlacementRequest(0), ())
            job = await loadmaster.offload("tiny", at(3))
            wish = Wish.from_json(stored(place)["tiny"])
            assert wish.request.n_gpu_layers == 3
            assert wish.devices == tuple((key, "sim:0") for key in ("input", 0, 1, 2, "output"))
            loadmaster.cancel(job.id)
            await job.wait_ended()
            assert Wish.from_json(stored(place)["tiny"]) == Wish(PlacementRequest(0), ())
            unload = await loadmaster.unload("tiny")
            assert stored(place) == {}
            await unload.wait()

    asyncio.run(main())


def test_a_request_in_other_words_is_remembered(place: Path) -> None:
    """Asking for what is so already ends at once, and a restart knows the latest words."""

    async def main() -> None:
        async with service(place, *two_devices()) as loadmaster:
            await (await loadmaster.load("tiny", ALL)).wait()
            await loadmaster.load("tiny", PlacementRequest(4, split_weights="equal"))
            assert Wish.from_json(stored(place)["tiny"]).request.n_gpu_layers == 4

    asyncio.run(main())


def test_a_second_process_is_kept_out(place: Path) -> None:
    """It is told so, and may come in once the first has closed."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from app.residency.wishes import Wishes\n"
        "async def main():\n"
        "    await (await Wishes.open(pathlib.Path(sys.argv[1]))).close()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(place / "state")]

    async def main() -> None:
        first = await Wishes.open(place / "state")
        with pytest.raises(HostError, match="another process uses it"):
            await Wishes.open(place / "state")
        second = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert "another process uses it" in second.stderr
        await first.close()
        await (await Wishes.open(place / "state")).close()

    asyncio.run(main())


def test_the_state_is_nobody_elses_business(place: Path) -> None:
    """The directory is made for its owner alone."""

    async def main() -> None:
        await (await Wishes.open(place / "deep" / "state")).close()

    asyncio.run(main())
    assert (place / "deep" / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("broken", ["file", "database"])
def test_a_state_directory_that_cannot_be_used_is_named(place: Path, broken: str) -> None:
    """A file in its place, or no database in it: HostError, and nothing stays open."""
    state = place / "state"
    if broken == "file":
        state.write_text("")
    else:
        state.mkdir()
        (state / "wishes.sqlite").write_bytes(b"no database at all" * 100)

    async def main() -> None:
        with pytest.raises(HostError, match="state directory"):
            await Wishes.open(state)

    asyncio.run(main())


CORRUPT = [
    "",
    "null",
    "{}",
    "[]",
    '{"request": null, "devices": null}',
    Wish(PlacementRequest()).to_json().replace('"auto"', '"banana"'),
    Wish(PlacementRequest()).to_json().replace('"auto"', "true"),
    Wish(PlacementRequest()).to_json().replace('"auto"', "1.5"),
    Wish(PlacementRequest()).to_json().replace('"first"', '"middle"'),
    Wish(PlacementRequest(margin_bytes=77)).to_json().replace("77", '"77"'),
    Wish(PlacementRequest(split_weights=(0.5,))).to_json().replace("0.5", "NaN"),
    Wish(PlacementRequest(split_weights=(0.5,))).to_json().replace("0.5", "-1"),
    Wish(PlacementRequest(), ((0, "sim:0"),)).to_json().replace('[0, "sim:0"]', "[[0], 1]"),
    Wish(PlacementRequest(), ((0, "sim:0"),)).to_json().replace('[0, "sim:0"]', "[0]"),
]


@pytest.mark.parametrize("text", CORRUPT)
def test_what_is_no_wish_is_refused(text: str) -> None:
    """Only with errors that the reader of the file expects."""
    with pytest.raises((ValueError, TypeError, KeyError)):
        Wish.from_json(text)
