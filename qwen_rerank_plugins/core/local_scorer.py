"""LocalScorer: text pairs in, scores out, from a model in this process.

Cached pairs come from the score cache. The others become prompts, which the scheduler turns into log-odds.
The score of a document that is read in chunks is that of its best chunk.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, astuple, dataclass
from typing import Any, Self

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.prompts.encoder import EncodedPair, PromptEncoder, TokenLimits
from qwen_rerank_plugins.core.runtime import Runtime, acquire_runtime, release_runtime
from qwen_rerank_plugins.core.score_cache.memory import KeyHasher, ScoreCache
from qwen_rerank_plugins.errors import ClosedError
from qwen_rerank_plugins.types import PairScore, Priority, ScoreRequest

__all__ = ["LocalScorer"]


@dataclass(slots=True)
class _PendingScores:
    """Scores of one call: the cached ones, and the future of those in the scheduler."""

    keys: list[bytes]
    cached: list[PairScore | None]
    encoded: list[EncodedPair]
    future: Future[list[float]]
    deadline: float

    def seconds_left(self) -> float:
        """Return the seconds until the deadline, in the range of a timeout."""
        return min(max(0.0, self.deadline - time.monotonic()), threading.TIMEOUT_MAX)


class LocalScorer:
    """The cross-encoder behind the `Scorer` protocol.

    Args:
        config: Limits and cache. Its model settings are those that `runtime` was loaded with.
        runtime: The loaded model. The scorer releases it when it is closed or garbage-collected.
    """

    def __init__(self, config: RerankConfig, runtime: Runtime) -> None:
        self._runtime = runtime
        self._limits = _limits(config, runtime)
        self._encoder = PromptEncoder(runtime.tokenizer, runtime.family, self._limits, config.unwrap)
        self._cache = ScoreCache(
            config.cache_entries,
            path=config.cache_path,
            max_disk_entries=config.cache_disk_entries,
        )
        self._key_hasher = _key_hasher(runtime, self._limits, config.unwrap)
        self._encode_s = 0.0
        self._closed = threading.Event()
        self._finalizer = weakref.finalize(self, _release, runtime, self._cache)

    @classmethod
    def from_config(cls, config: RerankConfig, *, shared: bool = False) -> Self:
        """Load the model that a configuration names.

        Args:
            config: The settings.
            shared: Reuse the engine that this process has loaded for the same model and device, if any.

        Raises:
            CheckpointError: The checkpoint is missing, incomplete or unsupported.
            ConfigurationError: The device, dtype or family is unknown or unavailable.
        """
        return cls(config, acquire_runtime(config, shared=shared))

    @property
    def model(self) -> str:
        """The model's name as configured."""
        return self._runtime.checkpoint.name

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Return one score per pair, in input order.

        Args:
            requests: The pairs.
            deadline_s: Seconds from now after which the call fails; None for no deadline.
            priority: "background" to compute after all interactive calls, in small batches.

        Raises:
            InputError: An instruction leaves no room for a document, or the family takes none.
            RequestError: The queue is full, the deadline passed, or the scorer was closed.
            EngineError: The forward pass failed.
        """
        deadline = time.monotonic() + (math.inf if deadline_s is None else deadline_s)
        pending = self._submit(requests, deadline, priority)
        try:
            return self._collect(pending, pending.future.result(pending.seconds_left()))
        except TimeoutError:
            self._runtime.scheduler.expire(pending.future)
            return self._collect(pending, pending.future.result())
        except BaseException:  # also KeyboardInterrupt in the waiting thread
            pending.future.cancel()
            raise

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Return one score per pair without blocking the event loop; see `score`.

        Cancelling the task removes its pairs from the queue.
        """
        deadline = time.monotonic() + (math.inf if deadline_s is None else deadline_s)
        submission = asyncio.ensure_future(asyncio.to_thread(self._submit, requests, deadline, priority))
        try:
            pending = await asyncio.shield(submission)
        except asyncio.CancelledError:
            # The thread still submits; its request is cancelled then.
            submission.add_done_callback(_cancel_submitted)
            raise
        expire = self._runtime.scheduler.expire
        timer = asyncio.get_running_loop().call_later(pending.seconds_left(), expire, pending.future)
        try:
            log_odds = await asyncio.wrap_future(pending.future)
        finally:
            timer.cancel()
        if self._cache.has_disk:
            return await asyncio.to_thread(self._collect, pending, log_odds)
        return self._collect(pending, log_odds)

    def warm_up(self) -> None:
        """Compute the score of a probe, without the score cache.

        Raises:
            RerankError: As `score`.
        """
        (pair,) = self._encoder.encode([ScoreRequest("probe", "probe")])
        self._runtime.scheduler.submit(pair.prompts).result()

    def info(self) -> dict[str, Any]:
        """Return the loaded model, the token limits, and the state of cache and queue as plain JSON types."""
        stats = self._cache.stats()
        limits = {
            name: value for name, value in asdict(self._limits).items() if not name.startswith("chunk_")
        }
        local = {**limits, "encode_s": round(self._encode_s, 6)}
        return {**self._runtime.info(), **local, "cache": {**asdict(stats), "hit_rate": stats.hit_rate}}

    def close(self) -> None:
        """Release the model; later calls raise `ClosedError`."""
        self._closed.set()
        self._finalizer()

    def _submit(
        self, requests: Sequence[ScoreRequest], deadline: float, priority: Priority
    ) -> _PendingScores:
        if self._closed.is_set():
            raise ClosedError(f"the scorer of {self.model!r} was closed")
        keys = self._keys(requests) if self._cache.is_enabled else []
        cached: list[PairScore | None] = [None] * len(requests)
        if keys:
            cached = self._cache.get_many(keys)
        uncached = [request for request, score in zip(requests, cached, strict=True) if score is None]
        started = time.perf_counter()
        encoded = self._encoder.encode(uncached)
        self._encode_s += time.perf_counter() - started  # without a lock: a fork could copy it locked
        prompts = [prompt for pair in encoded for prompt in pair.prompts]
        deadline_s = deadline - time.monotonic()
        future = self._runtime.scheduler.submit(prompts, deadline_s=deadline_s, priority=priority)
        return _PendingScores(keys, cached, encoded, future, deadline)

    def _keys(self, requests: Sequence[ScoreRequest]) -> list[bytes]:
        hashers: dict[tuple[Any, ...], KeyHasher] = {}
        keys = []
        for request in requests:
            limits = () if request.limits is None else astuple(request.limits)
            prefix = (request.instruction, request.query, *limits)
            if prefix not in hashers:
                hashers[prefix] = self._key_hasher.extended(*prefix)
            keys.append(hashers[prefix].key(request.document))
        return keys

    def _collect(self, pending: _PendingScores, log_odds: Sequence[float]) -> list[PairScore]:
        """Return the scores in input order, and cache the new ones."""
        rest = iter(log_odds)
        new_scores = iter([_best_chunk_score(pair, rest) for pair in pending.encoded])
        scores = [next(new_scores) if score is None else score for score in pending.cached]
        if pending.keys:
            pairs = zip(pending.keys, scores, pending.cached, strict=True)
            self._cache.put_many([(key, score) for key, score, hit in pairs if hit is None])
        return scores


