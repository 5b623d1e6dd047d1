"""A bounded table of small values in an SQLite file, shared by threads and processes.

It knows no scores: keys and values are bytes. One connection a process, used under a lock; it is closed before a
fork and opened again on both sides, because SQLite's locks belong to a process. Nothing here raises for what happens
to the file: an operation that finds it busy is passed over; any other failure is logged once, and then the file is
left alone, as it is.
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

_APPLICATION_ID = 0x51525363  # "QRSc": a file with another one is somebody else's
_SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 0.5  # a cache is not worth waiting for
_CHUNK = 500  # keys a statement; SQLite's oldest limit is 999
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

# The number of rows is kept by triggers: counting them would read the whole table.
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
_PUT = """
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
    """Key to value, the least recently used rows forgotten first.

    Args:
        path: The file; folders above it are made. It is opened when it is first used.
        max_entries: How many rows it may have.

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
        """The values of those keys that are there."""
        nothing: dict[bytes, bytes] = {}
        rows = self._use(lambda connection: _select(connection, keys), nothing)
        if rows:  # a separate step: if another process is writing, reading has still worked
            used = time.time_ns()
            self._use(lambda connection: _touch(connection, [(used, key) for key in rows]), None)
        return rows

    def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Store values, and forget the oldest rows above the limit."""
        self._use(lambda connection: self._insert(connection, items), None)

    def clear(self) -> None:
        """Forget all rows; other processes' too."""
        self._use(_delete_all, None)

    def size(self) -> tuple[int, int]:
        """Rows, and bytes of the file and its write-ahead log; 0 and 0 if it cannot be used."""
        return self._use(self._measure, (0, 0))

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self.is_usable = False
            self._disconnect()

    def __del__(self) -> None:
        self._disconnect()

    def before_fork(self) -> None:
        """Let no operation run and no file be open while the process forks."""
        self._lock.acquire()
        self._disconnect()

    def after_fork_in_parent(self) -> None:
        """Go on; the next operation opens the file again."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew; the parent's threads cannot release the lock here."""
        self._lock = threading.RLock()

    def _use(self, operation: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Run one operation; its result, or `otherwise` if the file is busy or unusable."""
        with self._lock:
            if not self.is_usable:
                return otherwise
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return operation(self._connection)
            except (sqlite3.Error, OSError, ValueError) as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _BUSY:
                    self._abandon(error)
                return otherwise

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit: transactions are written out. The lock, not the thread, protects the connection.
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

    def _abandon(self, error: Exception) -> None:
        self.is_usable = False
        self._disconnect()
        logger.warning(
            "The score cache %s cannot be used, scores are kept in memory only: %s", self._path, error
        )

    def _insert(self, connection: sqlite3.Connection, items: Sequence[tuple[bytes, bytes]]) -> None:
        used = time.time_ns()
        with _Transaction(connection):
            connection.executemany(_PUT, [(key, value, used) for key, value in items])
            connection.execute(_EVICT, (self._max_entries,))

    def _measure(self, connection: sqlite3.Connection) -> tuple[int, int]:
        num_entries, num_bytes = connection.execute(_SIZE).fetchone()
        log = self._path.with_name(self._path.name + "-wal")
        with suppress(OSError):
            num_bytes += log.stat().st_size
        return num_entries, num_bytes


class _Transaction:
    """All or nothing, with the write lock taken at the start, so that no read has to be upgraded."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._connection.in_transaction:  # SQLite ends it by itself when the disk is full
            self._connection.execute("COMMIT" if kind is None else "ROLLBACK")


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables in a new file; refuse one that is not ours."""
    connection.execute("BEGIN")  # one view of the three, while another process may be making the tables
    num_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute("COMMIT")
    if num_tables and (application, version) != (_APPLICATION_ID, _SCHEMA_VERSION):
        raise ValueError(f"the file is not a score cache of version {_SCHEMA_VERSION}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # a lost last second is harmless here
    if not num_tables:
        connection.executescript(_SCHEMA)


def _select(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    for start in range(0, len(keys), _CHUNK):
        chunk = keys[start : start + _CHUNK]
        marks = ", ".join("?" * len(chunk))
        rows.update(connection.execute(f"SELECT key, value FROM entries WHERE key IN ({marks})", chunk))  # noqa: S608 - marks only
    return rows


def _touch(connection: sqlite3.Connection, uses: Sequence[tuple[int, bytes]]) -> None:
    with _Transaction(connection):
        connection.executemany("UPDATE entries SET used = ? WHERE key = ?", uses)


def _delete_all(connection: sqlite3.Connection) -> None:
    with _Transaction(connection):
        connection.execute("DELETE FROM entries")
