"""Verdicts kept on disk: one SQLite file, for several threads and processes at a time. Text only, no pickle.

Only replies that were believed are kept, as the judge wrote them, and they are parsed again when they are read: the
file is no more trusted than a server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pns.errors import UserError

SCHEMA = 1
WAIT_SECONDS = 10.0
_CHUNK = 500


def key_of(parts: Any) -> str:
    """sha256, hexadecimal, of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class VerdictCache:
    """Key -> the judge's reply. One connection behind a lock; every `put` is a transaction of its own.

    Raises UserError where the file cannot be opened, or is something else.
    """

    def __init__(self, path: Path, field: str = "reward.judge_server.cache") -> None:
        self.path, self._field = path, field
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=WAIT_SECONDS, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"cannot be opened ({error})", file=path, field=self._field, remedy="name another file"
            ) from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise UserError(
                f"no verdict cache ({error})",
                file=path,
                field=self._field,
                remedy="name another file, or move this one away",
            ) from None
        except UserError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA):
                raise UserError(
                    f"a verdict cache of version {version}, and this pns reads {SCHEMA}", file=self.path, field=self._field,
                    remedy="name another file",
                )  # fmt: skip
            connection.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, reply TEXT NOT NULL, model TEXT NOT NULL, "
                "made TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
            )
            connection.execute(f"PRAGMA user_version = {SCHEMA}")

    def get(self, keys: Iterable[str]) -> dict[str, str]:
        """The replies that are there. Raises sqlite3.Error."""
        wanted, found = list(keys), {}
        with self._lock:
            for i in range(0, len(wanted), _CHUNK):
                part = wanted[i : i + _CHUNK]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(f"SELECT key, reply FROM verdicts WHERE key IN ({marks})", part)
                found.update({key: reply for key, reply in rows if isinstance(reply, str)})
        return found

    def put(self, key: str, reply: str, model: str) -> None:
        """Keep one reply; it is on disk when this returns. Raises sqlite3.Error."""
        with self._lock, self._connection as connection:
            connection.execute(
                "INSERT OR REPLACE INTO verdicts (key, reply, model) VALUES (?, ?, ?)", (key, reply, model)
            )

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class Kept:
    """A cache whose failures cost no more than it would have saved: they are counted, and the first one is logged.

    Args:
        path: None keeps nothing.
        failed: told of each failure.
    Raises UserError, see `VerdictCache`.
    """

    def __init__(self, path: Path | None, field: str, log: logging.Logger, failed: Callable[[], None]) -> None:
        self._cache = None if path is None else VerdictCache(path, field)
        self._log, self._failed, self._warned = log, failed, False

    async def get(self, keys: list[str]) -> dict[str, str]:
        """The replies that are there and can be read."""
        if self._cache is None:
            return {}
        try:
            return await asyncio.to_thread(self._cache.get, keys)
        except sqlite3.Error as error:
            self._tell("read", error)
            return {}

    async def put(self, key: str, reply: str, model: str) -> None:
        """Keep one reply, if it can be."""
        if self._cache is None:
            return
        try:
            await asyncio.to_thread(self._cache.put, key, reply, model)
        except sqlite3.Error as error:
            self._tell("written", error)

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    def _tell(self, what: str, error: sqlite3.Error) -> None:
        if not self._warned and self._cache is not None:
            self._log.warning("the verdict cache %s cannot be %s: %s", self._cache.path, what, error)
        self._warned = True
        self._failed()
