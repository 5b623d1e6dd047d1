"""A bounded key-value table in an SQLite file, shared by threads and processes.

It knows no scores: keys and values are bytes. One connection per process, used under a lock; it is closed
before a fork and reopened on both sides, because SQLite's locks belong to a process. No operation raises for
a problem of the file: one that finds it busy is skipped; any other failure is logged once and disables the
cache, and the file stays as it is.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

__all__ = ["DiskCache"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_APPLICATION_ID = 0x51525363  # "QRSc"; a file with another id is foreign
_SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 0.5  # a cache is not worth a longer wait
_KEYS_PER_STATEMENT = 500  # SQLite's oldest limit is 999
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

# Triggers maintain the number of rows: counting them would read the whole table.
_SCHEMA = f"""
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL)
        WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS entries_by_use ON entries (used);
    CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY CHECK (id = 0), num_entries INTEGER NOT NULL);
    INSERT OR IGNORE INTO total VALUES (0, 0);
    CREATE TRIGGER IF NOT EXISTS entry_added AFTER INSERT ON entries
        BEGIN UPDATE total SET num_entries = num_entries + 1; END;
    CREATE TRIGGER IF NOT EXISTS entry_deleted AFTER DELETE ON entries
        BEGIN UPDATE total SET num_entries = num_entries - 1; END;
    PRAGMA application_id = {_APPLICATION_ID};
    PRAGMA user_version = {_SCHEMA_VERSION};
    COMMIT;
"""  # noqa: S608 - constants of this module
_UPSERT = """
    INSERT INTO entries VALUES (?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, used = excluded.used
"""
_EVICT = """
    DELETE FROM entries WHERE key IN (
        SELECT key FROM entries ORDER BY used
        LIMIT max(0, (SELECT num_entries FROM total) - ?))
"""
_SIZE = "SELECT num_entries, page_count * page_size FROM total, pragma_page_count, pragma_page_size"


class DiskCache:
    """Keys and values in a file; the least recently used rows are evicted first.

    Args:
        path: The file; missing parent folders are created. It is opened on first use.
        max_entries: Maximum number of rows.

    Attributes:
        is_usable: False once the file failed or the cache was closed.
    """

    def __init__(self, path: Path, *, max_entries: int) -> None:
        self._connection: sqlite3.Connection | None = None
        self.is_usable = True
        self._path = path
        self._max_entries = max_entries
        self._lock = threading.RLock()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of the keys that are stored."""
        empty: dict[bytes, bytes] = {}
        rows = self._execute(lambda connection: _select(connection, keys), empty)
        if rows:  # separate, so that reads succeed while another process writes
            used = time.time_ns()
            self._execute(lambda connection: _touch(connection, [(used, key) for key in rows]), None)
        return rows

    def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Store values, and evict the least recently used rows above the limit."""
        self._execute(lambda connection: self._insert(connection, items), None)

    def clear(self) -> None:
        """Delete all rows, those of other processes included."""
        self._execute(_delete_all, None)

    def size(self) -> tuple[int, int]:
        """Return the rows, and the bytes of the file and its write-ahead log; 0 and 0 if it is unusable."""
        return self._execute(self._measure, (0, 0))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self.is_usable = False
            self._disconnect()

    def __del__(self) -> None:
        self._disconnect()

    def before_fork(self) -> None:
        """Block operations and close the file while the process forks."""
        self._lock.acquire()
        self._disconnect()

    def after_fork_in_parent(self) -> None:
        """Allow operations again; the next one reopens the file."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Replace the lock, which the parent's threads cannot release here."""
        self._lock = threading.RLock()

    def _execute(self, operation: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Run one operation and return its result, or `default` if the file is busy or unusable."""
        with self._lock:
            if not self.is_usable:
                return default
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return operation(self._connection)
            except (sqlite3.Error, OSError, ValueError) as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _BUSY:
                    self._disable(error)
                return default

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit: transactions are explicit. The lock protects the connection, not the thread.
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _disable(self, error: Exception) -> None:
        self.is_usable = False
        self._disconnect()
        logger.warning("score cache %s is unusable, scores are cached in memory only: %s", self._path, error)

    def _insert(self, connection: sqlite3.Connection, items: Sequence[tuple[bytes, bytes]]) -> None:
        used = time.time_ns()
        with _Transaction(connection):
            connection.executemany(_UPSERT, [(key, value, used) for key, value in items])
            connection.execute(_EVICT, (self._max_entries,))

    def _measure(self, connection: sqlite3.Connection) -> tuple[int, int]:
        num_entries, num_bytes = connection.execute(_SIZE).fetchone()
        log = self._path.with_name(self._path.name + "-wal")
        with suppress(OSError):
            num_bytes += log.stat().st_size
        return num_entries, num_bytes


class _Transaction:
    """A transaction that takes the write lock at the start, so that no read has to be upgraded."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._connection.in_transaction:  # SQLite ends it when the disk is full
            self._connection.execute("COMMIT" if kind is None else "ROLLBACK")


def _prepare(connection: sqlite3.Connection) -> None:
    """Create the tables in a new file; reject a foreign one."""
    connection.execute("BEGIN")  # one snapshot, since another process may be creating the tables
    num_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute("COMMIT")
    if num_tables and (application, version) != (_APPLICATION_ID, _SCHEMA_VERSION):
        raise ValueError(f"the file is not a score cache of version {_SCHEMA_VERSION}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # losing the last second is harmless here
    if not num_tables:
        connection.executescript(_SCHEMA)


def _select(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        chunk = keys[start : start + _KEYS_PER_STATEMENT]
        marks = ", ".join("?" * len(chunk))
        rows.update(connection.execute(f"SELECT key, value FROM entries WHERE key IN ({marks})", chunk))  # noqa: S608 - marks only
    return rows


def _touch(connection: sqlite3.Connection, uses: Sequence[tuple[int, bytes]]) -> None:
    with _Transaction(connection):
        connection.executemany("UPDATE entries SET used = ? WHERE key = ?", uses)


def _delete_all(connection: sqlite3.Connection) -> None:
    with _Transaction(connection):
        connection.execute("DELETE FROM entries")
