"""`ClientSideReranker` and its asynchronous twin: search, rerank what was found, answer as the cluster would.

They tie the rooms beside them together. How scores come about, which models and services there are and what happens
when they fail is the base package's matter.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Collection, Mapping
from typing import Any, Protocol, TypedDict, Unpack

from opensearch_qwen_rerank.client.jobs import Job
from opensearch_qwen_rerank.client.searching import (
    Search,
    check_count,
    plan_search,
    query_text,
    search_instruction,
)
from opensearch_qwen_rerank.client.settings import ClientSettings, with_section
from qwen_rerank_plugins import ConfigurationError, RerankConfig, Reranker, RerankResult
from qwen_rerank_plugins.wrapping import HoldsReranker, choose_reranker

__all__ = [
    "AsyncClientSideReranker",
    "AsyncSearchClient",
    "CallOptions",
    "ClientSideReranker",
    "SearchClient",
]


class SearchClient(Protocol):
    """What a search runs through; `OpenSearch` of opensearch-py is one."""

    def search(self, *, body: Any, index: Any, params: Any, headers: Any) -> Any:
        """Give the answer to a search, a mapping."""


class AsyncSearchClient(Protocol):
    """What a search runs through without blocking; `AsyncOpenSearch` of opensearch-py is one."""

    def search(self, *, body: Any, index: Any, params: Any, headers: Any) -> Awaitable[Any]:
        """Give the answer to a search, a mapping, when it is awaited."""


class CallOptions(TypedDict, total=False):
    """The options of one call, in place of the configuration's: see `Reranker.rank`."""

    instruction: str | None
    min_score: float | None
    deadline_s: float | None


