"""The first half of a job: score every pair of the input into the journal. Writes no output.

The calling thread reads ahead while other threads wait for the scorer. Several calls are in flight, so that the scorer
never idles.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field

from qwen_rerank_plugins.batch.journal import Journal, ScoredPair
from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.progress import ProgressMeter
from qwen_rerank_plugins.batch.protocols import Source
from qwen_rerank_plugins.batch.rows import Chunk, Row
from qwen_rerank_plugins.errors import InputError, RerankError
from qwen_rerank_plugins.recipe import REPAIRED_TEXT
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.types import PairScore, Priority, RerankResult

__all__ = ["ScoringPass"]

CALL_CHARS = 256_000
POLL_S = 0.1
LOCAL_CONCURRENCY = 2
UNCALIBRATED = "the calibration has no fit for the instruction; relevance_score is not calibrated"
"""A warning of a row, if a calibration is configured."""

Pair = tuple[Row, int, str]
Scored = tuple[PairScore, str | None]
"""A pair's score, and its document's spans as a JSON list."""


@dataclass(slots=True)
class _Call:
    """Pairs of one instruction that are scored together.

    Attributes:
        instruction: The instruction of the rows; None for the job's.
        groups: Each query with its pairs: row, index in its list, text.
        share: Fraction of the file per pair.
        rows_share: Rows per pair.
        num_pairs: Number of pairs.
        num_chars: Characters of the documents.
    """

    instruction: str | None
    groups: list[tuple[str, list[Pair]]] = field(default_factory=list)
    share: float = 0.0
    rows_share: float = 0.0
    num_pairs: int = 0
    num_chars: int = 0

    def add(self, query: str, pair: Pair) -> None:
        if not self.groups or self.groups[-1][0] != query:
            self.groups.append((query, []))
        self.groups[-1][1].append(pair)
        self.num_pairs += 1
        self.num_chars += len(pair[2])


class ScoringPass:
    """Scores the pairs that the journal does not contain yet.

    Args:
        source: The input.
        journal: Stores the scores and the rejected rows.
        reranker: Scores the pairs.
        options: The options of the job; with spans, `top_n` and `min_score` say of which documents.
        meter: Reports the progress.
        stop: Called between calls; scoring stops when it returns True.

    Attributes:
        num_resumed_pairs: Pairs that an earlier run had scored.
        num_rows: Rows that were read.
        stopped: Whether `stop` ended the pass early.
    """

    def __init__(
        self,
        source: Source,
        journal: Journal,
        reranker: Reranker,
        options: BatchOptions,
        *,
        meter: ProgressMeter,
        stop: Callable[[], bool],
    ) -> None:
        self._source = source
        self._journal = journal
        self._reranker = reranker
        self._options = options
        self._meter = meter
        self._stop = stop
        remote = reranker.config.backend == "remote"
        self._concurrency = options.concurrency or (
            reranker.config.max_concurrency if remote else LOCAL_CONCURRENCY
        )
        self._priority: Priority = options.priority or ("background" if remote else "interactive")
        self._spans = options.span_options()
        self._pending: dict[Future[list[Scored]], _Call] = {}
        self.num_resumed_pairs = journal.num_scored()
        self.num_rows = 0
        self.stopped = False
        self._num_rejected = 0
        self._rows_done = 0.0
        self._fraction = 0.0
        self._done_now = 0.0

    @property
    def num_rows_done(self) -> int:
        """Number of finished rows, estimated from the pairs."""
        return round(self._rows_done)

    def run(self) -> None:
        """Score to the end, or until `stop` returns True. Calls in flight are awaited and recorded, even after an error.

        Raises:
            InputError: The input cannot be read, or a row cannot be ranked and `on_bad_row` is "stop".
            RerankError: Scoring failed, or the journal cannot be written.
        """
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="qwen-rerank-batch") as executor:
            self._meter.start_clock()
            self._journal.clear_rejected()
            try:
                self._submit_all(executor)
                self._drain()
            except BaseException:
                self._record_pending()
                raise
        self._report(force=True)

    def _submit_all(self, executor: ThreadPoolExecutor) -> None:
        start = 0.0
        for chunk in self._source.chunks(for_scoring=True):
            for call in self._calls(chunk, chunk.fraction - start):
                while len(self._pending) >= 2 * self._concurrency and not self._stop():
                    self._collect()
                if self._stop():
                    self.stopped = True
                    self._cancel()
                    return
                self._pending[executor.submit(self._score, call)] = call
            start = chunk.fraction
            self._report()

    # From rows to calls.

    def _calls(self, chunk: Chunk, span: float) -> Iterator[_Call]:
        self._reject([(row, row.problem) for row in chunk.rows if row.problem is not None])
        groups, num_all = self._groups(chunk)
        num_open = sum(map(len, groups.values()))
        self.num_rows += len(chunk.rows)
        share = span / num_all if num_all else 0.0
        rows_share = len(chunk.rows) / num_all if num_all else 0.0
        # Rows without open pairs are finished: rejected ones, and those that an earlier run scored.
        self._advance(span - share * num_open, len(chunk.rows) - rows_share * num_open, done_now=0.0)
        call: _Call | None = None
        for (instruction, query), pairs in sorted(groups.items(), key=lambda item: item[0][0] or ""):
            for pair in pairs:
                if call is None or call.instruction != instruction or self._is_full(call):
                    if call is not None:
                        yield call
                    call = _Call(instruction, share=share, rows_share=rows_share)
                call.add(query, pair)
        if call is not None:
            yield call

    def _groups(self, chunk: Chunk) -> tuple[dict[tuple[str | None, str], list[Pair]], int]:
        """Return the pairs without a score, by instruction and query, and the number of all pairs of the chunk."""
        scored: set[tuple[int, int]] = set()
        if self.num_resumed_pairs and chunk.rows:
            scored = self._journal.scored(chunk.rows[0].number, chunk.rows[-1].number)
        groups: dict[tuple[str | None, str], list[Pair]] = {}
        num_all = 0
        for row in chunk.rows:
            if row.problem is not None:
                continue
            num_all += len(row.texts)
            pairs = [
                (row, position, text)
                for position, text in enumerate(row.texts)
                if (row.number, position) not in scored
            ]
            if pairs:
                groups.setdefault((row.instruction, row.query), []).extend(pairs)
        return groups, num_all

    def _is_full(self, call: _Call) -> bool:
        return call.num_pairs >= self._options.call_pairs or call.num_chars >= CALL_CHARS

    def _reject(self, rows: Sequence[tuple[Row, str | None]]) -> None:
        if rows and self._options.on_bad_row == "stop":
            row, problem = rows[0]
            hint = "correct the row, or skip such rows with --on-bad-row reject"
            raise InputError(f"line {row.line} (row {row.number + 1}): {problem}; {hint}")
        self._num_rejected += len(rows)
        self._journal.add_rejected([(row.number, row.line, problem or "") for row, problem in rows])

    # From calls to scores. Only this method runs in other threads.

    def _score(self, call: _Call) -> list[Scored]:
        instruction = self._options.instruction if call.instruction is None else call.instruction
        results = self._reranker.rank_many(
            [query for query, _ in call.groups],
            [[text for _, _, text in pairs] for _, pairs in call.groups],
            # Ranks are computed later, over the whole file. A call ranks a part of a list, so that spans are scored of every
            # document that is kept, and of few others.
            top_n=1 if self._spans is None else self._options.top_n,
            min_score=None if self._spans is None else self._options.min_score,
            instruction=instruction,
            priority=self._priority,
            spans=self._spans,
        )
        for result in results:
            if result.status != "ranked":
                raise RerankError(f"scoring returned no scores: status {result.status!r}: {result.error}")
        return [scored for result in results for scored in _with_spans(result)]

    # From scores to the journal.

    def _collect(self) -> None:
        done, _ = wait(self._pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            self._record(self._pending.pop(future), future)
        self._report()

    def _drain(self) -> None:
        while self._pending:
            self._collect()

    def _cancel(self) -> None:
        for future in list(self._pending):
            if future.cancel():
                del self._pending[future]

    def _record_pending(self) -> None:
        """After an error, cancel what has not started and record what succeeds; the first error is raised."""
        self._cancel()
        while self._pending:
            future, call = self._pending.popitem()
            if future.exception() is None:
                self._record(call, future)

    def _record(self, call: _Call, future: Future[list[Scored]]) -> None:
        pairs = [pair for _, group in call.groups for pair in group]
        try:
            scores = future.result()
        except InputError as error:
            if call.instruction is None or self._options.on_bad_row == "stop":
                raise
            # The scorer refuses the instruction, which these rows share and other rows do not.
            rows = {row.number: row for row, _, _ in pairs}
            self._reject([(row, str(error)) for row in rows.values()])
        else:
            self._journal.add_scores(self._scored(call, pairs, scores))
            self._meter.num_new_pairs += len(pairs)
        self._advance(call.share * len(pairs), call.rows_share * len(pairs), done_now=call.share * len(pairs))

    def _scored(self, call: _Call, pairs: Sequence[Pair], scores: Sequence[Scored]) -> Iterator[ScoredPair]:
        by_query = self._source.layout.form == "pairs"
        keys = {query: _list_key(call.instruction, query) for query, _ in call.groups} if by_query else {}
        for (row, position, text), (score, spans) in zip(pairs, scores, strict=True):
            key = keys[row.query] if by_query else row.number
            flags = score.truncated | score.query_truncated << 1 | score.blank << 2
            is_repaired = row.is_repaired and "\ufffd" in f"{row.query}{text}{row.instruction}"
            warnings = [*score.warnings, *([REPAIRED_TEXT] if is_repaired else [])]
            warnings += [UNCALIBRATED] if score.calibrated is False else []
            kept = json.dumps(warnings) if warnings else None
            yield ScoredPair(
                row.number, position, key, score.relevance_score, score.log_odds, flags, kept, spans
            )

    def _advance(self, fraction: float, rows: float, *, done_now: float) -> None:
        self._fraction += fraction
        self._rows_done += rows
        self._done_now += done_now

    def _report(self, *, force: bool = False) -> None:
        self._meter.report(
            min(1.0, self._fraction),
            done_now=self._done_now,
            num_rows=self.num_rows_done,
            num_pairs=self.num_resumed_pairs + self._meter.num_new_pairs,
            num_rejected=self._num_rejected,
            force=force,
        )


def _with_spans(result: RerankResult) -> Iterator[Scored]:
    """Yield the scores of a list in its order, each with the spans of its document, if it has any."""
    spans = {
        one.index: json.dumps(
            [{**asdict(span), "text": str(one.document)[span.start : span.end]} for span in one.spans]
        )
        for one in result.results
        if one.spans
    }
    for index, score in enumerate(result.scores):
        yield score, spans.get(index)


def _list_key(instruction: str | None, query: str) -> bytes:
    """Return a key that is equal for pairs of one query and one instruction, which are ranked together."""
    first = (instruction or "").encode()
    digest = hashlib.blake2b(len(first).to_bytes(8, "little"), digest_size=16)
    digest.update(first)
    digest.update(query.encode())
    return digest.digest()
