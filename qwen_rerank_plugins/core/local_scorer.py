"""LocalScorer: texts in, scores out, from the model in this process.

Pairs whose score is known come from the cache; the others become prompts, go to the scheduler, and come back as
log-odds. The best chunk of a document is its score.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any, Self

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.prompts.encoder import EncodedPair, PromptEncoder, TokenLimits
from qwen_rerank_plugins.core.runtime import Runtime, acquire_runtime, release_runtime
from qwen_rerank_plugins.core.score_cache.memory import CachedScore, KeyMaker, ScoreCache
from qwen_rerank_plugins.errors import ClosedError, NonFiniteScoreError
from qwen_rerank_plugins.types import PairScore, ScoreRequest

__all__ = ["LocalScorer"]


@dataclass(slots=True)
class _Job:
    """Requests on their way: what is known, and what the scheduler is asked for."""

    keys: list[bytes]
    known: list[CachedScore | None]
    encoded: list[EncodedPair]
    future: Future[list[float]]


class LocalScorer:
    """The cross-encoder behind the `Scorer` protocol.

    Args:
        config: Limits, cache and deadline; what names the model has been used to load `runtime`.
        runtime: The loaded model. The scorer gives it back when it is closed or dropped.
    """

    def __init__(self, config: RerankConfig, runtime: Runtime) -> None:
        self._runtime = runtime
        self._deadline_s = config.deadline_s
        self._limits = _limits(config, runtime)
        self._encoder = PromptEncoder(runtime.tokenizer, runtime.family, self._limits)
        self._has_disk = config.cache_path is not None and config.cache_disk_entries > 0
        self._uses_cache = config.cache_entries > 0 or self._has_disk
        self._cache = ScoreCache(
            config.cache_entries,
            path=config.cache_path if self._has_disk else None,
            max_disk_entries=max(1, config.cache_disk_entries),
        )
        self._keys = _key_maker(runtime, self._limits)
        self._encode_s = 0.0
        self._closed = threading.Event()
        self._finalizer = weakref.finalize(self, _give_back, runtime, self._cache)

    @classmethod
    def from_config(cls, config: RerankConfig, *, shared: bool = False) -> Self:
        """Load the model that a configuration names.

        Args:
            config: The settings.
            shared: Use the engine that this process has for the same model and device, if it has one.

        Raises:
            CheckpointError: The model cannot be used.
            ConfigurationError: Device, dtype or family are not to be had.
        """
        return cls(config, acquire_runtime(config, shared=shared))

    @property
    def model(self) -> str:
        """The model's name as it was asked for."""
        return self._runtime.checkpoint.name

    def score(self, requests: Sequence[ScoreRequest], *, deadline_s: float | None = None) -> list[PairScore]:
        """Score every pair, in input order.

        Args:
            requests: The pairs.
            deadline_s: Seconds from now after which the result is worthless; None for the configured deadline.

        Raises:
            InputError: An instruction leaves no room, or the family takes none.
            RequestError: The queue is full, the deadline passed, or the scorer was closed.
            EngineError: The forward pass failed.
        """
        job = self._submit(requests, deadline_s)
        try:
            log_odds = job.future.result()
        except BaseException:  # also when the waiting thread is interrupted
            job.future.cancel()
            raise
        return self._finish(job, log_odds)

    async def ascore(
        self, requests: Sequence[ScoreRequest], *, deadline_s: float | None = None
    ) -> list[PairScore]:
        """Score every pair without blocking the event loop. Cancelling takes the pairs out of the queue."""
        submitting = asyncio.ensure_future(asyncio.to_thread(self._submit, requests, deadline_s))
        try:
            job = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(_withdraw)  # the thread goes on, and what it queues is not wanted
            raise
        log_odds = await asyncio.wrap_future(job.future)
        if self._has_disk:
            return await asyncio.to_thread(self._finish, job, log_odds)
        return self._finish(job, log_odds)

    def info(self) -> dict[str, Any]:
        """What is loaded, its limits, and what cache and queue hold, as plain JSON types."""
        stats = self._cache.stats()
        limits = {
            name: value for name, value in asdict(self._limits).items() if not name.startswith("chunk_")
        }
        own = {**limits, "encode_s": round(self._encode_s, 6)}
        return {**self._runtime.info(), **own, "cache": {**asdict(stats), "hit_rate": stats.hit_rate}}

    def close(self) -> None:
        """Give the model back; later calls raise `ClosedError`."""
        self._closed.set()
        self._finalizer()

    def _submit(self, requests: Sequence[ScoreRequest], deadline_s: float | None) -> _Job:
        if self._closed.is_set():
            raise ClosedError(f"the scorer of {self.model!r} was closed")
        keys = self._request_keys(requests)
        known: list[CachedScore | None] = [None] * len(requests)
        if self._uses_cache:
            known = self._cache.get_many(keys)
        todo = [request for request, score in zip(requests, known, strict=True) if score is None]
        started = time.perf_counter()
        encoded = self._encoder.encode(todo)
        self._encode_s += time.perf_counter() - started  # without a lock, which a fork could leave taken
        prompts = [prompt for pair in encoded for prompt in pair.prompts]
        deadline_s = self._deadline_s if deadline_s is None else deadline_s
        return _Job(keys, known, encoded, self._runtime.scheduler.submit(prompts, deadline_s=deadline_s))

    def _request_keys(self, requests: Sequence[ScoreRequest]) -> list[bytes]:
        if not self._uses_cache:
            return []
        makers: dict[tuple[str | None, str], KeyMaker] = {}
        keys = []
        for request in requests:
            head = (request.instruction, request.query)
            if head not in makers:
                makers[head] = self._keys.extended(*head)
            keys.append(makers[head].key(request.document))
        return keys

    def _finish(self, job: _Job, log_odds: Sequence[float]) -> list[PairScore]:
        """Scores in input order; what is new goes into the cache."""
        answers = iter(log_odds)
        fresh = iter([_best(pair, [next(answers) for _ in pair.prompts]) for pair in job.encoded])
        scores = [score if score is not None else next(fresh) for score in job.known]
        if self._uses_cache:
            news = [(k, s) for k, s, old in zip(job.keys, scores, job.known, strict=True) if old is None]
            self._cache.put_many(news)
        return [
            _pair_score(score, cached=old is not None) for score, old in zip(scores, job.known, strict=True)
        ]


