"""The reranker that everything else uses: queries and documents in, ranked lists out.

It validates, asks a scorer, sorts and cuts. How a score comes about (a model in this process, a service) is the
scorer's matter.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Self, TypedDict, Unpack

from qwen_rerank_plugins import ranking, validation
from qwen_rerank_plugins.closing import CloseMixin
from qwen_rerank_plugins.config import RerankConfig, load_config
from qwen_rerank_plugins.errors import (
    ClosedError,
    ConfigurationError,
    InputError,
    RerankError,
)
from qwen_rerank_plugins.ranking import Job
from qwen_rerank_plugins.scorers import build_scorer
from qwen_rerank_plugins.types import Document, PairScore, RerankResult, Scorer, ScoreRequest
from qwen_rerank_plugins.validation import UNSET, Unset

__all__ = ["UNSET", "RankOptions", "Reranker", "Unset"]

logger = logging.getLogger(__name__)


class RankOptions(TypedDict, total=False):
    """The options of `Reranker.rank`, as keywords of the calls that rank several lists."""

    top_n: int | Unset | None
    min_score: float | Unset | None
    instruction: str | None
    deadline_s: float | None


class Reranker(CloseMixin):
    """Rank documents by their relevance to a query.

    The scorer is built on first use, once, however many threads ask; the calls are safe from several threads,
    and the asynchronous ones never block the event loop. A reranker is a context manager, both kinds.

        >>> from qwen_rerank_plugins import Reranker
        >>> reranker = Reranker(backend="lexical")
        >>> result = reranker.rank("blue whale", ["a red fox", "the blue whale sings"], top_n=1)
        >>> result.results[0].index
        1
    """

    def __init__(
        self, config: RerankConfig | None = None, *, scorer: Scorer | None = None, **settings: Any
    ) -> None:
        """Create a reranker; nothing is loaded yet, and the environment is not read.

        Args:
            config: The settings; None for the defaults.
            scorer: Scores in place of the one that the settings mean; it stays the caller's to close.
            settings: Fields of `RerankConfig`, over those of `config`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        base = RerankConfig() if config is None else config
        _check_kind("config", base, RerankConfig)
        if scorer is not None:
            _check_kind("scorer", scorer, Scorer)
        self._config = base.replace(**settings) if settings else base
        self._scorer = scorer
        self._owns_scorer = scorer is None
        self._share_engine = False
        self._closed = False
        self._lock = threading.Lock()
        self._told_disabled = False

    @classmethod
    def shared(cls, config: RerankConfig | None = None, **settings: Any) -> Self:
        """Create a reranker with its own defaults over an engine that the process loads once.

        Takes what `Reranker(...)` takes. Engines are shared by checkpoint, revision, family, device, dtype and
        quantization.
        """
        reranker = cls(config, **settings)
        reranker._share_engine = True
        return reranker

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """Create a reranker from a YAML or TOML file, over which the environment and then `overrides` go.

        Raises:
            ConfigurationError: As `load_config`.
        """
        return cls(load_config(path, overrides=overrides))

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Create a reranker from `QWEN_RERANK_*`, and the file that `QWEN_RERANK_CONFIG` names, if any.

        Raises:
            ConfigurationError: As `load_config`.
        """
        return cls(load_config(overrides=overrides))

    @property
    def config(self) -> RerankConfig:
        """The settings."""
        return self._config

    @property
    def model(self) -> str:
        """The name under which scores are reported; before the first use, the one that is configured."""
        return self._config.model if self._scorer is None else self._scorer.model

    def rank(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        top_n: int | Unset | None = UNSET,
        min_score: float | Unset | None = UNSET,
        instruction: str | None = None,
        deadline_s: float | None = None,
    ) -> RerankResult:
        """Rank documents, best first: sorted, then those below `min_score` dropped, then cut to `top_n`.

        Args:
            query: What is searched for; not blank.
            documents: Strings, or mappings whose `text` is scored; the result carries the very objects.
            top_n: How many to give at most, None for all; left out, the configuration's.
            min_score: Lowest relevance_score to be given, None for no threshold; left out, the configuration's.
            instruction: What relevance means here; None for the configuration's, else the family's.
            deadline_s: Seconds after which the result is worthless; None for the configuration's.

        Raises:
            InputError: The input cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        return self.rank_many(
            [query],
            [documents],
            top_n=top_n,
            min_score=min_score,
            instruction=instruction,
            deadline_s=deadline_s,
        )[0]

    async def arank(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        top_n: int | Unset | None = UNSET,
        min_score: float | Unset | None = UNSET,
        instruction: str | None = None,
        deadline_s: float | None = None,
    ) -> RerankResult:
        """Rank documents as `rank` does, without blocking the event loop."""
        results = await self.arank_many(
            [query],
            [documents],
            top_n=top_n,
            min_score=min_score,
            instruction=instruction,
            deadline_s=deadline_s,
        )
        return results[0]

    def rank_many(
        self,
        queries: Sequence[str],
        documents_per_query: Sequence[Iterable[Document]],
        **options: Unpack[RankOptions],
    ) -> list[RerankResult]:
        """Rank several lists, each by its own query, in one call to the scorer; options as for `rank`.

        Raises:
            InputError: The input cannot be ranked, or there are not as many lists as queries.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        job = self._job(queries, documents_per_query, **options)
        if not self._config.enabled:
            return self._disabled(job)
        try:
            return self._ranked(job, self._score(job.requests, job.deadline_s))
        except RerankError as error:
            return self._failed(job, error)

    async def arank_many(
        self,
        queries: Sequence[str],
        documents_per_query: Sequence[Iterable[Document]],
        **options: Unpack[RankOptions],
    ) -> list[RerankResult]:
        """Rank several lists as `rank_many` does, without blocking the event loop."""
        job = self._job(queries, documents_per_query, **options)
        if not self._config.enabled:
            return self._disabled(job)
        try:
            return self._ranked(job, await self._ascore(job.requests, job.deadline_s))
        except RerankError as error:
            return self._failed(job, error)

    def score(
        self, query: str, documents: Iterable[Document], *, instruction: str | None = None
    ) -> list[float]:
        """Give each document's probability of being relevant, in input order.

        Raises:
            InputError: The input cannot be scored.
            RerankError: Scoring failed or is switched off, whatever `on_error` says.
        """
        return _probabilities(self._score(self._one_query(query, documents, instruction)))

    async def ascore(
        self, query: str, documents: Iterable[Document], *, instruction: str | None = None
    ) -> list[float]:
        """Score documents as `score` does, without blocking the event loop."""
        return _probabilities(await self._ascore(self._one_query(query, documents, instruction)))

    def score_pairs(
        self, pairs: Iterable[tuple[str, Document]], *, instruction: str | None = None
    ) -> list[float]:
        """Give the probability that the document is relevant to the query, for each pair, in input order.

        Raises:
            InputError: The input cannot be scored; the message names the pair.
            RerankError: Scoring failed or is switched off, whatever `on_error` says.
        """
        return _probabilities(self._score(self._pairs(pairs, instruction)))

    async def ascore_pairs(
        self, pairs: Iterable[tuple[str, Document]], *, instruction: str | None = None
    ) -> list[float]:
        """Score pairs as `score_pairs` does, without blocking the event loop."""
        return _probabilities(await self._ascore(self._pairs(pairs, instruction)))

    def info(self) -> dict[str, Any]:
        """What is loaded, as plain JSON types; builds the scorer if that has not happened."""
        return {"backend": self._config.backend, **self._get_scorer().info()}

    def close(self) -> None:
        """Release the model; later calls raise `ClosedError`. A scorer that was passed in is left alone."""
        with self._lock:
            self._closed = True
            scorer, self._scorer = self._scorer, None
        if scorer is not None and self._owns_scorer:
            scorer.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not loaded" if self._scorer is None else "loaded"
        return f"Reranker({self._config!r}, {state})"

    # From input to requests.

    def _job(
        self,
        queries: Sequence[str],
        documents_per_query: Sequence[Iterable[Document]],
        *,
        top_n: int | Unset | None = UNSET,
        min_score: float | Unset | None = UNSET,
        instruction: str | None = None,
        deadline_s: float | None = None,
    ) -> Job:
        chosen_top_n = self._config.top_n if isinstance(top_n, Unset) else top_n
        chosen_min_score = self._config.min_score if isinstance(min_score, Unset) else min_score
        validation.check_top_n(chosen_top_n)
        validation.check_min_score(chosen_min_score)
        validation.check_deadline(deadline_s)
        chosen = self._chosen(instruction)
        lists = validation.check_lists(queries, documents_per_query)
        return Job(
            queries=tuple(query for query, _ in lists),
            documents=tuple(docs for _, docs in lists),
            requests=[
                request for query, docs in lists for request in validation.list_requests(query, docs, chosen)
            ],
            top_n=chosen_top_n,
            min_score=chosen_min_score,
            deadline_s=deadline_s,
        )

    def _one_query(
        self, query: str, documents: Iterable[Document], instruction: str | None
    ) -> list[ScoreRequest]:
        checked = validation.check_query(query)
        return validation.list_requests(
            checked, validation.check_documents(documents), self._chosen(instruction)
        )

    def _pairs(self, pairs: Iterable[tuple[str, Document]], instruction: str | None) -> list[ScoreRequest]:
        return validation.pair_requests(pairs, self._chosen(instruction))

    def _chosen(self, instruction: str | None) -> str | None:
        validation.check_instruction(instruction)
        return self._config.instruction if instruction is None else instruction

    # From requests to scores.

    def _score(self, requests: list[ScoreRequest], deadline_s: float | None = None) -> list[PairScore]:
        self._check_usable()
        if not requests:
            return []
        deadline_s = self._config.deadline_s if deadline_s is None else deadline_s
        scores = self._get_scorer().score(requests, deadline_s=deadline_s)
        ranking.check_scores(scores, len(requests))
        return scores

    async def _ascore(self, requests: list[ScoreRequest], deadline_s: float | None = None) -> list[PairScore]:
        self._check_usable()
        if not requests:
            return []
        deadline_s = self._config.deadline_s if deadline_s is None else deadline_s
        scorer = self._scorer
        if scorer is None:
            scorer = await asyncio.to_thread(self._get_scorer)
        scores = await scorer.ascore(requests, deadline_s=deadline_s)
        ranking.check_scores(scores, len(requests))
        return scores

    def _check_usable(self) -> None:
        if self._closed:
            raise ClosedError("the reranker was closed")
        if not self._config.enabled:
            raise ConfigurationError("scoring is switched off: enabled=False; ranking gives the first order")

    def _get_scorer(self) -> Scorer:
        with self._lock:
            if self._closed:
                raise ClosedError("the reranker was closed")
            if self._scorer is None:
                self._scorer = build_scorer(self._config, shared=self._share_engine)
            return self._scorer

    # From scores to results.

    def _ranked(self, job: Job, scores: list[PairScore]) -> list[RerankResult]:
        return ranking.ranked_lists(job, scores, model=self.model)

    def _disabled(self, job: Job) -> list[RerankResult]:
        if not self._told_disabled:
            self._told_disabled = True
            logger.warning("reranking is switched off (enabled=False): lists keep their first order")
        return ranking.unscored_lists(job, model=self.model, status="disabled")

    def _failed(self, job: Job, error: RerankError) -> list[RerankResult]:
        """Give the first order, or raise what is the caller's mistake or was not to be survived."""
        if self._config.on_error == "raise" or isinstance(error, InputError | ConfigurationError):
            raise error
        logger.warning("scoring failed (%s): lists keep their first order", type(error).__name__)
        reason = f"{type(error).__name__}: {error}"
        return ranking.unscored_lists(job, model=self.model, status="failed", error=reason)


def _check_kind(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        hint = "; a model is named by model=..." if isinstance(value, str) else ""
        raise ConfigurationError(f"{name} has the wrong type: {value!r}; allowed: a {kind.__name__}{hint}")


def _probabilities(scores: list[PairScore]) -> list[float]:
    return [score.relevance_score for score in scores]
