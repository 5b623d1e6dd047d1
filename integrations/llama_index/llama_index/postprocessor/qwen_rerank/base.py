"""The node postprocessor. It holds settings and calls a `Reranker`; how scores come about is not its matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from llama_index.core.bridge.pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.postprocessor.qwen_rerank._events import Outcome, dispatcher, observed
from llama_index.postprocessor.qwen_rerank.nodes import render_nodes, reranked_nodes

from qwen_rerank_plugins import ConfigurationError, InputError, RerankConfig, Reranker, SpanOptions
from qwen_rerank_plugins.adapters import Candidates, OwnsRerankerModel, given_parameters

__all__ = ["QwenRerank"]

OWN_TOP_N = -1
"""In a call, stands for the instance's `top_n`, as in the `rerank` of other rerankers; None means all."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call: the nodes with their texts, the query, and the options of this call."""

    candidates: Candidates[NodeWithScore]
    query: QueryBundle
    options: dict[str, Any]


class QwenRerank(OwnsRerankerModel, BaseNodePostprocessor):
    """Rerank nodes with a Qwen3 cross-encoder, in this process or with a service.

    The settings of `RerankConfig` are keywords with the same names; an unknown one is refused with the name
    that was probably meant. The model is loaded with the first list and shared by all postprocessors of the process. Calls are safe from
    several threads and inside running event loops; asynchronous calls never block the event loop.

    Nodes come best first: sorted, without those below `min_score`, then cut to `top_n`; ties keep their order. They
    are new `RerankedNode`s over the same node objects; nothing that was passed in is changed. If scoring is switched
    off (`enabled=False`), or fails and `on_error="keep_order"`, the first nodes come in their first order with their
    first scores, and `rerank_status` says so.

    Attributes:
        config: The settings. `top_n` can be assigned to the postprocessor; `replace` changes the others.
        metadata_mode: Which metadata are scored with a node's content; by default those that are embedded with it.
        metadata_fields: Metadata keys that are scored with the content, one `name: value` line each, before it,
            instead of those that `metadata_mode` chooses; None for `metadata_mode`.
        spans: Return the relevant spans of each node as `rerank_spans`; None for none.
        compress: "spans" to shorten the text of copies of the nodes to the relevant spans and their neighbours, with "[…]"
            in place of the rest.
        context: Sentences to keep before and after each span.
    """

    metadata_mode: MetadataMode = Field(default=MetadataMode.EMBED, frozen=True)

    def __init__(
        self,
        *,
        config: RerankConfig | None = None,
        reranker: Reranker | None = None,
        metadata_mode: MetadataMode | str | None = None,
        metadata_fields: Sequence[str] | None = None,
        spans: SpanOptions | Mapping[str, Any] | None = None,
        compress: Literal["spans"] | None = None,
        context: int = 1,
        callback_manager: CallbackManager | None = None,
        **settings: Any,
    ) -> None:
        """Create a postprocessor. Nothing is loaded yet, and the environment is not read.

        Args:
            config: Settings to start from; None for the defaults.
            reranker: A ready reranker in place of settings; the caller closes it, and it is not serialized.
            metadata_mode: `MetadataMode` or its value; None for "embed".
            metadata_fields: Metadata keys in the order in which they are scored; None for `metadata_mode`.
            spans: Which relevant spans to return, as `SpanOptions` or its fields; None for none.
            compress: "spans" to shorten the nodes' texts; `spans` then has the defaults of `SpanOptions`.
            context: Sentences to keep before and after each span.
            callback_manager: The manager of the older event system; engines set their own.
            settings: Fields of `RerankConfig`, which override those of `config`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        if metadata_mode is not None and metadata_fields is not None:
            raise ConfigurationError(
                f"metadata_mode={metadata_mode!r} and metadata_fields={metadata_fields!r} exclude each other."
                " Pass one of them."
            )
        own = {"metadata_mode": metadata_mode, "callback_manager": callback_manager}
        settings |= {name: value for name, value in own.items() if value is not None}
        settings |= given_parameters(spans=spans, compress=compress, context=context)
        super().__init__(config=config, reranker=reranker, metadata_fields=metadata_fields, **settings)

    @classmethod
    def class_name(cls) -> str:
        """The name under which the class is serialized."""
        return "QwenRerank"

    @property
    def model(self) -> str:
        """The name under which scores are reported; before the first use, the configured one."""
        return self._reranker.model

    @property
    def top_n(self) -> int | None:
        """Maximum number of nodes; None for all. Can be assigned."""
        return self._config.top_n

    @top_n.setter
    def top_n(self, value: int | None) -> None:
        self._config = self._config.replace(top_n=value)

    @dispatcher.span
    def rerank(
        self,
        nodes: Sequence[NodeWithScore],
        query: str | QueryBundle,
        *,
        top_n: int | None = OWN_TOP_N,
        instruction: str | None = None,
    ) -> list[NodeWithScore]:
        """Rerank nodes as `postprocess_nodes` does, with options for this call.

        Args:
            nodes: The nodes of the first stage.
            query: The search query; not blank.
            top_n: Maximum number of nodes, None for all, -1 for the instance's.
            instruction: What relevance means here; None for the query's own, else the instance's.

        Raises:
            InputError: The input cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        return self._rank(self._call(nodes, query, top_n=top_n, instruction=instruction))

    @dispatcher.span
    async def arerank(
        self,
        nodes: Sequence[NodeWithScore],
        query: str | QueryBundle,
        *,
        top_n: int | None = OWN_TOP_N,
        instruction: str | None = None,
    ) -> list[NodeWithScore]:
        """Rerank nodes as `rerank` does, without blocking the event loop."""
        return await self._arank(self._call(nodes, query, top_n=top_n, instruction=instruction))

    # The methods that LlamaIndex calls.

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self._rank(self._call(nodes, query_bundle))

    @dispatcher.span  # the base class adds spans to its abstract methods only
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return await self._arank(self._call(nodes, query_bundle))

    def _call(
        self,
        nodes: Sequence[NodeWithScore],
        query: object,
        *,
        top_n: int | None = OWN_TOP_N,
        instruction: str | None = None,
    ) -> _Call:
        if isinstance(query, str):
            query = QueryBundle(query)
        if not isinstance(query, QueryBundle):
            problem = "is missing" if query is None else "has the wrong type"
            raise InputError(f"query {problem}: {query!r}. Pass query_str, or a QueryBundle.")
        candidates = render_nodes(nodes, self.metadata_mode, self.metadata_fields)
        if instruction is None:
            instruction = getattr(query, "instruction", None)
        options = {
            "top_n": self.top_n if top_n == OWN_TOP_N else top_n,
            "instruction": instruction,
            "spans": self.requested_spans,
        }
        return _Call(candidates, query, options)

    def _rank(self, call: _Call) -> list[NodeWithScore]:
        with self._observed(call) as outcome:
            result = self._reranker.rank(call.query.query_str, call.candidates.texts, **call.options)
            outcome.nodes = reranked_nodes(call.candidates, result, self)
        return outcome.nodes

    async def _arank(self, call: _Call) -> list[NodeWithScore]:
        with self._observed(call) as outcome:
            result = await self._reranker.arank(call.query.query_str, call.candidates.texts, **call.options)
            outcome.nodes = reranked_nodes(call.candidates, result, self)
        return outcome.nodes

    def _observed(self, call: _Call) -> AbstractContextManager[Outcome]:
        return observed(
            self.callback_manager,
            query=call.query,
            nodes=list(call.candidates.documents),
            top_n=call.options["top_n"],
            model=self.model,
        )

    # Copies and serialization.

    def own_settings(self) -> dict[str, Any]:
        """The fields that were set, and the callback manager."""
        return {**super().own_settings(), "callback_manager": self.callback_manager}

    def to_parameters(self) -> dict[str, Any]:
        """Return the keywords that create an equal postprocessor, as plain JSON types, with a mask in place of a key."""
        parameters = super().to_parameters()
        if "metadata_mode" in parameters:
            parameters["metadata_mode"] = self.metadata_mode.value
        if self.metadata_fields is not None:
            parameters["metadata_fields"] = list(self.metadata_fields)
        return parameters

    @model_serializer(mode="wrap")
    def custom_model_dump(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Return the settings that were set, as the keywords of the class; a key is masked."""
        del handler, info  # the signature is the base class's
        return {**self.to_parameters(), "class_name": self.class_name()}
