"""`ClientSideReranker` and `AsyncClientSideReranker`: search, rerank the hits, and return the response.

The base package's `Reranker` scores the texts, with its own settings for models, services and failures.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Collection, Mapping
from typing import Any, Protocol, TypedDict, Unpack

from opensearch_qwen_rerank.client.page import Fragment, Page
from opensearch_qwen_rerank.client.rerank_window import RerankWindow
from opensearch_qwen_rerank.client.search_request import (
    SearchRequest,
    check_count,
    find_instruction,
    find_query,
    widen_search,
)
from opensearch_qwen_rerank.client.settings import ClientSettings, add_section
from qwen_rerank_plugins import ConfigurationError, RerankConfig, Reranker, RerankResult
from qwen_rerank_plugins.adapters import OwnsReranker
from qwen_rerank_plugins.reranker import RankOptions

__all__ = [
    "AsyncClientSideReranker",
    "AsyncSearchClient",
    "CallOptions",
    "ClientSideReranker",
    "SearchClient",
]

_MIN_DEADLINE_S = 0.001  # a call refuses a deadline of zero


class SearchClient(Protocol):
    """A client with a blocking `search`, such as `OpenSearch` of opensearch-py."""

    def search(self, *, body: Any, index: Any, params: Any, headers: Any) -> Any:
        """Return the response, a mapping."""


class AsyncSearchClient(Protocol):
    """A client with an asynchronous `search`, such as `AsyncOpenSearch` of opensearch-py."""

    def search(self, *, body: Any, index: Any, params: Any, headers: Any) -> Awaitable[Any]:
        """Return an awaitable of the response, a mapping."""


class CallOptions(TypedDict, total=False):
    """Options of one call that override the configuration; see `Reranker.rank`."""

    instruction: str | None
    min_score: float | None
    deadline_s: float | None


class _ClientSideBase(OwnsReranker):
    """What both classes share: settings, and everything before and after waiting."""

    def __init__(
        self,
        client: Any = None,
        *,
        config: RerankConfig | None = None,
        reranker: Reranker | None = None,
        **settings: Any,
    ) -> None:
        """Create a reranker; loads nothing yet, and does not read the environment.

        Args:
            client: The search client; None if only `rerank` is used.
            config: Settings of models and services; None for the defaults.
            reranker: A reranker to use instead; the caller closes it.
            settings: Fields of `ClientSettings` and of `RerankConfig`, which override `config`. `fields` and `query_path`
                default to those of its section `opensearch`.

        Raises:
            ConfigurationError: A setting is unknown or invalid.
        """
        own, rest = self.split_parameters(settings)
        super().__init__(config=config, reranker=reranker, **rest)
        self._settings = ClientSettings.from_keywords(add_section(own, self.config))
        self._reader = self._settings.text_reader()
        self._client = client

    @classmethod
    def own_parameters(cls) -> Collection[str]:
        """Return the client and the fields of `ClientSettings`."""
        return {"client", *ClientSettings.model_fields}

    def own_settings(self) -> dict[str, Any]:
        """The client, and the fields of `ClientSettings` that were set."""
        names = self._settings.model_fields_set
        return {"client": self._client, **{name: getattr(self._settings, name) for name in names}}

    @property
    def settings(self) -> ClientSettings:
        """The settings of reranking on the client side."""
        return self._settings

    def __repr__(self) -> str:
        shown = {name: getattr(self._settings, name) for name in sorted(self._settings.model_fields_set)}
        own = "".join(f", {name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({self.config!r}{own})"

    def _widen(self, body: Mapping[str, Any] | None, params: Mapping[str, Any] | None) -> SearchRequest:
        if self._client is None:
            raise ConfigurationError("there is no client to search with: None. Pass an OpenSearch client.")
        return widen_search(
            body or {}, params or {}, window=self._settings.window, widens=self.config.enabled
        )

    def _find_query(self, body: Mapping[str, Any] | None, query: str | None) -> str:
        return find_query(body or {}, query, self._settings.query_path)

    @staticmethod
    def _options(body: Mapping[str, Any] | None, options: CallOptions) -> CallOptions:
        """Return the call's options; the search's instruction is used if the call has none."""
        instruction = find_instruction(body or {})
        return options if instruction is None else {"instruction": instruction, **options}

    def _page(self, start: int, size: int | None) -> SearchRequest:
        check_count("from_", start)
        check_count("size", 0 if size is None else size)
        window = self._settings.window if self.config.enabled else 0
        return SearchRequest({}, {}, window=window, start=start, size=size)

    def _window(self, response: Any, search: SearchRequest) -> RerankWindow:
        return RerankWindow.from_response(response, search, self._settings, self._reader)

    def _to_page(
        self, window: RerankWindow, result: RerankResult, options: CallOptions
    ) -> tuple[Page, list[Fragment]]:
        """Return the page, and the fragments of its hits that the second call ranks."""
        min_score = options.get("min_score", self.config.min_score)
        page = window.to_page(result, top_n=self.config.top_n, min_score=min_score)
        return page, page.fragments()

    def _fragment_options(self, options: CallOptions, started_s: float) -> RankOptions:
        """Return the options of the second call, whose deadline is that of the whole call."""
        deadline_s = options.get("deadline_s")
        if deadline_s is None:
            deadline_s = self.config.deadline_s
        if deadline_s is not None:
            deadline_s = max(_MIN_DEADLINE_S, deadline_s - (time.perf_counter() - started_s))
        threshold = None if self._settings.highlight is None else self._settings.highlight.threshold
        instruction = options.get("instruction")
        return {"top_n": None, "min_score": threshold, "instruction": instruction, "deadline_s": deadline_s}


class ClientSideReranker(_ClientSideBase):
    """Rerank OpenSearch hits in this process or with a service; the cluster is not changed.

    Takes the settings of `ClientSettings` and of `RerankConfig` as keywords. The engine is shared within the process
    and loaded on first use. Calls are thread-safe if the client's are.

        >>> from opensearch_qwen_rerank.client import ClientSideReranker
        >>> reranker = ClientSideReranker(fields=["title", "body"], backend="lexical")
        >>> hits = [
        ...     {"_id": "1", "_score": 7.5, "_source": {"title": "Foxes", "body": "a red fox"}},
        ...     {"_id": "2", "_score": 3.0, "_source": {"title": "Whales", "body": "the blue whale sings"}},
        ... ]
        >>> found = reranker.rerank({"hits": {"max_score": 7.5, "hits": hits}}, "blue whale")
        >>> found["hits"]["hits"][0]["_id"], found["hits"]["hits"][0]["rerank"]["first_stage_score"]
        ('2', 3.0)

    The result is the search's response with its hits reordered. A hit's `_score` is its probability from 0 to 1, or the
    fused score; it is null if the hit was not scored: behind the window, or without text. Each hit has `rerank` with
    `relevance_score`, `log_odds`, `first_stage_score`, `first_stage_rank`, and where they apply `calibrated`, `truncated`,
    `query_truncated`, `inner_hit` (position of the best one), `passage`, `passage_field` and `passage_span`. The response
    has `rerank` with `status` ("ranked"; "skipped" if there was nothing to score; "disabled"; "failed", with `error`),
    `model`, counts, and durations in milliseconds. If scoring failed or is disabled, the hits are unchanged.

    With `highlight`, the scored hits of the page also have `highlight` as the cluster's own highlighters write it, and
    `rerank` has `spans` with `field`, `start`, `end`, `relevance_score` and `log_odds`. If only these could not be scored
    and `on_error` is "keep_order", the response's `rerank` has `highlight_error`.
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
        """Search and rerank; return the page of the window's hits in their new order, followed by the other hits.

        `from` and `size` have their usual meaning; the search that is sent covers the whole window. A search with
        `search_after`, `pit`, `slice` or `scroll` is sent as it is, and its page is reranked separately.

        Args:
            body: The search body; it is not changed.
            index: Index or indices, as in opensearch-py.
            query: The query to rank by; None to read it at `query_path`, or from `ext` as a pipeline does.
            params: Query parameters of the search.
            headers: Headers of the search.
            options: `instruction`, `min_score` and `deadline_s` of this call.

        Raises:
            InputError: There is no query, or the hits cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        text, search = self._find_query(body, query), self._widen(body, params)
        assert self._client is not None
        started_s = time.perf_counter()
        response = self._client.search(
            body=search.body, index=index, params=search.params, headers=dict(headers or {})
        )
        if inspect.isawaitable(response):
            _close(response)
            raise _wrong_client(self._client, "Use a blocking client, or AsyncClientSideReranker.")
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
        """Rerank an existing response, whose hits start with the first stage's first hit.

        Args:
            response: A search response; it is not changed.
            query: The query to rank by.
            from_: Position of the first hit to return, after reranking.
            size: Number of hits to return; None for all.
            options: `instruction`, `min_score` and `deadline_s` of this call.

        Raises:
            InputError: The value is not a search response, or the hits cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        return self._reranked(response, query, self._page(from_, size), options, {})

    def _reranked(
        self,
        response: Any,
        query: str,
        search: SearchRequest,
        options: CallOptions,
        timings: Mapping[str, float],
    ) -> dict[str, Any]:
        started_s = time.perf_counter()
        window = self._window(response, search)
        result = self._reranker.rank(query, window.texts, top_n=None, **options)
        page, fragments = self._to_page(window, result, options)
        ranked = None
        if fragments:
            texts = [one.text for one in fragments]
            ranked = self._reranker.rank(query, texts, **self._fragment_options(options, started_s))
        return page.to_response(fragments, ranked, {"took_ms": _ms_since(started_s), **timings})


