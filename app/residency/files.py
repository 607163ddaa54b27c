"""The files behind a model: opened once, recognised for as long as they are used, read by pread only.

The file that was planned is the file that is copied: inode, size and modification time are compared before and after.
The mapping is there for sharing, mlock and residency; this process never dereferences it, for a file truncated under
a mapping is a SIGBUS. Everything here blocks and belongs on a worker thread. Sizes and offsets are in bytes.
"""

import errno
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.devices.host import MappedFile
from app.errors import FileChanged, GGUFError, HostError, Truncated
from app.gguf import Header, parse_header

log = logging.getLogger(__name__)

FIRST_READ: Final = 1 << 20
MAX_HEADER: Final = 1 << 28  # 256 MiB: the largest vocabularies in the field are below 40 MiB
NO_FAULT_OF_THE_FILE: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file as it was when it was looked at: which it is, how large, how old."""

    path: str
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def at(cls, path: Path) -> "SourceFile":
        """The regular file at `path`, which is resolved already; HostError where there is none."""
        try:
            status = path.stat()
        except OSError as error:
            raise HostError(f"{shown(path.name)}: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise HostError(f"{shown(path.name)}: not a regular file")
        return cls(str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def name(self) -> str:
        """The file's name without its directories, for people."""
        return shown(Path(self.path).name)

    @property
    def modified(self) -> float:
        """When it was last written to, in seconds since the epoch."""
        return self.mtime_ns / 1e9

    @property
    def shown_path(self) -> str:
        """Where the file is, for people."""
        return shown(self.path)

    def difference(self, status: os.stat_result) -> str | None:
        """In words, how a file differs from this one; None where it is the same."""
        if (status.st_dev, status.st_ino) != (self.device, self.inode):
            return "was replaced by another file"
        if status.st_size != self.size_bytes:
            return f"changed its size from {self.size_bytes} to {status.st_size} bytes"
        if status.st_mtime_ns != self.mtime_ns:
            return "was written to"
        return None

    def open(self) -> int:
        """A descriptor of this very file; HostError where it is gone or another."""
        try:
            fd = os.open(self.path, OPEN_FLAGS)
        except OSError as error:
            raise HostError(f"{self.shown_path}: {error.strerror}") from error
        changed = self.difference(os.fstat(fd))
        if changed:
            os.close(fd)
            raise HostError(f"{self.shown_path} {changed}")
        return fd


def shown(path: str) -> str:
    """A path as it can be sent: bytes of it that are not UTF-8 are question marks."""
    return path.encode("utf-8", "replace").decode()


def read_header(file: SourceFile) -> Header:
    """The file's header, detached from the bytes it was parsed from. Reads as little as the header needs.

    Raises GGUFError with the file named, HostError where it cannot be read.
    """
    fd = file.open()
    try:
        wanted = min(FIRST_READ, file.size_bytes)
        while True:
            data = pread(fd, 0, wanted)
            if len(data) < wanted:  # asking for more would never end
                raise HostError(f"{file.shown_path} was cut off at byte {len(data)} while it was read")
            try:
                header = parse_header(data)
                header.check_data(file.size_bytes)
                return header.detached()
            except Truncated as error:
                if len(data) >= file.size_bytes or error.needed_bytes > min(file.size_bytes, MAX_HEADER):
                    raise error.in_file(file.shown_path) from None
                wanted = min(max(error.needed_bytes, 4 * len(data)), file.size_bytes, MAX_HEADER)
            except GGUFError as error:
                raise error.in_file(file.shown_path) from None
    finally:
        os.close(fd)


def pread(fd: int, offset: int, nbytes: int) -> bytes:
    """`nbytes` from `offset`, copied; fewer only at the end of the file. HostError where the disk fails."""
    parts = []
    try:
        while nbytes and (part := os.pread(fd, nbytes, offset)):
            parts.append(part)
            offset += len(part)
            nbytes -= len(part)
    except OSError as error:
        raise _unreadable(offset, error) from error
    return b"".join(parts)


def _unreadable(offset: int, error: OSError) -> HostError:
    return HostError(f"reading failed at byte {offset}: {error.strerror}")


