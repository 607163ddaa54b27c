"""The models there are: every GGUF file below the models directories, looked at once and recognised afterwards.

A model's id is its path below the directory without `.gguf`, lower-cased. Shards (`-00001-of-00003`) are one model,
named without the suffix. Where two directories have the same relative path, the first directory wins.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.errors import GGUFError, HostError, InvalidModel, LoadmasterError
from app.gguf import Header, check_splits
from app.gguf.splits import SHARD_NAME
from app.model import Model, describe
from app.residency.files import SourceFile, read_header, shown

SUFFIX: Final = ".gguf"
SUBRESOURCES: Final = frozenset({
    "data", "detokenize", "layers", "load", "memory", "metadata", "offload", "plan", "rescan", "statistics", "tensors",
    "tokenize", "touch", "unload", "verify", "vocabulary",
})  # fmt: skip
"""The last segments of our own routes below /v1/models: an id that ends in one could not be asked for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model as its files describe it. `model` is None and `error` says why where they cannot be read.

    Headers are detached: long arrays are read again from the file when somebody looks at them.
    """

    id: str
    created: int
    size_bytes: int
    files: tuple[SourceFile, ...]
    headers: tuple[Header, ...]
    model: Model | None
    error: LoadmasterError | None

    def require_model(self) -> Model:
        """The model; InvalidModel, with the file's fault, where it cannot be read."""
        if self.model is None:
            raise InvalidModel(f"{self.id} cannot be used: {self.error}", model=self.id)
        return self.model


@dataclass(frozen=True, slots=True)
class _Candidate:
    """The files of one model: `shards` by number where they are numbered."""

    name: str  # relative, with its case, without .gguf and shard suffix
    listed_as: str  # the first file's relative path as it is: the name where there can be no id
    paths: tuple[tuple[int, Path], ...]
    count: int | None


def scan(directories: Sequence[Path], known: Mapping[str, Entry]) -> dict[str, Entry]:
    """Look at the directories; blocks. Files that are as they were in `known` are not opened again.

    A file that cannot be read becomes an entry with its error; only a models directory that cannot be read raises.
    """
    entries: dict[str, Entry] = {}
    for directory in directories:
        root = _resolved(directory)
        found: dict[str, list[_Candidate]] = defaultdict(list)
        for candidate in _candidates(root):
            found[candidate.name.lower()].append(candidate)
        for id_, candidates in sorted(found.items()):
            if id_ in entries:
                continue
            if len(candidates) > 1:
                names = " and ".join(sorted(candidate.listed_as for candidate in candidates))
                error = HostError(f"{names} have the same id {id_!r}")
                for candidate in candidates:
                    entries.setdefault(candidate.listed_as, _invalid(candidate.listed_as, candidate, error))
            elif id_.rpartition("/")[2] in SUBRESOURCES:
                reserved = HostError(f"the name ends in {id_.rpartition('/')[2]!r}, which is one of our routes")
                listed_as = candidates[0].listed_as
                entries.setdefault(listed_as, _invalid(listed_as, candidates[0], reserved))
            else:
                entries[id_] = _entry(id_, candidates[0], directories, known.get(id_))
    return entries


def entry_at(path: Path) -> Entry:
    """The model that a file is, or, with the shards beside it, is a part of; blocks. The file may be anywhere.

    Raises HostError where there is no such file; what is wrong inside is in the entry.
    """
    try:
        path.stat()
    except OSError as error:
        raise HostError(f"{shown(str(path))}: {error.strerror}") from error
    file = path.absolute()  # and not where a link leads: in a cache of downloads only the link has the shard's name
    shard = SHARD_NAME.fullmatch(file.stem)
    paths = _shards_beside(file, shard) if shard else [(1, file)]
    name, count = (shown(shard["base"]), int(shard["count"])) if shard else (shown(file.stem), None)
    return _entry(name.lower(), _Candidate(name, shown(file.name), tuple(paths), count), [Path("/")], None)


def _shards_beside(file: Path, shard: re.Match[str]) -> list[tuple[int, Path]]:
    """The shards of the same model in the same folder, by their numbers."""
    found = []
    for path in file.parent.glob("*"):  # of a folder that may not be listed: nothing
        other = SHARD_NAME.fullmatch(path.stem)
        if other and path.suffix == file.suffix and other.group("base", "count") == shard.group("base", "count"):
            found.append((int(other["number"]), path))
    return sorted(found)


