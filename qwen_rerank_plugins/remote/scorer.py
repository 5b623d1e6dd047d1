"""A `Scorer` that calls a service: pairs are grouped into calls, and scores are returned in input order.

Request formats are in `dialects`, validation of answers in `answers`. Nothing here knows a model.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Self

import httpx
from pydantic import SecretStr

from qwen_rerank_plugins.config import RerankConfig, resolve_api_key
from qwen_rerank_plugins.errors import ClosedError, ConfigurationError, DeadlineExceededError, InputError
from qwen_rerank_plugins.recipe import REPAIRED_TEXT, replace_surrogates
from qwen_rerank_plugins.remote import failures, prompts
from qwen_rerank_plugins.remote.answers import AnswerError, ParsedAnswer, parse_answer
from qwen_rerank_plugins.remote.batching import Batch, make_batches
from qwen_rerank_plugins.remote.channel import Answer, Channel, ChannelConfig, UnusableAnswerError
from qwen_rerank_plugins.remote.dialects import DIALECTS, Dialect, choose_dialect
from qwen_rerank_plugins.remote.loop import LoopThread
from qwen_rerank_plugins.remote.retries import retrying
from qwen_rerank_plugins.types import PairScore, Priority, ScoreRequest

__all__ = ["RemoteScorer"]

_BLANK = PairScore(0.0, blank=True)
_KEY = re.compile(r"[\x21-\x7e]+")
# Limits of an answer, which may echo the texts, escaped, with a few numbers for each.
_ANSWER_BASE_BYTES = 1_000_000
_ANSWER_BYTES_PER_BYTE = 8
_ANSWER_BYTES_PER_DOCUMENT = 2_000


class RemoteScorer:
    """Scores pairs by calling a service.

    Safe to use from several threads, several event loops and forked children. Blocking and asynchronous calls run on
    the scorer's own event loop; `max_concurrency` limits them together.
    """

    def __init__(
        self,
        config: RerankConfig,
        *,
        api_key: SecretStr | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Create a scorer. Nothing is sent, and neither environment nor files are read.

        Args:
            config: The settings, with a `base_url`.
            api_key: Key of the service; by default that of the settings.
            transport: Replaces the network in tests.

        Raises:
            ConfigurationError: The dialect does not support the settings.
        """
        self._config = config
        base_url = _require_base_url(config)
        self._dialect = choose_dialect(config.dialect, base_url)
        self._key = _validate_key(config.api_key if api_key is None else api_key)
        self._url = self._dialect.url(base_url)
        _check_template(config, self._dialect)
        self._model: str | None = None
        key = None if self._key is None else SecretStr(self._key)
        channel = ChannelConfig(
            self._url, key, config.timeout_s, config.max_concurrency, config.ca_file, transport
        )
        self._thread = LoopThread(functools.partial(Channel, channel), name="qwen-rerank-remote")

    @classmethod
    def from_config(cls, config: RerankConfig) -> Self:
        """Create a scorer and read its key from the place that the configuration names.

        Raises:
            ConfigurationError: The settings are contradictory, or the key cannot be read.
        """
        return cls(config, api_key=resolve_api_key(config))

    @property
    def model(self) -> str:
        """Name of the model in the service's last answer; before the first, the configured name."""
        return self._config.model if self._model is None else self._model

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score every pair, in input order.

        Args:
            requests: The pairs.
            deadline_s: Maximum duration in seconds; None for no limit beyond `timeout_s` of each call.
            priority: "background" to send `Priority: u=7` (RFC 9218), which services may honour.

        Raises:
            InputError: A request has an instruction, and the dialect has no field for it.
            RemoteError: The service is unreachable, rejected the request, or returned an invalid answer.
            DeadlineExceededError: The deadline passed.
            ClosedError: The scorer is closed, or was closed during the call.
        """
        pairs = tuple(requests)
        self._validate(pairs)
        if not pairs:
            return []
        future = self._submit(pairs, deadline_s, priority)
        try:
            return future.result()
        except BaseException:  # KeyboardInterrupt, for example: nobody waits for the answer
            future.cancel()
            raise

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score every pair as `score` does. Cancelling it closes the connection to the service."""
        pairs = tuple(requests)
        self._validate(pairs)
        if not pairs:
            return []
        return await asyncio.wrap_future(self._submit(pairs, deadline_s, priority))

    def info(self) -> dict[str, Any]:
        """Return the settings of the connection as plain JSON types, without calling the service."""
        return {
            "model": self.model,
            "base_url": self._config.base_url,
            "url": self._url,
            "dialect": self._dialect.name,
            "template": self._config.template,
            "max_batch_documents": self._max_documents,
            "max_concurrency": self._config.max_concurrency,
            "timeout_s": self._config.timeout_s,
            "retries": self._config.retries,
        }

    def close(self) -> None:
        """Close all connections. Running and later calls raise `ClosedError`."""
        self._thread.close()

    def __repr__(self) -> str:
        state = ", closed" if self._thread.closed else ""
        return f"RemoteScorer({self._url!r}, dialect={self._dialect.name!r}{state})"

    @property
    def _max_documents(self) -> int:
        return self._config.max_batch_documents or self._dialect.max_documents

    # On the caller's thread.

    def _validate(self, requests: tuple[ScoreRequest, ...]) -> None:
        if self._thread.closed:
            raise ClosedError("the scorer is closed")
        can_carry = self._dialect.instruction_field is not None or self._config.template == "client"
        if not can_carry and any(request.instruction is not None for request in requests):
            raise InputError(_no_instruction(self._dialect))
        for limits in {request.limits for request in requests}:
            if self._dialect.limits_body(limits) and self._config.template == "client":
                raise InputError("limits cannot be used with template 'client'; use template 'server'")

    def _submit(
        self, requests: tuple[ScoreRequest, ...], deadline_s: float | None, priority: Priority
    ) -> Future[list[PairScore]]:
        until = None if deadline_s is None else time.monotonic() + deadline_s  # the clock of event loops
        headers = {"Priority": "u=7"} if priority == "background" else {}
        return self._thread.submit(functools.partial(self._score_all, requests, deadline_s, until, headers))

    # On the scorer's own loop.

    async def _score_all(
        self,
        requests: tuple[ScoreRequest, ...],
        deadline_s: float | None,
        until: float | None,
        headers: Mapping[str, str],
        channel: Channel,
    ) -> list[PairScore]:
        batches = make_batches(
            requests,
            max_documents=self._max_documents,
            max_bytes=self._dialect.max_bytes,
            counts_pairs=self._dialect.counts_pairs,
            with_blanks=self._dialect.takes_blanks,
        )
        try:
            async with asyncio.timeout_at(until), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._score_batch(channel, batch, until, headers)) for batch in batches
                ]
        except TimeoutError:
            message = f"the deadline passed without an answer of {self._url!r}: deadline_s is {deadline_s!r}"
            raise DeadlineExceededError(message) from None
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        scores = [_BLANK] * len(requests)
        for batch, task in zip(batches, tasks, strict=True):
            answer = task.result()
            self._model = answer.model or self._model
            for position, score in zip(batch.positions, answer.scores, strict=True):
                scores[position] = score
        return scores

    async def _score_batch(
        self, channel: Channel, batch: Batch, until: float | None, headers: Mapping[str, str]
    ) -> ParsedAnswer:
        async with channel.slots:
            sent = _repaired(batch)
            texts = self._texts(sent)
            answer = await self._send_with_retries(channel, batch, texts, until, headers)
        if self._dialect.returns_log_odds and answer.headers.get("server") == "llama.cpp":
            reason = "is llama.cpp's, whose scores are probabilities; set dialect to 'llamacpp'"
            raise self._protocol_error(reason, b"", texts)
        try:
            return _marked(parse_answer(self._dialect, answer.body, batch.documents), batch, sent)
        except AnswerError as error:
            raise self._protocol_error(str(error), answer.body, texts) from None

    async def _send_with_retries(
        self,
        channel: Channel,
        batch: Batch,
        texts: tuple[str, ...],
        until: float | None,
        headers: Mapping[str, str],
    ) -> Answer:
        """Post until an attempt succeeds, within `timeout_s` and the deadline."""
        body = self._body(batch, texts)
        timeout_s = self._config.timeout_s
        budget_s = timeout_s if until is None else min(timeout_s, until - time.monotonic())
        try:
            async with asyncio.timeout(timeout_s):
                async for attempt in retrying(retries=self._config.retries, budget_s=budget_s):
                    with attempt:
                        number = attempt.retry_state.attempt_number
                        return await self._send(channel, body, texts, number, headers)
        except TimeoutError:
            raise failures.timeout_error(self._url, timeout_s) from None
        raise AssertionError("unreachable: the attempts end with an answer or an error")

    async def _send(
        self,
        channel: Channel,
        body: bytes,
        texts: tuple[str, ...],
        attempt: int,
        headers: Mapping[str, str],
    ) -> Answer:
        max_bytes = _ANSWER_BASE_BYTES + _ANSWER_BYTES_PER_BYTE * len(body)
        try:
            max_bytes += _ANSWER_BYTES_PER_DOCUMENT * len(texts)
            answer = await channel.post(body, max_bytes=max_bytes, headers=headers)
        except httpx.HTTPError as error:
            raise failures.connection_error(self._url, error, attempt) from error
        except UnusableAnswerError as error:
            raise self._protocol_error(str(error), b"", texts) from None
        if not answer.is_success:
            raise failures.status_error(self._url, answer, texts, self._key)
        return answer

    def _protocol_error(self, reason: str, body: bytes, texts: tuple[str, ...]) -> Exception:
        return failures.protocol_error(
            self._url, self._dialect.name, reason, body=body, texts=texts, key=self._key
        )

    def _texts(self, batch: Batch) -> tuple[str, ...]:
        """Return the texts to send: the query, the documents, and the instruction if it has its own field."""
        if self._config.template == "client":
            wrapped = map(prompts.document_part, batch.documents)
            return (prompts.query_part(batch.query, batch.instruction), *wrapped)
        return (batch.query, *batch.documents, *([] if batch.instruction is None else [batch.instruction]))

    def _body(self, batch: Batch, texts: tuple[str, ...]) -> bytes:
        end = 1 + len(batch.documents)
        body = self._dialect.body(
            texts[0],
            texts[1:end],
            model=self._config.model,
            instruction=texts[end] if len(texts) > end else None,
            template=self._config.template,
            limits=batch.limits,
        )
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _repaired(batch: Batch) -> Batch:
    """Return a batch with U+FFFD for each lone surrogate."""
    return replace(
        batch,
        query=replace_surrogates(batch.query),
        instruction=None if batch.instruction is None else replace_surrogates(batch.instruction),
        documents=tuple(map(replace_surrogates, batch.documents)),
    )


