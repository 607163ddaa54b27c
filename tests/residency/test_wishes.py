"""Wishes: what was asked for is on the disk before anybody is told, and read again as it was written."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import HostError
from app.placement import ContextRequest, HostMode, PlacementRequest, SplitMode, Strategy
from app.residency.remembered import RememberedPart, RememberedPlacement, RememberedSlab
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
counts = st.integers(0, 500)
parts = st.builds(RememberedPart, st.text(), counts, counts, st.integers(1000, 2000))
slabs = st.builds(RememberedSlab, layers, st.text(), st.lists(parts, max_size=3).map(tuple))
placements = st.builds(RememberedPlacement, st.text(), counts, counts, st.lists(slabs, max_size=3).map(tuple))
wishes = st.builds(Wish, requests, st.none() | placements)


@given(wish=wishes)
def test_a_wish_reads_as_it_was_written(wish: Wish) -> None:
    """Round trip, tuples and enumerations included, on one line."""
    assert Wish.from_json(wish.to_json()) == wish
    assert "\n" not in wish.to_json()


ON_THE_HOST = RememberedPlacement("first", 0, 0, ())
PLACED = RememberedPlacement("first", 1, 3, (RememberedSlab(7, "sim:0", (RememberedPart("t", 5, 10, 15),)),))


def stored(place: Path) -> dict[str, str]:
    """What another reader finds in the file."""
    with closing(sqlite3.connect(f"file:{place}/state/wishes.sqlite?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT model, wish FROM wishes").fetchall())


def test_a_wish_is_durable_before_the_answer(place: Path) -> None:
    """As soon as load, offload and unload have returned, a second reader of the file sees what was asked for."""

    async def main() -> None:
        async with service(place, slow_device()) as loadmaster:
            await (await loadmaster.load("tiny", PlacementRequest(0))).wait()
            assert Wish.from_json(stored(place)["tiny"]) == Wish(PlacementRequest(0), ON_THE_HOST)
            job = await loadmaster.offload("tiny", at(3))
            wish = Wish.from_json(stored(place)["tiny"])
            assert wish.request.n_gpu_layers == 3
            assert wish.placement is not None
            slabs = [(slab.layer, slab.device) for slab in wish.placement.slabs]
            assert slabs == [(key, "sim:0") for key in ("input", 0, 1, 2, "output")]
            loadmaster.cancel(job.id)
            await job.wait_ended()
            assert Wish.from_json(stored(place)["tiny"]) == Wish(PlacementRequest(0), ON_THE_HOST)
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


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Wish | None]]]:
    """A state directory as a kill leaves it, its wishes in the log, and all that was ever wished for, in order."""
    place = tmp_path_factory.mktemp("crashed")
    history: list[dict[str, Wish | None]] = [{}]

    async def main() -> None:
        wishes = await Wishes.open(place / "state")
        for n in range(40):
            wish = None if n % 7 == 6 else Wish(PlacementRequest(n), replace(PLACED, slabs=PLACED.slabs * 20))
            await wishes.put({"abc"[n % 3]: wish})
            history.append(dict(wishes.current))
        shutil.copytree(place / "state", place / "left")
        await wishes.close()

    asyncio.run(main())
    return place / "left", history


def damaged(data: bytes, seed: int) -> bytes:
    """The bytes cut off, garbled or zeroed somewhere."""
    rng = np.random.default_rng(seed)
    start = int(rng.integers(len(data)))
    length = min(int(rng.integers(1, 5000)), len(data) - start)
    return (
        data[:start]
        + (b"", rng.bytes(length) + data[start + length :], bytes(length) + data[start + length :])[seed % 3]
    )


def reopened(state: Path) -> dict[str, Wish | None]:
    """The wishes that are found; HostError."""

    async def main() -> dict[str, Wish | None]:
        wishes = await Wishes.open(state)
        try:
            return dict(await wishes.all())
        finally:
            await wishes.close()

    return asyncio.run(main())


@pytest.mark.parametrize("file", ["wishes.sqlite-wal", "wishes.sqlite-shm"])
@pytest.mark.parametrize("seed", range(9))
def test_a_log_that_was_cut_short_or_garbled_ends_earlier(
    tmp_path: Path, crashed: tuple[Path, list[dict[str, Wish | None]]], file: str, seed: int
) -> None:
    """Whatever happens to the log after a kill, the wishes are those of one moment, and never half of one."""
    left, history = crashed
    state = Path(shutil.copytree(left, tmp_path / "state"))
    (state / file).write_bytes(damaged((state / file).read_bytes(), seed))

    assert reopened(state) in history


@pytest.mark.parametrize("seed", range(12))
def test_a_database_that_is_damaged_is_read_or_refused_in_words(
    tmp_path: Path, crashed: tuple[Path, list[dict[str, Wish | None]]], seed: int
) -> None:
    """The wishes of a model may be lost then, but nothing else is raised than what the start turns into a sentence."""
    state = Path(shutil.copytree(crashed[0], tmp_path / "state"))
    reopened(state)  # takes the log into the database
    (state / "wishes.sqlite").write_bytes(damaged((state / "wishes.sqlite").read_bytes(), seed))

    with suppress(HostError):
        assert reopened(state).keys() <= {"a", "b", "c"}


@pytest.mark.parametrize("word", ["CREATE", "TABLE", "TEXT"])
def test_damage_that_sqlite_cannot_even_quote_is_refused_in_words(
    tmp_path: Path, crashed: tuple[Path, list[dict[str, Wish | None]]], word: str
) -> None:
    """Its message then holds bytes that are no text."""
    state = Path(shutil.copytree(crashed[0], tmp_path / "state"))
    reopened(state)
    file = state / "wishes.sqlite"
    file.write_bytes(file.read_bytes().replace(word.encode(), word[:2].encode() + b"\xc5" + word[3:].encode()))

    with pytest.raises(HostError, match="state directory"):
        reopened(state)


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
    Wish(PlacementRequest(split_weights=(0.5,))).to_json().replace("0.5", "true"),
    Wish(PlacementRequest(context=ContextRequest(n_seq=77))).to_json().replace("77", "null"),
    Wish(PlacementRequest(context=ContextRequest(n_ctx=77))).to_json().replace("77", "77.5"),
    Wish(PlacementRequest(context=ContextRequest(n_ctx=77))).to_json().replace('h_attention": true', 'h_attention": 2'),
    Wish(PlacementRequest(), PLACED).to_json().replace('"sim:0"', "1"),
    Wish(PlacementRequest(), PLACED).to_json().replace('"layer": 7', '"layer": [7]'),
    Wish(PlacementRequest(), PLACED).to_json().replace('"start": 5', '"start": -5'),
    Wish(PlacementRequest(), PLACED).to_json().replace('"start": 5', '"start": 6'),
    Wish(PlacementRequest(), PLACED).to_json().replace('"start": 5', '"start": 4.5'),
    Wish(PlacementRequest(), PLACED).to_json().replace('"tensor": "t"', '"tensor": 7'),
    Wish(PlacementRequest(), PLACED).to_json().replace('"n_cpu_moe": 3', '"n_cpu_moe": "3"'),
    Wish(PlacementRequest(), PLACED).to_json().replace('"parts"', '"pieces"'),
]


@pytest.mark.parametrize("text", CORRUPT)
def test_what_is_no_wish_is_refused(text: str) -> None:
    """Only with errors that the reader of the file expects."""
    with pytest.raises((ValueError, TypeError, KeyError)):
        Wish.from_json(text)
