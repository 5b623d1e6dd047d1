"""Bulk scoring on a cluster: a Ray Data pipeline in which a pool of workers scores pairs, and each query's are ranked.

    read → rows of a query together → pool of workers: scores, ranks → write

A worker that dies takes nothing with it: Ray starts another, which does its part again. Reads and writes no file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset
from ray.data.expressions import monotonically_increasing_id

from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.rows import Layout, Row
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError, InputError
from qwen_rerank_plugins.ranking import check_scores, ranked_order
from qwen_rerank_plugins.ray.actor_pool import CALL_TOKENS, CALLS_AT_A_TIME, Pool
from qwen_rerank_plugins.ray.grouping import slices_of
from qwen_rerank_plugins.ray.scaling import with_reserved_threads
from qwen_rerank_plugins.scorers import build_scorer
from qwen_rerank_plugins.types import PairScore, ScoreRequest

__all__ = ["rerank_dataset"]

ROW_COLUMN = "__row"  # the rows' places in the input while they are elsewhere; ties keep them
PARTITIONS_PER_WORKER = 4


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
    pool = Pool() if pool is None else pool
    if options.form == "lists" or options.explode:
        raise ConfigurationError("form is not valid: 'lists'; allowed: 'pairs', a row a document")
    known = dataset.columns(fetch_if_missing=False)
    if known is not None:
        Layout(options, "pairs").check_columns(known, "the dataset")
    low, high = pool.bounds
    numbered = dataset.with_column(ROW_COLUMN, monotonically_increasing_id())
    num_partitions = pool.num_partitions or PARTITIONS_PER_WORKER * high
    together = numbered.repartition(num_partitions, keys=[options.query_column])
    ranked = together.map_batches(
        _Worker,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(min_size=low, max_size=high),
        fn_constructor_args=(with_reserved_threads(config, pool.num_cpus), options),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
    )
    ranked.context.raise_original_map_exception = (
        True  # an InputError of a row is one where the rows are asked for
    )
    return ranked.drop_columns([ROW_COLUMN])  # type: ignore[no-any-return, unused-ignore]


class _Worker:
    """Scores and ranks whole partitions: all rows of some queries."""

    def __init__(self, config: RerankConfig, options: BatchOptions) -> None:
        self._config = config
        self._options = options
        self._layout = Layout(options, "pairs")
        self._scorer = build_scorer(config)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Give the rows with their scores and ranks; those that are cut are left out."""
        requests = self._requests(rows)
        order = _order(requests, rows[ROW_COLUMN].to_pylist())
        requests = [requests[index] for index in order]
        ordered = rows.take(pa.array(order, pa.int64()))
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

    def _requests(self, rows: pa.Table) -> list[ScoreRequest]:
        usual = self._config.instruction if self._options.instruction is None else self._options.instruction
        cells = rows.select(list(self._layout.needed)).to_pylist()
        read = [self._layout.fill(Row(number, number), one) for number, one in enumerate(cells)]
        for row in read:
            if row.problem is not None:
                raise InputError(f"a row cannot be ranked: {row.problem}")
        return [ScoreRequest(row.query, row.texts[0], row.instruction or usual) for row in read]

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


def _order(requests: Sequence[ScoreRequest], numbers: Sequence[int]) -> list[int]:
    """The rows of a query together, in the order of the input: the core shares what they have in common."""

    def key(index: int) -> tuple[str, str, int]:
        request = requests[index]
        return request.query, request.instruction or "", numbers[index]

    return sorted(range(len(requests)), key=key)


def _runs(requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, int]]:
    """Where each query begins and ends; its rows stand together."""
    start = 0
    for _, run in itertools.groupby(requests, key=lambda request: (request.query, request.instruction)):
        end = start + sum(1 for _ in run)
        yield start, end
        start = end