def _marked(answer: ParsedAnswer, batch: Batch, sent: Batch) -> ParsedAnswer:
    """Add a warning to the scores of texts that were sent with replacements."""
    if sent == batch:
        return answer
    shared = (sent.query, sent.instruction) != (batch.query, batch.instruction)
    scores = tuple(
        replace(score, warnings=tuple(dict.fromkeys((*score.warnings, REPAIRED_TEXT))))
        if shared or clean != document
        else score
        for score, document, clean in zip(answer.scores, batch.documents, sent.documents, strict=True)
    )
    return replace(answer, scores=scores)


def _require_base_url(config: RerankConfig) -> str:
    if config.base_url is None:
        raise ConfigurationError("base_url is missing: None; set it to the address of the service")
    return config.base_url


def _validate_key(key: SecretStr | None) -> str | None:
    """Return the key if it is valid in a header. The message must not contain it."""
    if key is None:
        return None
    text = key.get_secret_value()
    if not _KEY.fullmatch(text):
        raise ConfigurationError(
            "the API key is not valid: (hidden); use visible ASCII characters without spaces"
        )
    return text


def _check_template(config: RerankConfig, dialect: Dialect) -> None:
    if config.template == "server":
        if config.instruction is not None and dialect.instruction_field is None:
            raise ConfigurationError(_no_instruction(dialect))
        return
    if dialect.has_template:
        raise ConfigurationError(
            f"template 'client' cannot be used with dialect {dialect.name!r}, whose service applies its own; "
            "use template 'server'"
        )
    if config.family not in {"auto", "qwen3"}:
        message = f"family {config.family!r} cannot be used with template 'client'; use 'auto' or 'qwen3'"
        raise ConfigurationError(message)


def _no_instruction(dialect: Dialect) -> str:
    able = ", ".join(repr(one.name) for one in DIALECTS.values() if one.instruction_field is not None)
    return (
        f"instruction cannot be sent: dialect {dialect.name!r} has no field for it; remove it, use one of the "
        f"dialects {able}, or template 'client' if the service applies no template"
    )
