"""`QwenRerank`: the base package's reranker as a LangChain document compressor.

It converts documents to texts and a ranking to documents. How scores come about, which settings exist and which values
they accept is the base package's matter; nothing here knows models, services or event loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable
from pydantic import ConfigDict, model_serializer

from langchain_qwen_rerank._documents import Candidate, arank_documents, rank_documents, render_candidates
from langchain_qwen_rerank._tracing import RunInfo, atraced, run_options, traced
from langchain_qwen_rerank.runnable import OPTIONS, configurable_runnable
from qwen_rerank_plugins import RerankConfig, Reranker, RerankResult, SpanOptions
from qwen_rerank_plugins.adapters import OwnsRerankerModel, given_parameters

__all__ = ["QwenRerank"]


class QwenRerank(OwnsRerankerModel, BaseDocumentCompressor):
    """Rerank documents with Qwen3-Reranker, in this process or with a service.

    The settings of `RerankConfig` are keywords with the same names. The engine is shared by the process and loaded on
    first use. Calls are safe from several threads and event loops; asynchronous calls never block the event loop.

        >>> from langchain_core.documents import Document
        >>> from langchain_qwen_rerank import QwenRerank
        >>> rerank = QwenRerank(backend="lexical", top_n=1)
        >>> documents = [Document("a red fox"), Document("the blue whale sings", id="7")]
        >>> rerank.compress_documents(documents, "blue whale")[0].id
        '7'

    The results are copies of the documents, best first, with these keys in their metadata:

    - `relevance_score`: probability from 0 to 1
    - `first_stage_score`: the `relevance_score` before the first reranking, if any
    - `rerank_log_odds`: the logit of `relevance_score`, if the service reports it
    - `rerank_calibrated`: whether `relevance_score` is calibrated, if a calibration is configured
    - `rerank_truncated`, `rerank_query_truncated`: true if a text was cut to fit
    - `rerank_warnings`: only if a text was repaired or has a prompt template around it
    - `rerank_passage`, `rerank_passage_span`: the best passage of a document that was read in chunks, and its
      `[start, end]` in `page_content`
    - `rerank_spans`: with `spans` or `compress`, the relevant spans of `page_content`, best first: `start`, `end`,
      `relevance_score` and `log_odds`
    - `rerank_original_content`, `rerank_kept_spans`: if `page_content` was shortened, the whole content, to which all
      offsets refer, and the `[start, end]` of its parts
    - `rerank_status`, `rerank_error`: only if nothing was scored: "disabled", or "failed" and the reason

    Attributes:
        config: The settings.
        metadata_fields: Metadata keys that are scored with the content, one `name: value` line each, before it;
            None for the content alone.
        spans: Add the relevant spans of each document to its metadata; None for none.
        compress: "spans" to shorten `page_content` to the relevant spans and their neighbours, with "[…]" in place of
            the rest.
        context: Sentences to keep before and after each span.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(
        self,
        *,
        config: RerankConfig | None = None,
        reranker: Reranker | None = None,
        metadata_fields: Sequence[str] | None = None,
        spans: SpanOptions | Mapping[str, Any] | None = None,
        compress: Literal["spans"] | None = None,
        context: int = 1,
        **settings: Any,
    ) -> None:
        """Create a compressor. Nothing is loaded yet, and the environment is not read.

        Args:
            config: Settings to start from; None for the defaults.
            reranker: A ready reranker in place of settings; the caller closes it.
            metadata_fields: Metadata keys in the order in which they are scored; None for the content alone.
            spans: Which relevant spans to return, as `SpanOptions` or its fields; None for none.
            compress: "spans" to shorten the documents; `spans` then has the defaults of `SpanOptions`.
            context: Sentences to keep before and after each span.
            settings: Fields of `RerankConfig`, which override those of `config`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        own = given_parameters(spans=spans, compress=compress, context=context)
        super().__init__(config=config, reranker=reranker, metadata_fields=metadata_fields, **own, **settings)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the documents, best first: sorted, without those below `min_score`, then cut to `top_n`.

        The calling run's configuration can set the instruction, `top_n` and `min_score` of one call, as
        `rerank_instruction`, `rerank_top_n` and `rerank_min_score`.

        Args:
            documents: The retrieved documents; not changed.
            query: The search query; not blank.
            callbacks: Those of the calling run; the call appears as a child run of type `chain`.

        Raises:
            InputError: The input cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        options = _call_options(callbacks)
        run = self._run_info(documents, query, options)
        return traced(lambda: rank_documents(self, documents, query, options), run, callbacks).documents

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Rerank documents as `compress_documents` does, without blocking the event loop."""
        options = _call_options(callbacks)
        run = self._run_info(documents, query, options)
        reranked = await atraced(lambda: arank_documents(self, documents, query, options), run, callbacks)
        return reranked.documents

    def rerank(
        self,
        documents: Iterable[Candidate],
        query: str,
        *,
        top_n: int | None = -1,
        instruction: str | None = None,
    ) -> list[dict[str, Any]]:
        """Rank texts and return `{"index": ..., "relevance_score": ...}` for each, best first.

        Args:
            documents: Strings, documents, or mappings with `text` or `page_content`.
            query: The search query; not blank.
            top_n: Maximum number of results, None for all, -1 for the configured one.
            instruction: What relevance means here; None for the configured one.

        Raises:
            InputError: The input cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        texts = render_candidates(documents, self.metadata_fields or ())
        return _indices(self.reranker.rank(query, texts, **_options(top_n, instruction)))

    async def arerank(
        self,
        documents: Iterable[Candidate],
        query: str,
        *,
        top_n: int | None = -1,
        instruction: str | None = None,
    ) -> list[dict[str, Any]]:
        """Rank texts as `rerank` does, without blocking the event loop."""
        texts = render_candidates(documents, self.metadata_fields or ())
        return _indices(await self.reranker.arank(query, texts, **_options(top_n, instruction)))

    def as_runnable(self) -> Runnable[Mapping[str, Any], list[Document]]:
        """Return a runnable for chains: `{"query": ..., "documents": ...}` in, documents out.

        Each call can set its options: `invoke(..., {"configurable": {"rerank_top_n": 3}})`, and likewise
        `rerank_instruction` and `rerank_min_score`.
        """
        return configurable_runnable(self)

    def _run_info(self, documents: Sequence[Document], query: str, options: Mapping[str, Any]) -> RunInfo:
        known = {name: getattr(self.config, name) for name in ("backend", "model", *OPTIONS.values())}
        metadata = {
            f"rerank_{name}": value for name, value in {**known, **options}.items() if value is not None
        }
        return RunInfo(type(self).__name__, {"query": query, "documents": documents}, metadata)

    @model_serializer(mode="plain")
    def _serialize(self) -> dict[str, Any]:
        return self.to_parameters()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QwenRerank) or type(self) is not type(other):
            return NotImplemented
        same_source = self.reranker is other.reranker or not (self._is_borrowed or other._is_borrowed)
        names = ("config", *type(self).model_fields)
        return same_source and all(getattr(self, name) == getattr(other, name) for name in names)

    def __hash__(self) -> int:
        return hash((type(self), self.config.model, self.metadata_fields))


def _call_options(callbacks: Callbacks) -> dict[str, Any]:
    """Return the options of one call that the calling run's configuration sets."""
    held = run_options(callbacks)
    return {option: held[name] for name, option in OPTIONS.items() if name in held}


def _options(top_n: int | None, instruction: str | None) -> dict[str, Any]:
    return {"instruction": instruction} if top_n == -1 else {"instruction": instruction, "top_n": top_n}


def _indices(result: RerankResult) -> list[dict[str, Any]]:
    return [{"index": one.index, "relevance_score": one.relevance_score} for one in result.results]
