"""Host memory, and files that are mapped but never dereferenced."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.devices import Device, DeviceKind
from app.devices.host import (
    HostDevice,
    MappedFile,
    host_memory,
    with_run,
)
from app.devices.mapping import PAGE
from app.devices.page_cache import counted_bytes, may_ask_mincore, sampled_resident_bytes
from app.errors import HostError
from tests.devices.contract import DeviceTests

ROOT = Path(__file__).parents[2]
FILE_BYTES = (32 << 20) + 100
NOBODY = 65534


class TestHostDevice(DeviceTests):
    """The contract, on host memory."""

    @pytest.fixture
    def device(self) -> Device:
        """The one host."""
        return HostDevice()


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    """A file on the disk, all of it in the page cache."""
    fd = os.open(tmp_path / "weights", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, np.random.default_rng(1).bytes(FILE_BYTES))
    os.fsync(fd)
    yield fd
    os.close(fd)


@pytest.fixture
def mapped(descriptor: int) -> Iterator[MappedFile]:
    """That file, mapped."""
    mapped = MappedFile(descriptor, FILE_BYTES)
    yield mapped
    mapped.close()


def drop_from_page_cache(fd: int) -> None:
    """Make the file cold; skip where the file system keeps it (tmpfs)."""
    mapped = MappedFile(fd, FILE_BYTES)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    resident = mapped.resident_bytes()
    mapped.close()
    if resident:
        pytest.skip("this file system keeps its pages in memory")


def locked_kib() -> int:
    """What the kernel says that this process has locked."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmLck:"))


