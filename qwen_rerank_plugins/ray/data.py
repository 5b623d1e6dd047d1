"""Score and rank a Ray dataset: a pool of workers scores the pairs, and each query's documents are ranked.

    read → partition by query → pool of workers: scores and ranks → write

Ray replaces a worker that dies and repeats its partition. Reads and writes no file itself.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset
from ray.data.expressions import monotonically_increasing_id

from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.rows import Layout, Row
from qwen_rerank_plugins.calibration import load_calibration
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError, InputError, RerankError
from qwen_rerank_plugins.ranking import checked_scores, ranked_order
from qwen_rerank_plugins.ray.actor_pool import CALL_TOKENS, CALLS_PER_WORKER, ActorPoolSettings
from qwen_rerank_plugins.ray.batching import is_fatal, split_requests
from qwen_rerank_plugins.ray.scaling import with_reserved_threads
from qwen_rerank_plugins.scorers import build_scorer
from qwen_rerank_plugins.types import PairScore, ScoreRequest

__all__ = ["rerank_dataset"]

logger = logging.getLogger(__name__)

ROW_COLUMN = "__row"  # index of a row in the input, so that ties keep the input's order
PARTITIONS_PER_WORKER = 4


def rerank_dataset(
    dataset: Dataset,
    *,
    config: RerankConfig,
    options: BatchOptions | None = None,
    pool: ActorPoolSettings | None = None,
) -> Dataset:
    """Add each pair's score and its rank among the documents of its query, as `qwen-rerank batch` does.

    Args:
        dataset: One pair per row. Rows of one query and one instruction are ranked together.
        config: The reranker's settings.
        options: Column names, instruction and cuts; None for the section `batch` of `config`.
        pool: The workers; None for one worker.

    Returns:
        The rows with the added columns, in no particular order. The dataset is lazy.

    Raises:
        ConfigurationError: An option is not valid, or is for lists.
        InputError: A column is missing; during the execution, a row cannot be ranked.
    """
    options = BatchOptions.from_config(config) if options is None else options
    pool = ActorPoolSettings() if pool is None else pool
    if options.form == "lists" or options.explode:
        raise ConfigurationError(
            "a dataset of lists is not supported: form='lists'; use one row per document"
        )
    columns = dataset.columns(fetch_if_missing=False)
    if columns is not None:
        Layout(options, "pairs").check_columns(columns, "the dataset")
    low, high = pool.bounds
    numbered = dataset.with_column(ROW_COLUMN, monotonically_increasing_id())
    num_partitions = pool.num_partitions or PARTITIONS_PER_WORKER * high
    partitioned = numbered.repartition(num_partitions, keys=[options.query_column])
    ranked = partitioned.map_batches(
        _Worker,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(min_size=low, max_size=high),
        fn_constructor_args=(with_reserved_threads(config, pool.num_cpus), options),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
    )
    # The InputError of a row reaches the caller as it is, not wrapped.
    ranked.context.raise_original_map_exception = True
    return ranked.drop_columns([ROW_COLUMN])  # type: ignore[no-any-return, unused-ignore]


class _Worker:
    """Scores and ranks whole partitions, which contain all rows of their queries."""

    def __init__(self, config: RerankConfig, options: BatchOptions) -> None:
        self._config = config
        self._options = options
        self._layout = Layout(options, "pairs")
        self._calibration = None if config.calibration is None else load_calibration(config.calibration)
        self._scorer = build_scorer(config)
        self._has_scored = False

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the rows with their scores and ranks, without those that are cut."""
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
            if self._calibration is not None:
                columns["calibrated"] = pa.array([score.calibrated for score in scores], pa.bool_())
        for name, column in columns.items():
            ordered = ordered.append_column(name, column)
        return ordered.take(pa.array(kept, pa.int64()))

    def _requests(self, rows: pa.Table) -> list[ScoreRequest]:
        config, options = self._config, self._options
        default = config.instruction if options.instruction is None else options.instruction
        cells = rows.select(list(self._layout.needed)).to_pylist()
        parsed = [self._layout.read_cells(Row(number, number), one) for number, one in enumerate(cells)]
        for row in parsed:
            if row.problem is not None:
                raise InputError(f"a row cannot be ranked: {row.problem}")
        return [ScoreRequest(row.query, row.texts[0], row.instruction or default) for row in parsed]

    def _score(self, requests: Sequence[ScoreRequest]) -> list[PairScore]:
        parts = split_requests(requests, batch_tokens=CALL_TOKENS, max_length=self._config.max_length)
        try:
            with ThreadPoolExecutor(CALLS_PER_WORKER) as executor:
                scores = [score for found in executor.map(self._scorer.score, parts) for score in found]
        except RerankError as error:
            # The engine is lost, and a new process has a new one. A process that never scored would fail again.
            if is_fatal(error) and self._has_scored:
                logger.error("a worker ends, so that Ray replaces it: %s", type(error).__name__)  # noqa: TRY400
                os._exit(1)
            raise
        self._has_scored = True
        return checked_scores(requests, scores, self._calibration)

    def _ranks(self, requests: Sequence[ScoreRequest], scores: Sequence[PairScore]) -> list[int]:
        """Return the rank of each pair within its query, from 1; 0 for a pair that is cut."""
        options, config = self._options, self._config
        top_n = config.top_n if options.top_n is None else options.top_n
        min_score = config.min_score if options.min_score is None else options.min_score
        ranks = [0] * len(scores)
        for start, end in _query_ranges(requests):
            order = ranked_order(scores[start:end], top_n=top_n, min_score=min_score)
            for rank, index in enumerate(order, start=1):
                ranks[start + index] = rank
        return ranks


def _order(requests: Sequence[ScoreRequest], numbers: Sequence[int]) -> list[int]:
    """Return the order that groups rows by query and keeps the input's order within one; the core shares prefixes."""

    def key(index: int) -> tuple[str, str, int]:
        request = requests[index]
        return request.query, request.instruction or "", numbers[index]

    return sorted(range(len(requests)), key=key)


def _query_ranges(requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each query's rows."""
    start = 0
    for _, group in itertools.groupby(requests, key=lambda request: (request.query, request.instruction)):
        end = start + sum(1 for _ in group)
        yield start, end
        start = end
