"""The second half of a job: read the input again and write it with scores and ranks. Scores nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

from qwen_rerank_plugins.batch.journal import Journal, RankedPair
from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.progress import ProgressMeter
from qwen_rerank_plugins.batch.protocols import OutputRow, Source, Writer
from qwen_rerank_plugins.batch.rows import Chunk, Row
from qwen_rerank_plugins.batch.writers import RejectedWriter

__all__ = ["OutputSummary", "write_rows"]


@dataclass(slots=True)
class OutputSummary:
    """What was written.

    Attributes:
        num_rows: Rows of the input that were read.
        num_written: Rows of the output.
        num_rejected: Rows of the file of rejected rows.
        stopped: Whether `stop` ended the writing early.
    """

    num_rows: int = 0
    num_written: int = 0
    num_rejected: int = 0
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
) -> OutputSummary:
    """Write every row with its scores and ranks from the journal, in the order of the input."""
    ranked = _PairsByRow(journal.ranks())
    columns = _AddedColumns(source, options)
    summary = OutputSummary()
    num_pairs = journal.num_scored()
    for chunk in source.chunks(for_scoring=False):
        if stop():
            summary.stopped = True
            return summary
        reasons = journal.rejected(chunk.rows[0].number, chunk.rows[-1].number)
        for position, row in enumerate(chunk.rows):
            if row.number in reasons:
                rejected.write(chunk, position, reasons[row.number])
        rows = list(_output_rows(chunk, reasons, ranked, columns))
        writer.write(chunk, rows)
        summary.num_rows += len(chunk.rows)
        summary.num_written += len(rows)
        summary.num_rejected += len(reasons)
        meter.report(
            chunk.fraction,
            done_now=chunk.fraction,
            num_rows=summary.num_rows,
            num_pairs=num_pairs,
            num_rejected=summary.num_rejected,
        )
    return summary


def _output_rows(
    chunk: Chunk, reasons: dict[int, str], ranked: _PairsByRow, columns: _AddedColumns
) -> Iterator[OutputRow]:
    for position, row in enumerate(chunk.rows):
        if row.number not in reasons:
            for added in columns.of_row(row, ranked.take(row.number)):
                yield OutputRow(position, added)


class _PairsByRow:
    """The pairs of each row, from a stream in row order."""

    def __init__(self, pairs: Iterator[RankedPair]) -> None:
        self._groups = groupby(pairs, key=attrgetter("row"))
        self._row = -1
        self._pairs: list[RankedPair] = []

    def take(self, row: int) -> list[RankedPair]:
        while self._row < row:
            found = next(self._groups, None)
            self._row, self._pairs = (1 << 62, []) if found is None else (found[0], list(found[1]))
        return self._pairs if self._row == row else []


class _AddedColumns:
    """The columns that the output adds, by the form of the rows."""

    def __init__(self, source: Source, options: BatchOptions) -> None:
        self._options = options
        self._form = source.layout.form

    def of_row(self, row: Row, pairs: Sequence[RankedPair]) -> list[dict[str, Any]]:
        """Return the added columns of each output row: at most one per pair, one per list, or one per document."""
        if self._form == "pairs":
            return [self._scores(pair) for pair in pairs]
        best_first = sorted(pairs, key=attrgetter("rank"))
        index, document = self._options.index_column, self._options.document_column
        if self._options.explode:
            return [
                {index: pair.position, document: row.documents[pair.position], **self._scores(pair)}
                for pair in best_first
            ]
        results = [{index: pair.position, **self._scores(pair)} for pair in best_first]
        return [{self._options.results_column: results}]

    def _scores(self, pair: RankedPair) -> dict[str, Any]:
        scores: dict[str, Any] = {
            self._options.score_column: pair.relevance_score,
            self._options.rank_column: pair.rank,
        }
        if self._options.details:
            scores["log_odds"] = pair.log_odds
            scores["truncated"] = bool(pair.flags & 1)
            scores["query_truncated"] = bool(pair.flags & 2)
            scores["blank"] = bool(pair.flags & 4)
            scores["warnings"] = json.loads(pair.warnings or "[]")
        if self._options.spans is not None:
            scores["spans"] = json.loads(pair.spans or "[]")
        return scores
