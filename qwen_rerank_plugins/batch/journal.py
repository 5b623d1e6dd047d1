"""The scores of an unfinished job, in a SQLite file beside the output.

A transaction holds the scores of one call. After a kill a call is recorded as a whole or not at all; after a power
failure some of the last calls may be missing and are repeated.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from qwen_rerank_plugins.errors import InputError, RerankError

__all__ = ["Journal", "RankedPair", "ScoredPair", "remove_journal"]

APPLICATION_ID = 0x51526A32

_TABLES = """
CREATE TABLE IF NOT EXISTS job (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scores (row INTEGER, position INTEGER, list, relevance_score REAL, log_odds REAL,
                                   flags INTEGER, warnings TEXT, spans TEXT, PRIMARY KEY (row, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejected (row INTEGER PRIMARY KEY, line INTEGER, reason TEXT);
"""
# Ranks each list, best first; blank documents are last, and ties keep the order of the file. SQLite sorts in a
# temporary file.
_RANKS = """
CREATE TABLE ranks AS
SELECT row, position, rank, relevance_score, log_odds, flags, warnings, spans FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY list ORDER BY flags & 4, {key} DESC, row, position) AS rank FROM scores
    WHERE row NOT IN (SELECT row FROM rejected)
) WHERE rank <= :top_n AND relevance_score >= :min_score ORDER BY row, position
"""


class ScoredPair(NamedTuple):
    """A pair and its score.

    Attributes:
        row: Index of its row, from 0.
        position: Index in the row's list of documents; 0 in a row of one pair.
        list_key: Equal for pairs that are ranked together.
        relevance_score: Probability in [0, 1].
        log_odds: Logit of the probability, or None.
        flags: Sum of 1 if the document was truncated, 2 if the query was, and 4 if the document was blank and not sent.
        warnings: What was wrong with the texts, as a JSON list; None for nothing.
        spans: The relevant spans, as a JSON list; None for none.
    """

    row: int
    position: int
    list_key: bytes | int
    relevance_score: float
    log_odds: float | None
    flags: int
    warnings: str | None = None
    spans: str | None = None


class RankedPair(NamedTuple):
    """A pair of the output, with its rank from 1; the other fields are those of `ScoredPair`."""

    row: int
    position: int
    rank: int
    relevance_score: float
    log_odds: float | None
    flags: int
    warnings: str | None
    spans: str | None


class Journal:
    """The journal of one job, locked while it is open.

    Args:
        path: The file; created if it does not exist.

    Raises:
        InputError: Another process holds the journal, or the file is not a journal.
        RerankError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=0.2, isolation_level=None)
        except sqlite3.Error as error:
            raise RerankError(f"journal cannot be written: {str(path)!r}: {error}") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise self._to_error(error) from error

    def _prepare(self) -> None:
        db = self._db
        # Exclusive before the first read: WAL then needs no shared memory, which network file systems lack.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        (found,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if found != APPLICATION_ID and tables:
            raise sqlite3.DatabaseError("it belongs to another program")
        for statement in filter(str.strip, _TABLES.split(";")):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("COMMIT")

    def _to_error(self, error: sqlite3.Error) -> RerankError:
        name = str(self.path)
        text = str(error)
        if "locked" in text or "busy" in text:
            return InputError(f"another process is running this job: {name!r} is locked; wait for it to end")
        if "full" in text or "I/O" in text:
            return RerankError(f"journal cannot be written: {name!r}: {text}; the scores in it are kept")
        if isinstance(error, sqlite3.OperationalError):
            return RerankError(f"journal cannot be used: {name!r}: {text}")
        return InputError(f"file is not a journal of a batch job: {name!r}: {text}; move it away")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._to_error(error) from error

    def metadata(self, name: str) -> Any:
        """Return the value stored under a name, or None."""
        found = self._db.execute("SELECT value FROM job WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def set_metadata(self, name: str, value: Any) -> None:
        """Store a value of plain JSON types under a name."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO job VALUES (?, ?)", (name, json.dumps(value)))

    def add_scores(self, pairs: Iterable[ScoredPair]) -> None:
        """Store the scores of one call in one transaction."""
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?)", pairs)

    def clear_rejected(self) -> None:
        """Forget the rejected rows: other settings may accept them."""
        with self._transaction() as db:
            db.execute("DELETE FROM rejected")

    def add_rejected(self, rows: Sequence[tuple[int, int, str]]) -> None:
        """Store the number, line and reason of rejected rows."""
        if rows:
            with self._transaction() as db:
                db.executemany("INSERT OR REPLACE INTO rejected VALUES (?, ?, ?)", rows)

    def scored(self, first: int, last: int) -> set[tuple[int, int]]:
        """Return row and position of the scored pairs of the rows `first` to `last`."""
        query = "SELECT row, position FROM scores WHERE row BETWEEN ? AND ?"
        return set(self._db.execute(query, (first, last)))

    def num_scored(self) -> int:
        """Return the number of scored pairs."""
        (count,) = self._db.execute("SELECT COUNT(*) FROM scores").fetchone()
        return int(count)

    def num_warned(self) -> int:
        """Return the number of rows with a warning."""
        (count,) = self._db.execute(
            "SELECT COUNT(DISTINCT row) FROM scores WHERE warnings NOT NULL"
        ).fetchone()
        return int(count)

    def num_rejected(self) -> int:
        """Return the number of rejected rows."""
        (count,) = self._db.execute("SELECT COUNT(*) FROM rejected").fetchone()
        return int(count)

    def rejected(self, first: int, last: int) -> dict[int, str]:
        """Return number → reason of the rejected rows from `first` to `last`."""
        query = "SELECT row, reason FROM rejected WHERE row BETWEEN ? AND ?"
        return dict(self._db.execute(query, (first, last)).fetchall())

    def compute_ranks(self, *, top_n: int | None, min_score: float | None) -> None:
        """Rank every list over the whole file and drop pairs below `min_score` or behind `top_n`.

        Pairs are sorted by log-odds if every score has them, since probabilities saturate at 0 and 1; blank documents
        that were not sent have none.
        """
        gap = self._db.execute(
            "SELECT 1 FROM scores WHERE log_odds IS NULL AND NOT flags & 4 LIMIT 1"
        ).fetchone()
        key = "log_odds" if gap is None else "relevance_score"
        bounds = {"top_n": (1 << 62) if top_n is None else top_n, "min_score": min_score or 0.0}
        with self._transaction() as db:
            db.execute("DROP TABLE IF EXISTS ranks")
            db.execute(_RANKS.format(key=key), bounds)

    def ranks(self) -> Iterator[RankedPair]:
        """Iterate over the pairs that `compute_ranks` kept, in file order."""
        return map(RankedPair._make, self._db.execute("SELECT * FROM ranks ORDER BY rowid"))

    def close(self) -> None:
        """Close the file and release the lock."""
        self._db.close()

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        remove_journal(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_journal(path: Path) -> None:
    """Delete a closed journal and the files that SQLite may have left beside it."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