def as_a_stranger(code: str, fd: int) -> str:
    """What the code prints in a process of a user to whom the descriptor's file does not belong, as `fd`."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    program = (
        "import os, resource\n"
        "from app.devices.host import *\n"
        "from app.errors import HostError\n"
        f"fd, nbytes = {fd}, {FILE_BYTES}\n"
        f"os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})\n"
    )
    command = [sys.executable, "-c", program + code]
    done = subprocess.run(  # noqa: S603 - our own interpreter, our own words
        command, pass_fds=[fd], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_the_host_says_what_it_is() -> None:
    """The host is the device `cpu`, of kind host."""
    device = HostDevice()

    assert device.id == "cpu"
    assert device.kind is DeviceKind.HOST
    assert device.uuid is None


def test_host_memory_adds_up() -> None:
    """Available memory and ours are parts of the total."""
    memory = host_memory()

    assert 0 < memory.available_bytes < memory.total_bytes
    assert 0 < memory.process_rss_bytes < memory.total_bytes


def test_a_written_file_is_resident(mapped: MappedFile) -> None:
    """All of a file that has just been written is in the page cache, its last part-page by its bytes."""
    assert mapped.resident_bytes() == FILE_BYTES


def test_a_dropped_file_is_not_resident_until_it_is_read(descriptor: int, mapped: MappedFile) -> None:
    """What the page cache has is what was read."""
    drop_from_page_cache(descriptor)
    assert mapped.resident_bytes() == 0

    os.pread(descriptor, 1, FILE_BYTES - 1)

    resident = mapped.resident_bytes()
    assert resident is not None
    assert 0 < resident < FILE_BYTES


def test_a_file_of_ours_is_ours(descriptor: int) -> None:
    """The kernel answers mincore for our own file truly."""
    assert may_ask_mincore(descriptor)


def test_a_stranger_samples(descriptor: int) -> None:
    """To one who could not write the file mincore says that all is resident; the sample knows better."""
    drop_from_page_cache(descriptor)
    code = (
        "mapped = MappedFile(fd, nbytes)\n"
        "print(may_ask_mincore(fd), mapped._mapping.resident_bytes())\n"
        "print(counted_bytes(fd, nbytes), mapped.resident_bytes())"
    )

    asked, by_mincore, counted, by_sample = as_a_stranger(code, descriptor).split()

    assert asked == "False"
    assert int(by_mincore) == FILE_BYTES
    assert counted == "None" or int(counted) == int(by_sample)
    if by_sample == "None":
        pytest.skip("this file system cannot say what it has in memory")
    assert int(by_sample) < FILE_BYTES // 2


def test_the_kernel_counts_what_mincore_sees(descriptor: int, mapped: MappedFile) -> None:
    """To the byte, at the end of the file as well; a kernel without cachestat says nothing."""
    for offset, nbytes in ((0, FILE_BYTES), (5 * PAGE, 7 * PAGE), (FILE_BYTES - 50, 50)):
        drop_from_page_cache(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(descriptor, nbytes, offset)
        assert counted_bytes(descriptor, FILE_BYTES) in (None, mapped._mapping.resident_bytes())
    assert counted_bytes(descriptor, 0) in (None, 0)


def test_a_sample_does_not_find_itself(descriptor: int) -> None:
    """Asking starts to read what is missing, so a second sample must not ask for the same pages."""
    drop_from_page_cache(descriptor)
    if sampled_resident_bytes(descriptor, FILE_BYTES) is None:
        pytest.skip("this file system cannot say what it has in memory")

    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    later = [sampled_resident_bytes(descriptor, FILE_BYTES) for _ in range(3)]

    assert all(resident is not None and resident < FILE_BYTES // 2 for resident in later)


def test_a_sample_of_a_warm_file_is_all_of_it(descriptor: int) -> None:
    """Where everything is in memory the estimate is exact, also for fewer pages than are sampled."""
    if sampled_resident_bytes(descriptor, FILE_BYTES) is None:
        pytest.skip("this file system cannot say what it has in memory")

    assert sampled_resident_bytes(descriptor, FILE_BYTES) == FILE_BYTES
    assert sampled_resident_bytes(descriptor, 5000) == 5000


def test_a_pipe_cannot_be_sampled() -> None:
    """What cannot say what is in memory gives None, not 0."""
    reader, writer = os.pipe()

    assert sampled_resident_bytes(reader, 5000) is None

    os.close(reader)
    os.close(writer)


def test_locks_whole_pages_once(mapped: MappedFile) -> None:
    """Locked ranges are whole pages, overlaps count once, the kernel agrees, and close lets go."""
    before = locked_kib()

    mapped.lock(PAGE + 1, PAGE)
    mapped.lock(2 * PAGE + 5, 10)
    mapped.lock(10 * PAGE, 1)
    mapped.lock(20 * PAGE, 0)

    assert mapped.locked_bytes == 3 * PAGE
    assert (locked_kib() - before) << 10 == 3 * PAGE
    mapped.close()
    assert mapped.locked_bytes == 0
    assert locked_kib() == before


def test_a_refused_lock_names_the_limit(descriptor: int) -> None:
    """Beyond RLIMIT_MEMLOCK a lock is refused with the numbers, and what was locked before stays."""
    code = (
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "mapped = MappedFile(fd, nbytes)\n"
        "mapped.lock(0, 16384)\n"
        "try:\n"
        "    mapped.lock(8192, 1 << 20)\n"
        "except HostError as error:\n"
        "    print(mapped.locked_bytes, open('/proc/self/status').read().split('VmLck:')[1].split()[0], error)"
    )

    locked, kernel_kib, message = as_a_stranger(code, descriptor).split(maxsplit=2)

    assert (int(locked), int(kernel_kib)) == (16384, 16)
    assert "RLIMIT_MEMLOCK is 65536 bytes" in message
    assert "locking 1048576 bytes" in message


def test_a_truncated_file_cannot_be_locked(descriptor: int, mapped: MappedFile) -> None:
    """Locking what is no longer there is an error and no signal; nothing of it stays locked."""
    before = locked_kib()
    os.ftruncate(descriptor, PAGE)

    with pytest.raises(HostError, match="RLIMIT_MEMLOCK"):
        mapped.lock(0, 4 * PAGE)

    assert mapped.locked_bytes == 0
    assert locked_kib() == before
    assert mapped.resident_bytes() == PAGE


def test_locks_only_what_is_mapped(mapped: MappedFile) -> None:
    """A range outside the file is refused."""
    with pytest.raises(ValueError, match=f"{FILE_BYTES} bytes"):
        mapped.lock(FILE_BYTES, 1)
    with pytest.raises(ValueError, match=f"{FILE_BYTES} bytes"):
        mapped.prefetch(0, FILE_BYTES + 1)


def test_prefetch_changes_nothing_but_the_page_cache(descriptor: int, mapped: MappedFile) -> None:
    """Prefetching reads what it is told, and neither moves the file's position nor locks."""
    position = os.lseek(descriptor, 7, os.SEEK_SET)
    drop_from_page_cache(descriptor)

    mapped.prefetch(FILE_BYTES // 2, FILE_BYTES - FILE_BYTES // 2)

    assert (mapped.resident_bytes() or FILE_BYTES) >= FILE_BYTES - FILE_BYTES // 2
    mapped.prefetch(0, FILE_BYTES)
    assert mapped.resident_bytes() in (None, FILE_BYTES)
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == position
    assert mapped.locked_bytes == 0


def test_a_file_that_was_cut_off_is_no_fault_of_ours(descriptor: int, mapped: MappedFile) -> None:
    """To read ahead what is there no more is refused: no signal, and nothing is left mapped."""
    os.truncate(f"/proc/self/fd/{descriptor}", PAGE)
    with pytest.raises(OSError, match="Bad address"):
        mapped.prefetch(0, FILE_BYTES)


def test_closes_twice(mapped: MappedFile) -> None:
    """After close nothing is known, nothing can be locked, and a second close does nothing."""
    mapped.close()
    mapped.close()

    assert mapped.resident_bytes() is None
    with pytest.raises(ValueError, match="released"):
        mapped.lock(0, 1)


def test_what_cannot_be_mapped() -> None:
    """A descriptor without pages is the host's error, with its size."""
    reader, writer = os.pipe()

    with pytest.raises(HostError, match="mapping 4096 bytes"):
        MappedFile(reader, 4096)

    os.close(reader)
    os.close(writer)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=12))
def test_runs_are_the_union(added: list[tuple[int, int]]) -> None:
    """Runs stay apart and in order, and cover exactly what was added."""
    runs: tuple[tuple[int, int], ...] = ()
    for start, length in added:
        runs = with_run(runs, start, start + length)

    covered = {page for start, length in added for page in range(start, start + length)}
    assert sum(end - start for start, end in runs) == len(covered)
    assert {page for start, end in runs for page in range(start, end)} == covered
    assert all(first[1] < second[0] for first, second in pairwise(runs))