def _withdraw(submitting: asyncio.Future[_Job]) -> None:
    """Take out of the queue what was put there after its caller had left."""
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().future.cancel()


def _limits(config: RerankConfig, runtime: Runtime) -> TokenLimits:
    """The configured limits, none above what the model has positions for."""
    max_length = min(config.max_length, runtime.checkpoint.architecture.max_positions)
    return TokenLimits(
        max_length=max_length,
        max_query_tokens=config.max_query_tokens or max(1, max_length // 4),
        long_documents=config.long_documents,
        chunk_tokens=config.chunk_tokens,
        chunk_overlap=config.chunk_overlap,
    )


def _key_maker(runtime: Runtime, limits: TokenLimits) -> KeyMaker:
    """Keys that differ wherever a score could."""
    engine = runtime.engines[0]
    return KeyMaker(
        __version__,
        runtime.fingerprint,
        runtime.family.model_dump_json(),
        *(limits.max_length, limits.max_query_tokens, limits.long_documents),
        *(limits.chunk_tokens, limits.chunk_overlap),
        *(
            str(engine.decoder.device.type),
            str(engine.decoder.dtype),
            engine.attention_backend.__name__,
            runtime.quantization,
        ),
    )


def _best(pair: EncodedPair, log_odds: Sequence[float]) -> CachedScore:
    """The score of a pair: that of its best prompt, the first of equals."""
    if not all(map(math.isfinite, log_odds)):
        raise NonFiniteScoreError(
            "the model gave NaN or infinity for a pair; its weights or its dtype are unusable"
        )
    best = max(range(len(log_odds)), key=lambda n: (log_odds[n], -n))
    return CachedScore(
        log_odds=log_odds[best],
        truncated=pair.truncated,
        query_truncated=pair.query_truncated,
        span=pair.spans[best],
        num_tokens=pair.num_tokens,
    )


def _pair_score(score: CachedScore, *, cached: bool) -> PairScore:
    return PairScore(
        relevance_score=_sigmoid(score.log_odds),
        log_odds=score.log_odds,
        truncated=score.truncated,
        query_truncated=score.query_truncated,
        span=score.span,
        num_tokens=score.num_tokens,
        cached=cached,
    )


def _sigmoid(x: float) -> float:
    """The logistic function, without overflow."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))


def _give_back(runtime: Runtime, cache: ScoreCache) -> None:
    cache.close()
    release_runtime(runtime)
