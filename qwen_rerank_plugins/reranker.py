"""`Reranker`: queries and documents in, ranked lists out.

It validates its input, calls a scorer, sorts and cuts. Knows nothing of models and services: scorers do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Self, Unpack

from qwen_rerank_plugins import ranking, validation
from qwen_rerank_plugins.calibration import Calibration, load_calibration
from qwen_rerank_plugins.closing import CloseMixin
from qwen_rerank_plugins.config import RerankConfig, load_config
from qwen_rerank_plugins.errors import ClosedError, ConfigurationError, InputError, RerankError
from qwen_rerank_plugins.scorers import LoadBackoff, build_scorer
from qwen_rerank_plugins.types import (
    Document,
    PairScore,
    Priority,
    RerankResult,
    Scorer,
    ScoreRequest,
    SpanOptions,
    TextLimits,
)
from qwen_rerank_plugins.validation import UNSET, RankInput, RankOptions, Unset

__all__ = ["UNSET", "RankOptions", "Reranker", "Unset"]

logger = logging.getLogger(__name__)


class Reranker(CloseMixin):
    """Rank documents by their relevance to a query.

    The scorer is built once, on first use or by `warm_up`. All methods are safe from several threads, and the asynchronous ones do
    not block the event loop. After a failure to build the scorer, calls fail with the same error until a pause is
    over, which doubles from 1 to 60 seconds; then the next call tries again. A reranker is a context manager, for
    `with` and `async with`.

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
            scorer: A scorer to use instead of building one; `close` does not close it.
            settings: Fields of `RerankConfig` that replace those of `config`.

        Raises:
            ConfigurationError: A setting is unknown or invalid, or, with `scorer`, the calibration file is.
        """
        base = RerankConfig() if config is None else config
        _check_kind("config", base, RerankConfig)
        if scorer is not None:
            _check_kind("scorer", scorer, Scorer)
        self._config = base.replace(**settings) if settings else base
        self._scorer = scorer
        self._owns_scorer = scorer is None
        self._calibration = None if scorer is None else self._load_calibration()
        self._share_engine = False
        self._closed = False
        self._lock = threading.Lock()
        self._load_backoff = LoadBackoff()
        self._logged_disabled = False

    @classmethod
    def shared(cls, config: RerankConfig | None = None, **settings: Any) -> Self:
        """Create a reranker over an engine that this process loads once.

        Takes the arguments of `Reranker(...)`. Rerankers share an engine if they agree in all settings that shape it,
        from `model` and `device` to `prefix_cache_mb` and `self_check`; all other settings are each reranker's own.
        `num_threads` holds for the whole process, and a second, different value is logged as a warning.
        """
        reranker = cls(config, **settings)
        reranker._share_engine = True
        return reranker

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """Create a reranker from a YAML or TOML file; the environment replaces its settings, and `overrides` both.

        Raises:
            ConfigurationError: As `load_config`.
        """
        return cls(load_config(path, overrides=overrides))

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Create a reranker from `QWEN_RERANK_*` and the file that `QWEN_RERANK_CONFIG` names, if any.

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
        """The model's name as the scorer reports it; before the first use, the configured one."""
        scorer = self._scorer  # read once: `close` may set it to None at any time
        return self._config.model if scorer is None else scorer.model

    def rank(  # noqa: PLR0913 (one parameter per option)
        self,
        query: str,
        documents: Iterable[Document],
        *,
        top_n: int | Unset | None = UNSET,
        min_score: float | Unset | None = UNSET,
        instruction: str | None = None,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
        limits: TextLimits | None = None,
        spans: SpanOptions | None = None,
    ) -> RerankResult:
        """Rank documents by relevance, best first.

        Documents are sorted, those below `min_score` are dropped, then the list is cut to `top_n`.

        Args:
            query: The search query; not blank.
            documents: Strings, or mappings whose `text` is scored; the result holds the same objects.
            top_n: Maximum number of documents in the result, None for all; by default the configuration's.
            min_score: Lowest `relevance_score` in the result, None for no threshold; by default the configuration's.
            instruction: What relevance means; None for the configuration's, else the family's.
            deadline_s: Seconds within which the result is needed; None for the configuration's.
            priority: "background" to rank after all interactive calls to the same engine, in small batches.
            limits: Limits of the texts in addition to the configuration's.
            spans: Score the sentences or passages of the returned documents too, in one more call to the scorer, and
                return the best of them with each document.

        Raises:
            InputError: The input cannot be ranked.
            ClosedError: The reranker was closed.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        return self.rank_many(
            [query],
            [documents],
            top_n=top_n,
            min_score=min_score,
            instruction=instruction,
            deadline_s=deadline_s,
            priority=priority,
            limits=limits,
            spans=spans,
        )[0]

    async def arank(
        self, query: str, documents: Iterable[Document], **options: Unpack[RankOptions]
    ) -> RerankResult:
        """Rank documents as `rank` does, with the same options, without blocking the event loop."""
        return (await self.arank_many([query], [documents], **options))[0]

    def rank_many(
        self,
        queries: Sequence[str],
        documents_per_query: Sequence[Iterable[Document]],
        **options: Unpack[RankOptions],
    ) -> list[RerankResult]:
        """Rank several lists, each by its own query, in one call to the scorer, and score all their spans in one more.

        Raises:
            InputError: The input cannot be ranked, or the number of lists differs from the number of queries.
            ClosedError: The reranker was closed.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        given = validation.rank_input(self._config, queries, documents_per_query, **options)
        if not self._config.enabled:
            return self._disabled(given)
        try:
            scores = self._score(given.requests, given.deadline_s, given.priority)
            results = ranking.rank_lists(given, scores, model=self.model)
            if given.spans is None:
                return results
            found = ranking.span_input(given, given.spans, results)
            scores = self._score(found.requests, given.seconds_left(), given.priority)
        except RerankError as error:
            return self._failed(given, error)
        return ranking.add_spans(given.spans, results, found, scores)

    async def arank_many(
        self,
        queries: Sequence[str],
        documents_per_query: Sequence[Iterable[Document]],
        **options: Unpack[RankOptions],
    ) -> list[RerankResult]:
        """Rank several lists as `rank_many` does, without blocking the event loop."""
        given = validation.rank_input(self._config, queries, documents_per_query, **options)
        if not self._config.enabled:
            return self._disabled(given)
        try:
            scores = await self._ascore(given.requests, given.deadline_s, given.priority)
            results = ranking.rank_lists(given, scores, model=self.model)
            if given.spans is None:
                return results
            found = await asyncio.to_thread(ranking.span_input, given, given.spans, results)
            scores = await self._ascore(found.requests, given.seconds_left(), given.priority)
        except RerankError as error:
            return self._failed(given, error)
        return ranking.add_spans(given.spans, results, found, scores)

    def score(
        self, query: str, documents: Iterable[Document], *, instruction: str | None = None
    ) -> list[float]:
        """Return each document's probability of relevance, in input order.

        Raises:
            InputError: The input cannot be scored.
            RerankError: Scoring failed or `enabled` is False, whatever `on_error` is.
        """
        return _probabilities(
            self._score(self._one_query(query, documents, instruction), self._config.deadline_s)
        )

    async def ascore(
        self, query: str, documents: Iterable[Document], *, instruction: str | None = None
    ) -> list[float]:
        """Score documents as `score` does, without blocking the event loop."""
        return _probabilities(
            await self._ascore(self._one_query(query, documents, instruction), self._config.deadline_s)
        )

    def score_pairs(
        self, pairs: Iterable[tuple[str, Document]], *, instruction: str | None = None
    ) -> list[float]:
        """Return the probability that the document is relevant to the query, for each pair, in input order.

        Raises:
            InputError: The input cannot be scored; the message names the pair.
            RerankError: Scoring failed or `enabled` is False, whatever `on_error` is.
        """
        return _probabilities(self._score(self._pairs(pairs, instruction), self._config.deadline_s))

    async def ascore_pairs(
        self, pairs: Iterable[tuple[str, Document]], *, instruction: str | None = None
    ) -> list[float]:
        """Score pairs as `score_pairs` does, without blocking the event loop."""
        return _probabilities(await self._ascore(self._pairs(pairs, instruction), self._config.deadline_s))

    def warm_up(self) -> None:
        """Build the scorer and let it compute once, so that the first call is as fast as later ones.

        The local backend imports torch, loads the model and computes a probe, whose score is not cached; the others
        build their scorer only. Does nothing if `enabled` is False.

        Raises:
            ClosedError: The reranker was closed.
            RerankError: The scorer cannot be built, or the probe failed.
        """
        self._check_open()
        if self._config.enabled:
            getattr(self._get_scorer(), "warm_up", lambda: None)()

    async def awarm_up(self) -> None:
        """Warm up in a thread; importing torch holds the interpreter, and thus the event loop, all the same."""
        await asyncio.to_thread(self.warm_up)

    def info(self) -> dict[str, Any]:
        """What is loaded, as plain JSON types; builds the scorer if it is not built yet."""
        info = {"backend": self._config.backend, **self._get_scorer().info()}
        return info if self._calibration is None else {**info, "calibration": self._calibration.info()}

    def close(self) -> None:
        """Release the model; later calls raise `ClosedError`. A scorer that was passed in stays open."""
        with self._lock:
            self._closed = True
            scorer, self._scorer = self._scorer, None
        if scorer is not None and self._owns_scorer:
            scorer.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not loaded" if self._scorer is None else "loaded"
        return f"Reranker({self._config!r}, {state})"

    # Input to requests.

    def _one_query(
        self, query: str, documents: Iterable[Document], instruction: str | None
    ) -> list[ScoreRequest]:
        checked = (validation.check_query(query), validation.check_documents(documents))
        return validation.list_requests([checked], self._chosen_instruction(instruction))

    def _pairs(self, pairs: Iterable[tuple[str, Document]], instruction: str | None) -> list[ScoreRequest]:
        return validation.pair_requests(pairs, self._chosen_instruction(instruction))

    def _chosen_instruction(self, instruction: str | None) -> str | None:
        validation.check_instruction(instruction)
        return self._config.instruction if instruction is None else instruction

    # Requests to scores.

    def _score(
        self, requests: list[ScoreRequest], deadline_s: float | None, priority: Priority = "interactive"
    ) -> list[PairScore]:
        self._check_usable()
        if not requests:
            return []
        scores = self._get_scorer().score(requests, deadline_s=deadline_s, priority=priority)
        return ranking.checked_scores(requests, scores, self._calibration)

    async def _ascore(
        self, requests: list[ScoreRequest], deadline_s: float | None, priority: Priority = "interactive"
    ) -> list[PairScore]:
        self._check_usable()
        if not requests:
            return []
        scorer = self._scorer
        if scorer is None:
            scorer = await asyncio.to_thread(self._get_scorer)
        scores = await scorer.ascore(requests, deadline_s=deadline_s, priority=priority)
        return ranking.checked_scores(requests, scores, self._calibration)

    def _load_calibration(self) -> Calibration | None:
        return None if self._config.calibration is None else load_calibration(self._config.calibration)

    def _check_usable(self) -> None:
        self._check_open()
        if not self._config.enabled:
            raise ConfigurationError("scoring is disabled by enabled=False; set it to True, or rank instead")

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the reranker was closed; create a new one")

    def _get_scorer(self) -> Scorer:
        """Return the scorer; one thread builds it, while others wait for the result."""
        with self._lock:
            self._check_open()
            if self._scorer is None:
                self._load_backoff.check()
                try:
                    self._calibration = self._load_calibration()
                    self._scorer = build_scorer(self._config, shared=self._share_engine)
                except (ConfigurationError, InputError):
                    raise  # not transient, and fails fast
                except RerankError as error:
                    self._load_backoff.keep(error)
                    raise
            return self._scorer

    # Results without scores.

    def _disabled(self, given: RankInput) -> list[RerankResult]:
        self._check_open()
        if not self._logged_disabled:
            self._logged_disabled = True
            logger.warning("reranking is disabled by enabled=False: lists keep their original order")
        return ranking.unscored_lists(given, model=self.model, status="disabled")

    def _failed(self, given: RankInput, error: RerankError) -> list[RerankResult]:
        """Return the original order if `on_error` allows it; raise mistakes of the caller in any case."""
        if self._config.on_error == "raise" or isinstance(error, InputError | ConfigurationError):
            raise error
        self._check_open()
        logger.warning("scoring failed with %s: lists keep their original order", type(error).__name__)
        reason = f"{type(error).__name__}: {error}"
        return ranking.unscored_lists(given, model=self.model, status="failed", error=reason)


def _check_kind(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        hint = "; name a model with `model=`" if isinstance(value, str) else ""
        raise ConfigurationError(f"`{name}` must be a {kind.__name__}, got {value!r}{hint}")


def _probabilities(scores: list[PairScore]) -> list[float]:
    return [score.relevance_score for score in scores]
