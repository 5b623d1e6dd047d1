"""The node postprocessor. It holds a configuration and asks a `Reranker`; how scores come about is not its matter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

from llama_index.core.bridge.pydantic import (
    Field,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.postprocessor.qwen_rerank._events import Outcome, dispatcher, observed
from llama_index.postprocessor.qwen_rerank.nodes import checked_nodes, reranked_nodes, scored_text

from qwen_rerank_plugins import ConfigurationError, InputError, RerankConfig, Reranker
from qwen_rerank_plugins.wrapping import HoldsReranker, choose_reranker, explicit_settings

__all__ = ["QwenRerank"]

OWN_TOP_N = -1
"""Stands for the instance's `top_n` in a call, as in other rerankers' `rerank`; None means all."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One list to be reranked, checked: nodes, the text of each, and what holds for this call alone."""

    nodes: list[NodeWithScore]
    texts: list[str]
    query: QueryBundle
    options: dict[str, Any]


class QwenRerank(HoldsReranker, BaseNodePostprocessor):
    """Rerank nodes with a Qwen3 cross-encoder, in this process or on a service.

    Every keyword of `RerankConfig` is a keyword here; an unknown one is refused with the nearest that exists. The
    model is loaded with the first list, once in a process however many postprocessors there are. Safe to call from
    several threads and inside running event loops; the asynchronous calls never block theirs.

    Nodes come best first: sorted, those below `min_score` dropped, then cut to `top_n`; ties keep their order. They
    are new `RerankedNode`s over the very nodes that came in; nothing that was passed in is changed. Switched off
    (`enabled=False`), or when scoring fails and `on_error="keep_order"`, the first nodes come in their first order
    with their first scores, and `rerank_status` says so.

    Attributes:
        config: The settings. `top_n` may be assigned to the postprocessor; for the others there is `replace`.
        metadata_mode: Which metadata are judged with a node's content; by default those that are embedded with it.
        metadata_fields: The metadata keys that are judged with it, in place of a `metadata_mode`.
    """

    config: RerankConfig = Field(frozen=True)
    metadata_mode: MetadataMode = Field(default=MetadataMode.EMBED, frozen=True)
    metadata_fields: tuple[str, ...] | None = Field(default=None, frozen=True)

    _reranker: Reranker = PrivateAttr()
    _is_lent: bool = PrivateAttr()

    def __init__(
        self,
        *,
        config: RerankConfig | None = None,
        reranker: Reranker | None = None,
        metadata_mode: MetadataMode | str | None = None,
        metadata_fields: Sequence[str] | None = None,
        callback_manager: CallbackManager | None = None,
        **settings: Any,
    ) -> None:
        """Create a postprocessor; nothing is loaded yet, and the environment is not read.

        Args:
            config: Settings to start from; None for the defaults.
            reranker: A ready reranker in place of settings; it stays the caller's to close, and is not written down.
            metadata_mode: `MetadataMode` or its value; None for "embed".
            metadata_fields: Metadata keys, in the order in which they are judged; None for what the mode means.
            callback_manager: Of the older event system; engines set their own.
            settings: Fields of `RerankConfig`, over those of `config`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        derived = {name: settings.pop(name) for name in list(settings) if name in type(self).model_fields}
        if callback_manager is not None:
            derived["callback_manager"] = callback_manager
        derived |= _checked_text_choice(metadata_mode, metadata_fields)
        chosen = choose_reranker(config, reranker, settings)
        derived["config"] = chosen.config
        super().__init__(**derived)
        self._reranker = chosen
        self._is_lent = reranker is not None

    @classmethod
    def own_parameters(cls) -> Collection[str]:
        """The fields of the class, without `config`."""
        return cls.model_fields.keys() - {"config"}

    @classmethod
    def class_name(cls) -> str:
        """The name under which the class is written."""
        return "QwenRerank"

    @property
    def model(self) -> str:
        """The name under which scores are reported; before the first use, the one that is configured."""
        return self._reranker.model

    @property
    def top_n(self) -> int | None:
        """How many nodes are given at most; None for all. May be assigned."""
        return self.config.top_n

    @top_n.setter
    def top_n(self, value: int | None) -> None:
        self.__dict__["config"] = self.config.replace(top_n=value)

    @dispatcher.span
    def rerank(
        self,
        nodes: Sequence[NodeWithScore],
        query: str | QueryBundle,
        *,
        top_n: int | None = OWN_TOP_N,
        instruction: str | None = None,
    ) -> list[NodeWithScore]:
        """Rerank nodes as `postprocess_nodes` does, with options for this call alone.

        Args:
            nodes: What came from the first stage.
            query: What is searched for; not blank.
            top_n: How many to give at most, None for all; -1 for the instance's.
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

    # What LlamaIndex calls.

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self._rank(self._call(nodes, query_bundle))

    @dispatcher.span  # the base class spans its abstract methods, and this is none
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
            message = (
                f"query is missing: {query!r}" if query is None else f"query has the wrong type: {query!r}"
            )
            raise InputError(f"{message}; allowed: query_str or a QueryBundle")
        collected = checked_nodes(nodes)
        said = getattr(query, "instruction", None) if instruction is None else instruction
        chosen = {"top_n": self.config.top_n if top_n == OWN_TOP_N else top_n, "instruction": said}
        texts = [scored_text(one.node, self.metadata_mode, self.metadata_fields) for one in collected]
        return _Call(collected, texts, query, chosen)

    def _rank(self, call: _Call) -> list[NodeWithScore]:
        with self._observed(call) as outcome:
            result = self._reranker.rank(call.query.query_str, call.texts, **call.options)
            outcome.nodes = reranked_nodes(call.nodes, call.texts, result)
        return outcome.nodes

    async def _arank(self, call: _Call) -> list[NodeWithScore]:
        with self._observed(call) as outcome:
            result = await self._reranker.arank(call.query.query_str, call.texts, **call.options)
            outcome.nodes = reranked_nodes(call.nodes, call.texts, result)
        return outcome.nodes

    def _observed(self, call: _Call) -> AbstractContextManager[Outcome]:
        return observed(
            self.callback_manager,
            query=call.query,
            nodes=call.nodes,
            top_n=call.options["top_n"],
            model=self.model,
        )

    # Copies, and what is written down.

    @model_serializer(mode="wrap")
    def custom_model_dump(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Give the settings that were set, flat, as they are passed to the class; a key is masked."""
        del info  # the signature is the base class's
        data = handler(self)
        data.pop("config", None)
        if data.get("metadata_mode") is not None:
            data["metadata_mode"] = MetadataMode(data["metadata_mode"]).value
        if data.get("metadata_fields") is not None:
            data["metadata_fields"] = list(data["metadata_fields"])
        own = {name: data[name] for name in self._set_fields() if name in data}
        return {**explicit_settings(self.config), **own, "class_name": self.class_name()}

    def replace(self, **changes: Any) -> Self:
        """Give a checked copy with some settings changed, over the same engine where it can be.

        Raises:
            ConfigurationError: A setting is unknown or wrong, or belongs to a reranker that was passed in.
        """
        fields = {name: getattr(self, name) for name in self._set_fields()} | changes
        if not self._is_lent:
            return type(self)(**{"config": self.config, **fields})
        made = type(self)(reranker=self._reranker, **fields)
        made.__dict__["config"] = self.config  # its top_n may have been assigned
        return made

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002 (pydantic's)
        """Copy as pydantic does, but check what is changed; settings are frozen, so no copy needs to be deep."""
        return self.replace(**(update or {}))

    def _set_fields(self) -> list[str]:
        """The names of the fields beside `config` that are not at their defaults."""
        fields = type(self).model_fields
        return [name for name in fields if name != "config" and getattr(self, name) != fields[name].default]

    def __copy__(self) -> Self:
        return self.replace()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.replace()

    def __reduce__(self) -> tuple[Any, ...]:
        self.refuse_if_lent("pickled")
        return _restored, (type(self), self.to_dict())

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [(name, value) for name, value in self.to_dict().items() if name != "class_name"]


def _restored(kind: type[QwenRerank], data: dict[str, Any]) -> QwenRerank:
    return kind.from_dict(data)


def _checked_text_choice(mode: object, fields: object) -> dict[str, Any]:
    """Give the fields that choose the judged text, without those left to their defaults."""
    choice: dict[str, Any] = {}
    if mode is not None:
        modes = [one.value for one in MetadataMode]
        if mode not in modes:
            raise ConfigurationError(f"metadata_mode is not valid: {mode!r}; allowed: {', '.join(modes)}")
        choice["metadata_mode"] = MetadataMode(mode)
    if fields is not None:
        if not isinstance(fields, list | tuple) or not all(isinstance(one, str) for one in fields):
            raise ConfigurationError(
                f"metadata_fields is not valid: {fields!r}; allowed: a list of metadata keys"
            )
        if mode is not None:
            raise ConfigurationError(
                "metadata_mode and metadata_fields exclude each other; allowed: one of them"
            )
        choice["metadata_fields"] = tuple(fields)
    return choice