class _ClientSide(HoldsReranker):
    """What both share: settings, and everything before and after the waiting."""

    def __init__(
        self,
        client: Any = None,
        *,
        config: RerankConfig | None = None,
        reranker: Reranker | None = None,
        **settings: Any,
    ) -> None:
        """Create a reranker; nothing is loaded yet, and the environment is not read.

        Args:
            client: What searches run through; None where only answers at hand are reranked.
            config: Settings of models and services to start from; None for the defaults.
            reranker: A ready reranker in place of those; it stays the caller's to close.
            settings: Fields of `ClientSettings`, and of `RerankConfig`, over those of `config`; `fields` and
                `query_path`, left out, are those of its section `opensearch`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        own, rest = self.split_parameters(settings)
        self._reranker = choose_reranker(config, reranker, rest)
        self._is_lent = reranker is not None
        self._settings = ClientSettings.of(with_section(own, self._reranker.config))
        self._reader = self._settings.text_reader()
        self._client = client

    @classmethod
    def own_parameters(cls) -> Collection[str]:
        """The client, and the fields of `ClientSettings`."""
        return {"client", *ClientSettings.model_fields}

    @property
    def config(self) -> RerankConfig:
        """The settings of models and services."""
        return self._reranker.config

    @property
    def settings(self) -> ClientSettings:
        """The settings of the client's side."""
        return self._settings

    def __repr__(self) -> str:
        shown = {name: getattr(self._settings, name) for name in sorted(self._settings.model_fields_set)}
        own = "".join(f", {name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({self.config!r}{own})"

    def _planned(self, body: Mapping[str, Any] | None, params: Mapping[str, Any] | None) -> Search:
        if self._client is None:
            raise ConfigurationError("there is no client to search with: None; allowed: an OpenSearch client")
        return plan_search(body or {}, params or {}, window=self._settings.window, widens=self.config.enabled)

    def _query(self, body: Mapping[str, Any] | None, query: str | None) -> str:
        return query_text(body or {}, query, self._settings.query_path)

    @staticmethod
    def _options(body: Mapping[str, Any] | None, options: CallOptions) -> CallOptions:
        """The call's options, with the instruction of the search where the call has none."""
        told = search_instruction(body or {})
        return options if told is None else {"instruction": told, **options}

    def _at_hand(self, start: int, size: int | None) -> Search:
        check_count("from_", start)
        check_count("size", 0 if size is None else size)
        window = self._settings.window if self.config.enabled else 0
        return Search({}, {}, window=window, start=start, size=size)

    def _job(self, response: Any, search: Search) -> Job:
        return Job.read(response, search, self._settings, self._reader)

    def _answered(
        self, job: Job, result: RerankResult, options: CallOptions, timings: Mapping[str, float]
    ) -> dict[str, Any]:
        min_score = options.get("min_score", self.config.min_score)
        return job.answer(result, top_n=self.config.top_n, min_score=min_score, timings=timings)


class ClientSideReranker(_ClientSide):
    """Rerank OpenSearch's hits in this program, or by a service, without anything changed in the cluster.

    Takes the settings of `ClientSettings` and of `RerankConfig` as keywords, by their own names. The engine is shared
    by the process and loaded on first use. Calls are safe from several threads as far as the client's are.

        >>> from opensearch_qwen_rerank.client import ClientSideReranker
        >>> reranker = ClientSideReranker(fields=["title", "body"], backend="lexical")
        >>> hits = [
        ...     {"_id": "1", "_score": 7.5, "_source": {"title": "Foxes", "body": "a red fox"}},
        ...     {"_id": "2", "_score": 3.0, "_source": {"title": "Whales", "body": "the blue whale sings"}},
        ... ]
        >>> found = reranker.rerank({"hits": {"max_score": 7.5, "hits": hits}}, "blue whale")
        >>> found["hits"]["hits"][0]["_id"], found["hits"]["hits"][0]["rerank"]["first_stage_score"]
        ('2', 3.0)

    An answer is the search's own with its hits reordered. `_score` of a hit is its probability from 0 to 1, or the
    fused score; null where it was not scored: hits behind the window, and hits without text. Beside it each hit has
    `rerank`: `relevance_score`, `log_odds`, `first_stage_score`, `first_stage_rank`, and where it applies
    `truncated`, `query_truncated`, `inner_hit` (the best one's position), `passage` with `passage_field` and
    `passage_span`. The answer has `rerank` too: `status` ("ranked", "skipped" when there was nothing to score,
    "disabled", or "failed" and then `error`), `model`, counts, and times in milliseconds. Where nothing was scored
    because scoring failed or is switched off, hits are as they came.
    """

    _client: SearchClient | None

    def search(
        self,
        body: Mapping[str, Any] | None = None,
        *,
        index: str | list[str] | None = None,
        query: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Unpack[CallOptions],
    ) -> dict[str, Any]:
        """Search, and rerank what is found: the window's hits in their new order, the others behind, cut to the page.

        `from` and `size` of the search mean what they always do; the search that is sent reaches over the window.
        A search with `search_after`, `pit`, `slice` or `scroll` is sent as it is and its page reranked in itself.

        Args:
            body: The search; left as it is.
            index: Where to search, as in opensearch-py.
            query: What the hits are ranked by; None for what stands at `query_path`, or in its `ext` for a pipeline.
            params: The search's parameters.
            headers: The search's headers.
            options: `instruction`, `min_score` and `deadline_s` of this call.

        Raises:
            InputError: There is no query, or the hits cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        text, search = self._query(body, query), self._planned(body, params)
        assert self._client is not None
        started_s = time.perf_counter()
        response = self._client.search(
            body=search.body, index=index, params=search.params, headers=dict(headers or {})
        )
        if inspect.isawaitable(response):
            _close(response)
            raise _wrong_client(self._client, "a blocking client, or AsyncClientSideReranker")
        return self._reranked(
            response, text, search, self._options(body, options), {"search_ms": _ms_since(started_s)}
        )

    def rerank(
        self,
        response: Mapping[str, Any],
        query: str,
        *,
        from_: int = 0,
        size: int | None = None,
        **options: Unpack[CallOptions],
    ) -> dict[str, Any]:
        """Rerank an answer at hand, whose hits begin with the first stage's first.

        Args:
            response: A search's answer; left as it is.
            query: What the hits are ranked by.
            from_: First hit to give, after reranking.
            size: Hits to give; None for all.
            options: `instruction`, `min_score` and `deadline_s` of this call.

        Raises:
            InputError: It is no answer to a search, or the hits cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        return self._reranked(response, query, self._at_hand(from_, size), options, {})

    def _reranked(
        self, response: Any, query: str, search: Search, options: CallOptions, timings: Mapping[str, float]
    ) -> dict[str, Any]:
        started_s = time.perf_counter()
        job = self._job(response, search)
        result = self._reranker.rank(query, job.texts, top_n=None, **options)
        return self._answered(job, result, options, {"took_ms": _ms_since(started_s), **timings})


class AsyncClientSideReranker(_ClientSide):
    """Rerank OpenSearch's hits as `ClientSideReranker` does, without ever blocking the event loop."""

    _client: AsyncSearchClient | None

    async def search(
        self,
        body: Mapping[str, Any] | None = None,
        *,
        index: str | list[str] | None = None,
        query: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Unpack[CallOptions],
    ) -> dict[str, Any]:
        """Search and rerank as `ClientSideReranker.search` does."""
        text, search = self._query(body, query), self._planned(body, params)
        assert self._client is not None
        started_s = time.perf_counter()
        found = self._client.search(
            body=search.body, index=index, params=search.params, headers=dict(headers or {})
        )
        if not inspect.isawaitable(found):
            raise _wrong_client(self._client, "an asynchronous client, or ClientSideReranker")
        response = await found
        return await self._reranked(
            response, text, search, self._options(body, options), {"search_ms": _ms_since(started_s)}
        )

    async def rerank(
        self,
        response: Mapping[str, Any],
        query: str,
        *,
        from_: int = 0,
        size: int | None = None,
        **options: Unpack[CallOptions],
    ) -> dict[str, Any]:
        """Rerank an answer at hand as `ClientSideReranker.rerank` does."""
        return await self._reranked(response, query, self._at_hand(from_, size), options, {})

    async def _reranked(
        self, response: Any, query: str, search: Search, options: CallOptions, timings: Mapping[str, float]
    ) -> dict[str, Any]:
        started_s = time.perf_counter()
        job = self._job(response, search)
        result = await self._reranker.arank(query, job.texts, top_n=None, **options)
        return self._answered(job, result, options, {"took_ms": _ms_since(started_s), **timings})


def _wrong_client(client: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"the client is of the other kind: {type(client).__name__}; allowed: {allowed}")


def _close(awaitable: object) -> None:
    """Let a coroutine that nobody will await go without a warning."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


def _ms_since(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000.0, 3)