class OpenFiles:
    """A model's files, open. `lock` is a list of (file, offset, nbytes) to be kept in memory by mlock."""

    def __init__(self, model: str, files: Sequence[SourceFile]) -> None:
        self.model = model
        self.files = tuple(files)
        self.fds: list[int] = []
        self._maps: list[MappedFile] = []
        self._locked: tuple[tuple[int, int, int], ...] = ()
        try:
            for file in files:
                self.fds.append(self._open(file))
                self._maps.append(MappedFile(self.fds[-1], file.size_bytes))
        except BaseException:
            self.close()
            raise

    def _open(self, file: SourceFile) -> int:
        try:
            return file.open()
        except HostError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_FAULT_OF_THE_FILE:
                raise
            raise FileChanged(
                f"{error}; rescan to see what is there now", model=self.model, file=file.shown_path
            ) from error

    def duplicate(self) -> "OpenFiles":
        """The same open files, whichever were opened, under descriptors that outlive these; nothing is mapped.

        HostError where there may be no more descriptors.
        """
        twin = OpenFiles(self.model, ())
        twin.files = self.files
        try:
            for fd in self.fds:
                twin.fds.append(os.dup(fd))
        except OSError as error:
            twin.close()
            raise HostError(f"{self.model}: opening its files once more: {error.strerror}") from error
        return twin

    def check(self) -> None:
        """Raise FileChanged unless every file is still the one that was opened, and still where it was."""
        for file, fd in zip(self.files, self.fds, strict=True):
            changed = file.difference(os.fstat(fd))
            if changed is None:
                try:
                    changed = file.difference(Path(file.path).stat())
                except OSError as error:
                    changed = f"is gone ({error.strerror})"
            if changed:
                raise FileChanged(f"{file.shown_path} {changed}", model=self.model, file=file.shown_path)

    def read(self, file: int, offset: int, nbytes: int) -> bytes:
        """Copy bytes out of a file; FileChanged where it has become too short."""
        data = pread(self.fds[file], offset, nbytes)
        if len(data) < nbytes:
            raise self._too_short(file)
        return data

    def read_into(self, file: int, offset: int, target: memoryview) -> None:
        """Fill `target` with bytes of a file, without a copy of its own; FileChanged where it has become too short."""
        filled = 0
        while filled < len(target):
            try:
                nbytes = os.preadv(self.fds[file], [target[filled:]], offset + filled)
            except OSError as error:
                raise _unreadable(offset + filled, error) from error
            if not nbytes:
                raise self._too_short(file)
            filled += nbytes

    @contextmanager
    def in_order(self, file: int) -> Iterator[int]:
        """Lend a descriptor for one who reads a long run of a file: with a readahead of its own, twice as long."""
        try:
            fd = os.open(f"/proc/self/fd/{self.fds[file]}", os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:  # that was taken away since: what is open stays so
            yield self.fds[file]
            return
        except OSError as error:
            raise HostError(f"{self.files[file].shown_path}: {error.strerror}") from error
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            yield fd
        finally:
            os.close(fd)

    def _too_short(self, file: int) -> FileChanged:
        path, end = self.files[file].shown_path, os.fstat(self.fds[file]).st_size
        return FileChanged(f"{path} ends at byte {end}", model=self.model, file=path)

    def prefetch(self, ranges: Sequence[tuple[int, int, int]]) -> None:
        """Read (file, offset, nbytes) ranges into the page cache: as slow as the disk. Gives up once closed."""
        try:
            for file, offset, nbytes in ranges:
                self._maps[file].prefetch(offset, nbytes)
        except (ValueError, IndexError):  # closed meanwhile: nobody wants them any more
            return
        except OSError as error:  # whoever reads these bytes will hear of it, and nobody may ever
            log.warning("%s could not be read ahead: %s", self.model, error.strerror)

    def lock(self, ranges: Sequence[tuple[int, int, int]]) -> None:
        """Lock exactly these (file, offset, nbytes) ranges in memory, and unlock all others.

        Raises HostError with RLIMIT_MEMLOCK where that is refused; then the ranges locked before stay locked.
        """
        try:
            for file, offset, nbytes in ranges:
                self._maps[file].lock(offset, nbytes)
        except HostError:
            self._keep_locked(self._locked)
            raise
        self._keep_locked(ranges)
        self._locked = tuple(ranges)

    def _keep_locked(self, ranges: Sequence[tuple[int, int, int]]) -> None:
        for number, mapped in enumerate(self._maps):
            mapped.keep_locked([(offset, nbytes) for file, offset, nbytes in ranges if file == number])

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def mapped_bytes(self) -> int:
        """The size of all mappings."""
        return self.size_bytes if self._maps else 0

    @property
    def locked_bytes(self) -> int:
        """What mlock holds."""
        return sum(mapped.locked_bytes for mapped in self._maps)

    def resident_bytes(self) -> int | None:
        """How much of the files is in the page cache; None where the kernel does not tell."""
        counts = [mapped.resident_bytes() for mapped in self._maps]
        return None if None in counts else sum(count for count in counts if count is not None)

    def close(self) -> None:
        """Unmap, unlock and close. Idempotent."""
        for mapped in self._maps:
            mapped.close()
        self._maps = []
        while self.fds:
            os.close(self.fds.pop())