class AsyncClientSideReranker(_ClientSideBase):
    """Rerank OpenSearch hits as `ClientSideReranker` does, without blocking the event loop."""

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
        """Search and rerank like `ClientSideReranker.search`."""
        text, search = self._find_query(body, query), self._widen(body, params)
        assert self._client is not None
        started_s = time.perf_counter()
        found = self._client.search(
            body=search.body, index=index, params=search.params, headers=dict(headers or {})
        )
        if not inspect.isawaitable(found):
            raise _wrong_client(self._client, "Use an asynchronous client, or ClientSideReranker.")
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
        """Rerank an existing response like `ClientSideReranker.rerank`."""
        return await self._reranked(response, query, self._page(from_, size), options, {})

    async def _reranked(
        self,
        response: Any,
        query: str,
        search: SearchRequest,
        options: CallOptions,
        timings: Mapping[str, float],
    ) -> dict[str, Any]:
        started_s = time.perf_counter()
        window = self._window(response, search)
        result = await self._reranker.arank(query, window.texts, top_n=None, **options)
        page, fragments = await asyncio.to_thread(self._to_page, window, result, options)
        ranked = None
        if fragments:
            texts = [one.text for one in fragments]
            ranked = await self._reranker.arank(query, texts, **self._fragment_options(options, started_s))
        return page.to_response(fragments, ranked, {"took_ms": _ms_since(started_s), **timings})


def _wrong_client(client: object, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"the client is of the other kind: {type(client).__name__}. {remedy}")


def _close(awaitable: object) -> None:
    """Close a coroutine that is not awaited, which would cause a warning."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


def _ms_since(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000.0, 3)