def _cancel_submitted(submission: asyncio.Future[_PendingScores]) -> None:
    """Cancel a request that reached the queue after its caller was cancelled."""
    if not submission.cancelled() and submission.exception() is None:
        submission.result().future.cancel()


def _limits(config: RerankConfig, runtime: Runtime) -> TokenLimits:
    """Return the configured limits, capped at the positions that the model has."""
    max_length = min(config.max_length, runtime.checkpoint.architecture.max_positions)
    return TokenLimits(
        max_length=max_length,
        max_query_tokens=config.max_query_tokens or max(1, max_length // 4),
        long_documents=config.long_documents,
        chunk_tokens=config.chunk_tokens,
        chunk_overlap=config.chunk_overlap,
    )


def _key_hasher(runtime: Runtime, limits: TokenLimits, unwrap: str) -> KeyHasher:
    """Return a hasher over everything that changes a score or its warnings."""
    engine = runtime.engines[0]
    return KeyHasher(
        __version__,
        runtime.fingerprint,
        runtime.family.model_dump_json(),
        *(limits.max_length, limits.max_query_tokens, limits.long_documents),
        *(limits.chunk_tokens, limits.chunk_overlap, unwrap),
        *(
            str(engine.decoder.device.type),
            str(engine.decoder.dtype),
            engine.attention_backend.__name__,
            engine.decoder.number_format,
        ),
    )


def _best_chunk_score(pair: EncodedPair, log_odds: Iterator[float]) -> PairScore:
    """Return the score of a pair's best prompt; of equal ones, the first."""
    own = [next(log_odds) for _ in pair.prompts]
    best = own.index(max(own))
    return PairScore.from_log_odds(
        own[best],
        truncated=pair.truncated,
        query_truncated=pair.query_truncated,
        span=pair.spans[best],
        num_tokens=sum(prompt.end for prompt in pair.prompts),
        warnings=pair.warnings,
    )


def _release(runtime: Runtime, cache: ScoreCache) -> None:
    cache.close()
    release_runtime(runtime)
