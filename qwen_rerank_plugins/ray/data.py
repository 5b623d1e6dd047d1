"""Bulk scoring on a cluster: a Ray Data pipeline in which a pool of workers scores pairs, and each query's are ranked.

    read → rows of a query together → pool of workers: scores, ranks → write

A worker that dies takes nothing with it: Ray starts another, which does its block again. Reads and writes no file; see
`files`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
from ray.data import ActorPoolStrategy, Dataset
from ray.data.expressions import monotonically_increasing_id

from qwen_rerank_plugins._backends import build_scorer
from qwen_rerank_plugins._ranking import check_scores, ranked_order
from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError, InputError
from qwen_rerank_plugins.ray.grouping import slices_of
from qwen_rerank_plugins.ray.scaling import with_reserved_threads
from qwen_rerank_plugins.types import PairScore, ScoreRequest

__all__ = ["ROW_COLUMN", "Pool", "input_columns", "number_rows", "rank_rows", "rerank_dataset"]

ROW_COLUMN = "__row"
"""The rows' places in the input while they are elsewhere; ties keep them."""

PARTITIONS_PER_WORKER = 4
CALLS_AT_A_TIME = 2  # one is tokenised while the other is computed
CALL_TOKENS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The workers of a pipeline.

    Attributes:
        num_workers: How many, each with its own copy of the model; a pair of numbers lets Ray choose between them.
        num_cpus: CPUs that each reserves; it computes with as many threads.
        num_gpus: GPUs that each reserves; without any it sees none.
        num_partitions: Parts of the work, which are also what is done again when a worker dies; None for some a worker.
    """

    num_workers: int | tuple[int, int] = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    num_partitions: int | None = None

    def strategy(self) -> ActorPoolStrategy:
        """The pool in Ray's words.

        Raises:
            ConfigurationError: The numbers of workers are none.
        """
        low, high = self._bounds()
        if not 1 <= low <= high:
            raise ConfigurationError(
                f"num_workers is not valid: {self.num_workers!r}; allowed: N, or (MIN, MAX)"
            )
        return ActorPoolStrategy(min_size=low, max_size=high)

    def parts(self) -> int:
        """How many parts the work is cut into."""
        return self.num_partitions or PARTITIONS_PER_WORKER * self._bounds()[1]

    def _bounds(self) -> tuple[int, int]:
        return (
            self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers, self.num_workers)
        )


def rerank_dataset(
    dataset: Dataset,
    *,
    config: RerankConfig,
    options: BatchOptions | None = None,
    pool: Pool | None = None,
) -> Dataset:
    """Add each pair's score, and its rank among those of its query, as `qwen-rerank batch` does.

    Args:
        dataset: A row a pair; of the rows of a query, those with the same instruction are ranked together.
        config: The reranker's settings.
        options: Names of columns, instruction, cuts; None for the section `batch` of `config`.
        pool: The workers; None for one.

    Returns:
        The rows with the new columns, in no order; nothing is computed before it is asked for.

    Raises:
        ConfigurationError: An option is wrong, or is one for lists.
        InputError: When it is computed: a row cannot be scored.
    """
    options = BatchOptions.from_config(config) if options is None else options
    known = dataset.columns(fetch_if_missing=False)
    ranked = rank_rows(number_rows(dataset), config=config, options=options, pool=pool, columns=known)
    return ranked.drop_columns([ROW_COLUMN])


def number_rows(dataset: Dataset) -> Dataset:
    """Add `ROW_COLUMN`, in the order of the input where blocks keep theirs."""
    return dataset.with_column(ROW_COLUMN, monotonically_increasing_id())


def input_columns(options: BatchOptions) -> list[str]:
    """The columns that are read."""
    return [options.query_column, options.document_column, *filter(None, [options.instruction_column])]


def rank_rows(
    numbered: Dataset,
    *,
    config: RerankConfig,
    options: BatchOptions,
    pool: Pool | None,
    columns: Sequence[str] | None,
) -> Dataset:
    """Score and rank numbered rows, which keep their numbers; `columns` are those that are known to be there."""
    pool = Pool() if pool is None else pool
    if options.form == "lists" or options.explode:
        raise ConfigurationError("form is not valid: 'lists'; allowed: 'pairs', a row a document")
    if columns is not None:
        _check_columns(columns, options)
    keys = [options.query_column, *filter(None, [options.instruction_column])]
    together = numbered.repartition(pool.parts(), keys=keys)
    return together.map_batches(  # type: ignore[no-any-return, unused-ignore]
        _Worker,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=pool.strategy(),
        fn_constructor_args=(with_reserved_threads(config, pool.num_cpus), options),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
    )


class _Worker:
    """Scores and ranks whole partitions: all rows of some queries."""

    def __init__(self, config: RerankConfig, options: BatchOptions) -> None:
        self._config = config
        self._options = options
        self._scorer = build_scorer(config)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Give the rows with their scores and ranks; those that are cut are left out."""
        ordered = rows.take(pa.array(self._order(rows), pa.int64()))
        requests = self._requests(ordered)
        scores = self._score(requests)
        ranks = self._ranks(requests, scores)
        kept = [index for index, rank in enumerate(ranks) if rank]
        columns = {self._options.score_column: pa.array([s.relevance_score for s in scores], pa.float64())}
        columns[self._options.rank_column] = pa.array(ranks, pa.int64())
        if self._options.details:
            columns["log_odds"] = pa.array([score.log_odds for score in scores], pa.float64())
            columns["truncated"] = pa.array([score.truncated for score in scores], pa.bool_())
            columns["query_truncated"] = pa.array([score.query_truncated for score in scores], pa.bool_())
        for name, column in columns.items():
            ordered = ordered.append_column(name, column)
        return ordered.take(pa.array(kept, pa.int64()))

    def _order(self, rows: pa.Table) -> list[int]:
        """The rows of a query together, in the order of the input: the core shares what they have in common."""
        query, instruction = self._options.query_column, self._options.instruction_column
        columns = [rows[name].to_pylist() for name in filter(None, [query, instruction, ROW_COLUMN])]
        keys = [(*map(str, key[:-1]), key[-1]) for key in zip(*columns, strict=True)]
        return sorted(range(len(keys)), key=keys.__getitem__)

    def _requests(self, rows: pa.Table) -> list[ScoreRequest]:
        options = self._options
        usual = self._config.instruction if options.instruction is None else options.instruction
        instructions: Sequence[Any] = [None] * len(rows)
        if options.instruction_column is not None:
            instructions = rows[options.instruction_column].to_pylist()
        pairs = zip(
            rows[options.query_column].to_pylist(),
            rows[options.document_column].to_pylist(),
            instructions,
            strict=True,
        )
        return [
            ScoreRequest(
                _text(query, options.query_column, is_query=True),
                _text(document, options.document_column),
                usual if _is_empty(own) else _text(own, str(options.instruction_column)),
            )
            for query, document, own in pairs
        ]

    def _score(self, requests: Sequence[ScoreRequest]) -> list[PairScore]:
        parts = slices_of(requests, batch_tokens=CALL_TOKENS, max_length=self._config.max_length)
        with ThreadPoolExecutor(CALLS_AT_A_TIME) as threads:
            scores = [score for found in threads.map(self._scorer.score, parts) for score in found]
        check_scores(scores, len(requests))
        return scores

    def _ranks(self, requests: Sequence[ScoreRequest], scores: Sequence[PairScore]) -> list[int]:
        """The place of each pair among those of its query, from 1; 0 for one that is cut."""
        options, config = self._options, self._config
        top_n = config.top_n if options.top_n is None else options.top_n
        min_score = config.min_score if options.min_score is None else options.min_score
        ranks = [0] * len(scores)
        for start, end in _runs(requests):
            order = ranked_order(scores[start:end], top_n=top_n, min_score=min_score)
            for rank, index in enumerate(order, start=1):
                ranks[start + index] = rank
        return ranks


def _check_columns(there: Sequence[str], options: BatchOptions) -> None:
    shown = ", ".join(repr(name) for name in there if name != ROW_COLUMN)
    for name in input_columns(options):
        if name not in there:
            raise InputError(f"there is no column {name!r}; there are {shown}")
    for name in options.added_columns("pairs"):
        if name in there:
            raise InputError(f"there already is a column {name!r}; choose another name for what is added")


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: object, column: str, *, is_query: bool = False) -> str:
    """Give a cell's text, or refuse the row.

    Raises:
        InputError: It is no text, or a query that is blank.
    """
    if not isinstance(value, str):
        raise InputError(f"{column} has the wrong type: {type(value).__name__}; allowed: a text")
    if is_query and not value.strip():
        raise InputError(f"{column} is blank; allowed: a text with at least one visible character")
    return value


def _runs(requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, int]]:
    """Where each query begins and ends; its rows stand together."""
    start = 0
    for _, run in itertools.groupby(requests, key=lambda request: (request.query, request.instruction)):
        end = start + sum(1 for _ in run)
        yield start, end
        start = end