def _resolved(directory: Path) -> Path:
    try:
        root = directory.resolve(strict=True)
        if not root.is_dir():
            raise HostError(f"{directory} is not a directory")
        os.scandir(root).close()  # walking would be silent about one that may not be read
    except OSError as error:
        raise HostError(f"models directory {directory}: {error.strerror}") from error
    return root


def _candidates(root: Path) -> Iterator[_Candidate]:
    """Every model below `root`, its shards together."""
    shards: dict[tuple[str, int], list[tuple[int, Path]]] = defaultdict(list)
    for path in _paths(root):
        listed_as = shown(path.relative_to(root).as_posix())
        name = listed_as[: -len(SUFFIX)]
        shard = SHARD_NAME.fullmatch(name)
        if shard:
            shards[shard["base"], int(shard["count"])].append((int(shard["number"]), path))
        else:
            yield _Candidate(name, listed_as, ((1, path),), None)
    for (base, count), paths in shards.items():
        paths.sort()
        listed_as = shown(paths[0][1].relative_to(root).as_posix())
        yield _Candidate(base, listed_as, tuple(paths), count)


def _paths(root: Path) -> Iterator[Path]:
    """Everything below `root` that is named like a GGUF file and is no directory.

    Links to directories are not followed; a folder that cannot be read is empty. os.walk would not do before Python
    3.12: it recurses, and folders can be nested deeper than the stack.
    """
    folders = [root]
    while folders:
        try:
            with os.scandir(folders.pop()) as children:
                visible = sorted((child for child in children if not child.name.startswith(".")), key=lambda c: c.name)
        except OSError:
            continue
        for child in visible:
            if not _is_folder(child) and Path(child).suffix.lower() == SUFFIX:
                yield Path(child)
        folders += [Path(child) for child in reversed(visible) if child.is_dir(follow_symlinks=False)]


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a loop of links
        return False


def _entry(id_: str, candidate: _Candidate, directories: Sequence[Path], known: Entry | None) -> Entry:
    try:
        files = tuple(_source(path, directories) for _, path in candidate.paths)
        if known is not None and known.files == files:
            return known
        _require_all_shards(candidate)
        headers = tuple(read_header(file) for file in files)
        check_splits(headers, [file.shown_path for file in files])
        model = describe(headers)
    except (GGUFError, HostError) as error:
        return _invalid(id_, candidate, error)
    size = sum(file.size_bytes for file in files)
    created = files[0].mtime_ns // 1_000_000_000
    return Entry(id_, created, size, files, headers, model, None)


def _source(path: Path, directories: Sequence[Path]) -> SourceFile:
    """The regular file behind `path`, which may be a link as long as it stays below a models directory."""
    try:
        path.stat()  # the kernel follows forty links and no more; without it resolving would follow any number
        resolved = path.resolve(strict=True)
    except OSError as error:
        raise HostError(f"{shown(path.name)}: a link that leads nowhere") from error
    if not any(resolved.is_relative_to(directory.resolve()) for directory in directories):
        raise HostError(f"{shown(path.name)}: a link that leads out of the models directories")
    return SourceFile.at(resolved)


def _require_all_shards(candidate: _Candidate) -> None:
    """Raise HostError with the numbers of the shards that are missing, doubled, or beyond the last one."""
    if candidate.count is None:
        return
    there = Counter(number for number, _ in candidate.paths)
    wanted = range(1, candidate.count + 1)
    faults = {
        "missing": [number for number in wanted if number not in there],
        "doubled": [number for number, files in there.items() if files > 1],
        "not among them": [number for number in there if number not in wanted],
    }
    named = [f"{fault}: {', '.join(map(str, numbers[:10]))}" for fault, numbers in faults.items() if numbers]
    if named:
        total = sum(there.values())
        raise HostError(f"{candidate.name}: {total} shards of {candidate.count}; {'; '.join(named)}")


def _invalid(id_: str, candidate: _Candidate, error: LoadmasterError) -> Entry:
    """An entry for what cannot be read; its size and time are what the directory says, or 0 where it says nothing."""
    created, size = 0, 0
    for _, path in candidate.paths:
        try:
            status = path.lstat()
        except OSError:
            continue
        created, size = int(status.st_mtime), size + status.st_size
    return Entry(id_, created, size, (), (), None, error)
