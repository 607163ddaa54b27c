"""Wishes: what should be loaded, and how. Durable before anybody is told that it will be.

A wish outlives the process: a restart reads the wishes and loads them again. One SQLite file in the state directory,
in WAL mode with full synchronisation, is all there is; a lock beside it keeps a second process out, which would own a
second copy of the memory.
"""

import asyncio
import fcntl
import json
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any, Final, Self, TypeVar

from app.errors import HostError, InvalidValue
from app.placement import ContextRequest, HostMode, Override, Placement, PlacementRequest, SplitMode, Strategy
from app.residency.remembered import RememberedPlacement

T = TypeVar("T")

_DAMAGED = (sqlite3.Error, UnicodeDecodeError)  # SQLite quotes the damage in its message, which Python then decodes


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a model stays loaded."""

    pinned: bool = False
    """Never evicted to make room for another."""
    keep_alive: float = -1
    """Seconds of idleness after which it is unloaded; 0 as soon as it is idle, -1 never."""

    def expires_at(self, used_at: float) -> float | None:
        """When a model that was last used at `used_at` is to be unloaded, by the same clock; None for never."""
        return None if self.keep_alive < 0 else used_at + self.keep_alive


STAYS: Final = Retention()
"""Until it is unloaded, or evicted."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a model should be loaded: what was asked for, and the placement that came of it.

    A restart puts that back if it can; a changed offload keeps the fields of the request that it leaves out.
    """

    request: PlacementRequest
    placement: RememberedPlacement | None = None
    retention: Retention = STAYS

    def placed(self, placement: Placement) -> "Wish":
        """The same wish, and what came of it."""
        return replace(self, placement=RememberedPlacement.of(placement))

    def settled(self, placement: Placement) -> "Wish":
        """The wish for just this placement: what was left to choose stays as it was chosen."""
        request = replace(self.request, n_gpu_layers=placement.n_gpu_layers, n_cpu_moe=placement.n_cpu_moe)
        return replace(self, request=request).placed(placement)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Wish":
        """The wish that `to_json` wrote; ValueError, TypeError or KeyError for anything else."""
        data: dict[str, Any] = json.loads(text)
        request: dict[str, Any] = data["request"]
        weights, devices = request["split_weights"], request["devices"]
        wish = cls(
            PlacementRequest(
                n_gpu_layers=request["n_gpu_layers"],
                strategy=Strategy(request["strategy"]),
                devices=None if devices is None else tuple(devices),
                split_mode=SplitMode(request["split_mode"]),
                split_weights=tuple(weights) if isinstance(weights, list) else weights,
                margin_bytes=request["margin_bytes"],
                host=HostMode(request["host"]),
                overrides=tuple(Override(**override) for override in request["overrides"]),
                n_cpu_moe=request["n_cpu_moe"],
                context=None if request["context"] is None else ContextRequest(**request["context"]),
            ),
            None if data["placement"] is None else RememberedPlacement.from_json(data["placement"]),
            Retention(**data.get("retention", {})),
        )
        if not wish.is_sound():
            raise ValueError(f"a wish that nobody can have had: {text[:200]}")
        return wish

    def is_sound(self) -> bool:
        """Whether every value is of a kind that a request can have."""
        request, weights, retention = self.request, self.request.split_weights, self.retention
        return (
            type(retention.pinned) is bool
            and type(retention.keep_alive) in (int, float)
            and (retention.keep_alive == -1 or 0 <= retention.keep_alive < math.inf)
            and (request.n_gpu_layers in ("all", "auto") or type(request.n_gpu_layers) is int)
            and type(request.margin_bytes) is int
            and request.margin_bytes >= 0
            and type(request.n_cpu_moe) is int
            and request.n_cpu_moe >= 0
            and all(isinstance(o.pattern, str) and isinstance(o.device, str) for o in request.overrides)
            and (weights in ("free", "equal") or (isinstance(weights, tuple) and all(map(_is_weight, weights))))
            and (request.context is None or _is_sound(request.context))
            and all(isinstance(device, str) for device in request.devices or ())
        )


class Wishes:
    """The wishes by model id. Everything runs on one thread of its own; an await returns when it is on the disk."""

    def __init__(self, connection: sqlite3.Connection, lock: IO[str], thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._lock = lock
        self._thread = thread
        self.current: dict[str, Wish | None] = {}
        """The wishes that are durable now; None for one that this version cannot read."""

    @classmethod
    async def open(cls, directory: Path) -> Self:
        """The wishes kept in `directory`, which is made if need be; HostError where that cannot be."""
        thread = ThreadPoolExecutor(1, "wishes")
        try:
            connection, lock = await asyncio.get_running_loop().run_in_executor(thread, _open, directory)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(connection, lock, thread)

    def retention(self, model: str) -> Retention:
        """How long the model stays, as it is wished for."""
        wish = self.current.get(model)
        return wish.retention if wish else STAYS

    async def all(self) -> Mapping[str, Wish | None]:
        """Read every wish anew; None for one that this version cannot read."""
        rows = await self._run(lambda: self._connection.execute("SELECT model, wish FROM wishes").fetchall())
        self.current = {model: _parsed(text) for model, text in rows}
        return dict(self.current)

    async def put(self, wishes: Mapping[str, Wish | None]) -> None:
        """Set the wishes of models, or withdraw them (None); returns when all are durable. HostError, and none is."""
        rows = [(model, wish.to_json()) for model, wish in wishes.items() if wish is not None]
        gone = [(model,) for model, wish in wishes.items() if wish is None]
        await self._run(lambda: _write(self._connection, rows, gone))
        for model, wish in wishes.items():
            if wish is None:
                self.current.pop(model, None)
            else:
                self.current[model] = wish

    async def close(self) -> None:
        """Close the file and let another process have it."""
        await self._run(self._connection.close)
        self._lock.close()
        self._thread.shutdown()

    async def _run(self, action: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, action)
        except _DAMAGED as error:
            raise HostError(f"the state directory cannot be used: {error}") from error


def _open(directory: Path) -> tuple[sqlite3.Connection, IO[str]]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    except OSError as error:
        raise HostError(f"state directory {directory}: {error.strerror}") from error
    connection = None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Autocommit: each statement is a transaction of its own. One thread, but not the one that closes at exit.
        connection = sqlite3.connect(directory / "wishes.sqlite", isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        columns = "model TEXT PRIMARY KEY NOT NULL, wish TEXT NOT NULL"
        connection.execute(f"CREATE TABLE IF NOT EXISTS wishes ({columns}) STRICT")
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":  # else what is damaged could pass for nobody's wish
            raise sqlite3.DatabaseError(f"wishes.sqlite is damaged: {found}")
    except (OSError, *_DAMAGED) as error:
        if connection is not None:
            connection.close()
        lock.close()
        reason = "another process uses it" if isinstance(error, BlockingIOError) else error
        raise HostError(f"state directory {directory}: {reason}") from error
    return connection, lock


def _write(connection: sqlite3.Connection, rows: Sequence[tuple[str, str]], gone: Sequence[tuple[str]]) -> None:
    """All of it, or nothing."""
    connection.execute("BEGIN")
    try:
        connection.executemany("INSERT OR REPLACE INTO wishes VALUES (?, ?)", rows)
        connection.executemany("DELETE FROM wishes WHERE model = ?", gone)
        connection.execute("COMMIT")
    except _DAMAGED:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _is_weight(value: float) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_sound(context: ContextRequest) -> bool:
    """Whether every value is of the type of its default; that of `n_ctx` is None or a number."""
    kinds = {field.name: type(field.default) for field in fields(context)}
    return type(context.n_ctx) in (type(None), int) and all(
        type(getattr(context, name)) is kind for name, kind in kinds.items() if name != "n_ctx"
    )


def _parsed(text: str) -> Wish | None:
    try:
        return Wish.from_json(text)
    except (ValueError, TypeError, KeyError, InvalidValue):
        return None
