"""What a job has done so far: scores by row, in a SQLite file beside the output. Knows no file format and no scorer.

A transaction holds the scores of one call. After a kill every row has all or nothing; after a power cut some of the
last calls may be missing, and are made again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from qwen_rerank_plugins.errors import InputError, RerankError

__all__ = ["Journal", "RankedPair", "ScoredPair", "remove_journal"]

APPLICATION_ID = 0x51526A31
FULL = "the disk or the file system's limit is full"

_TABLES = """
CREATE TABLE IF NOT EXISTS job (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scores (row INTEGER, position INTEGER, list, relevance_score REAL, log_odds REAL,
                                   flags INTEGER, PRIMARY KEY (row, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejected (row INTEGER PRIMARY KEY, line INTEGER, reason TEXT);
"""
# Of each list: best first, ties in the order of the file. A sort of SQLite's spills to a temporary file.
_RANKS = """
CREATE TABLE ranks AS
SELECT row, position, rank, relevance_score, log_odds, flags FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY list ORDER BY {key} DESC, row, position) AS rank FROM scores
    WHERE row NOT IN (SELECT row FROM rejected)
) WHERE rank <= :top_n AND relevance_score >= :min_score ORDER BY row, position
"""


class ScoredPair(NamedTuple):
    """A pair and its score.

    Attributes:
        row: Its row's number, from 0.
        position: Its place in the row's list; 0 in a row of one pair.
        list_key: Equal for the pairs that are ranked together.
        relevance_score: Probability in [0, 1].
        log_odds: Its logit, or None.
        flags: 1 if the document was cut, 2 if the query was.
    """

    row: int
    position: int
    list_key: bytes | int
    relevance_score: float
    log_odds: float | None
    flags: int


class RankedPair(NamedTuple):
    """A pair that is kept, with its rank from 1."""

    row: int
    position: int
    rank: int
    relevance_score: float
    log_odds: float | None
    flags: int


class Journal:
    """The file of one job; whoever has it open keeps others out.

    Args:
        path: Where it is, or will be.

    Raises:
        InputError: Another process has it, or it is no journal.
        RerankError: It cannot be written.
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
            raise self._told(error) from error

    def _prepare(self) -> None:
        db = self._db
        # Exclusive before anything is read: then WAL needs no shared memory, which network file systems lack.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        (found,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if found != APPLICATION_ID and tables:
            raise sqlite3.DatabaseError("another program's file")
        for statement in filter(str.strip, _TABLES.split(";")):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("COMMIT")

    def _told(self, error: sqlite3.Error) -> Exception:
        name = str(self.path)
        text = str(error)
        if "locked" in text or "busy" in text:
            return InputError(f"another process is at work on this job: it holds {name!r}")
        if "full" in text or "I/O" in text:
            return RerankError(f"journal cannot be written: {name!r}: {text}; what it holds is kept")
        if isinstance(error, sqlite3.OperationalError):
            return RerankError(f"journal cannot be used: {name!r}: {text}")
        return InputError(
            f"file is no journal of a batch job: {name!r}: {text}; allowed: one, or no such file"
        )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._told(error) from error

    def note(self, name: str) -> Any:
        """What was noted under a name, or None."""
        found = self._db.execute("SELECT value FROM job WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def set_notes(self, notes: Mapping[str, Any]) -> None:
        """Note plain JSON types under names."""
        with self._writing() as db:
            rows = [(name, json.dumps(value)) for name, value in notes.items()]
            db.executemany("INSERT OR REPLACE INTO job VALUES (?, ?)", rows)

    def add_scores(self, pairs: Iterable[ScoredPair]) -> None:
        """Keep the scores of one call, all of them or none."""
        with self._writing() as db:
            db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?)", pairs)

    def add_rejected(self, rows: Sequence[tuple[int, int, str]]) -> None:
        """Keep which rows cannot be ranked: number, line, reason."""
        if rows:
            with self._writing() as db:
                db.executemany("INSERT OR REPLACE INTO rejected VALUES (?, ?, ?)", rows)

    def scored(self, first: int, last: int) -> set[tuple[int, int]]:
        """Row and position of the pairs with a score, of the rows from the first to the last."""
        query = "SELECT row, position FROM scores WHERE row BETWEEN ? AND ?"
        return set(self._db.execute(query, (first, last)))

    def num_scored(self) -> int:
        """How many pairs have a score."""
        (count,) = self._db.execute("SELECT COUNT(*) FROM scores").fetchone()
        return int(count)

    def num_rejected(self) -> int:
        """How many rows cannot be ranked."""
        (count,) = self._db.execute("SELECT COUNT(*) FROM rejected").fetchone()
        return int(count)

    def rejected(self, first: int, last: int) -> dict[int, str]:
        """Number → reason of the rows that cannot be ranked, from the first to the last."""
        query = "SELECT row, reason FROM rejected WHERE row BETWEEN ? AND ?"
        return dict(self._db.execute(query, (first, last)).fetchall())

    def make_ranks(self, *, top_n: int | None, min_score: float | None) -> None:
        """Rank every list over the whole file, drop what is below the threshold, and cut.

        Log-odds are sorted where every score has them, since probabilities saturate at 0 and 1.
        """
        gap = self._db.execute("SELECT 1 FROM scores WHERE log_odds IS NULL LIMIT 1").fetchone()
        key = "log_odds" if gap is None else "relevance_score"
        bounds = {"top_n": (1 << 62) if top_n is None else top_n, "min_score": min_score or 0.0}
        with self._writing() as db:
            db.execute("DROP TABLE IF EXISTS ranks")
            db.execute(_RANKS.format(key=key), bounds)

    def ranks(self) -> Iterator[RankedPair]:
        """What `make_ranks` kept, in the order of the file."""
        return map(RankedPair._make, self._db.execute("SELECT * FROM ranks ORDER BY rowid"))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def remove(self) -> None:
        """Delete the file: the job is done."""
        self.close()
        remove_journal(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_journal(path: Path) -> None:
    """Delete a journal that nobody has open, and what SQLite may have left beside it."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
