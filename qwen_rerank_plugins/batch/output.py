"""The second half of a job: the input is read again, and goes out with scores and ranks. Scores nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

from qwen_rerank_plugins.batch.journal import Journal, RankedPair
from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.progress import ProgressMeter
from qwen_rerank_plugins.batch.rows import Chunk, Row
from qwen_rerank_plugins.batch.sources import Source
from qwen_rerank_plugins.batch.writers import OutputRow, RejectedWriter, Writer

__all__ = ["Written", "write_rows"]


@dataclass(slots=True)
class Written:
    """What was written.

    Attributes:
        num_rows: Rows of the input that were met.
        num_kept: Rows of the output.
        num_set_aside: Rows that went to the other file.
        stopped: It was not finished.
    """

    num_rows: int = 0
    num_kept: int = 0
    num_set_aside: int = 0
    stopped: bool = False


def write_rows(
    source: Source,
    journal: Journal,
    writer: Writer,
    rejected: RejectedWriter,
    options: BatchOptions,
    *,
    meter: ProgressMeter,
    stop: Callable[[], bool],
) -> Written:
    """Write every row with what the journal has for it, in the input's order."""
    ranked = _ByRow(journal.ranks())
    added = _Added(source, options)
    written = Written()
    num_pairs = journal.num_scored()
    for chunk in source.chunks(only_needed=False):
        if stop():
            written.stopped = True
            return written
        bad = journal.rejected(chunk.rows[0].number, chunk.rows[-1].number)
        for position, row in enumerate(chunk.rows):
            if row.number in bad:
                rejected.write(chunk, position, bad[row.number])
        kept = list(_kept(chunk, bad, ranked, added))
        writer.write(chunk, kept)
        written.num_rows += len(chunk.rows)
        written.num_kept += len(kept)
        written.num_set_aside += len(bad)
        meter.tell(
            chunk.fraction,
            gained=chunk.fraction,
            num_rows=written.num_rows,
            num_pairs=num_pairs,
            num_set_aside=written.num_set_aside,
        )
    return written


def _kept(chunk: Chunk, bad: dict[int, str], ranked: _ByRow, added: _Added) -> Iterator[OutputRow]:
    for position, row in enumerate(chunk.rows):
        if row.number not in bad:
            for columns in added.rows_of(row, ranked.take(row.number)):
                yield OutputRow(position, columns)


class _ByRow:
    """The pairs of one row after the other, out of a stream that is in the rows' order."""

    def __init__(self, pairs: Iterator[RankedPair]) -> None:
        self._groups = groupby(pairs, key=attrgetter("row"))
        self._row = -1
        self._pairs: list[RankedPair] = []

    def take(self, row: int) -> list[RankedPair]:
        while self._row < row:
            found = next(self._groups, None)
            self._row, self._pairs = (1 << 62, []) if found is None else (found[0], list(found[1]))
        return self._pairs if self._row == row else []


class _Added:
    """What the output has beside the input's columns, by the form of the rows."""

    def __init__(self, source: Source, options: BatchOptions) -> None:
        self._options = options
        self._form = "rows" if source.layout.form == "lists" and options.explode else source.layout.form

    def rows_of(self, row: Row, pairs: Sequence[RankedPair]) -> list[dict[str, Any]]:
        """The output's rows for one of the input: one or none for a pair, one for a list, or one a document."""
        if self._form == "pairs":
            return [self._scores(pair) for pair in pairs]
        best_first = sorted(pairs, key=attrgetter("rank"))
        index, document = self._options.index_column, self._options.document_column
        if self._form == "rows":
            return [
                {index: one.position, document: row.documents[one.position], **self._scores(one)}
                for one in best_first
            ]
        return [
            {self._options.results_column: [{index: one.position, **self._scores(one)} for one in best_first]}
        ]

    def _scores(self, pair: RankedPair) -> dict[str, Any]:
        scores: dict[str, Any] = {
            self._options.score_column: pair.relevance_score,
            self._options.rank_column: pair.rank,
        }
        if self._options.details:
            scores["log_odds"] = pair.log_odds
            scores["truncated"] = bool(pair.flags & 1)
            scores["query_truncated"] = bool(pair.flags & 2)
        return scores
