"""`QwenRerank`: the base package's reranker as a LangChain document compressor.

It turns documents into texts and a ranking into documents. How scores come about, which settings exist and what they
may hold is the base package's matter; nothing here knows models, services or event loops.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_serializer

from langchain_qwen_rerank._documents import Candidate, Candidates, candidate_texts
from langchain_qwen_rerank._tracing import Run, atraced, run_options, traced
from qwen_rerank_plugins import ConfigurationError, RerankConfig, Reranker, RerankResult
from qwen_rerank_plugins.wrapping import HoldsReranker, choose_reranker, explicit_settings

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

__all__ = ["OPTIONS", "QwenRerank"]

OPTIONS = {"rerank_instruction": "instruction", "rerank_top_n": "top_n", "rerank_min_score": "min_score"}
"""Name in a run's configuration → option of one call."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The outcome of one call.

    Attributes:
        documents: Copies of the documents, best first.
        result: The ranking that they follow.
    """

    documents: list[Document]
    result: RerankResult

    def outputs(self) -> dict[str, Any]:
        """What a trace shows of it."""
        told = {"documents": self.documents, "model": self.result.model, "status": self.result.status}
        return told if self.result.error is None else {**told, "error": self.result.error}


class QwenRerank(HoldsReranker, BaseDocumentCompressor):
    """Rerank documents by Qwen3-Reranker, in this process or by a service.

    Takes the settings of `RerankConfig` as keywords, by their own names. The engine is shared by the process and
    loaded on first use. Calls are safe from several threads and event loops; the asynchronous ones never block one.

        >>> from langchain_core.documents import Document
        >>> from langchain_qwen_rerank import QwenRerank
        >>> rerank = QwenRerank(backend="lexical", top_n=1)
        >>> documents = [Document("a red fox"), Document("the blue whale sings", id="7")]
        >>> rerank.compress_documents(documents, "blue whale")[0].id
        '7'

    Documents come back as copies, best first, with these keys in their metadata:

    - `relevance_score`: probability from 0 to 1
    - `first_stage_score`: the `relevance_score` that the document came with, the first one after several rerankings
    - `rerank_log_odds`: its logit, where the model tells
    - `rerank_truncated`, `rerank_query_truncated`: true where a text was cut to fit
    - `rerank_passage`, `rerank_passage_span`: the best passage of a document that was read in chunks, and its
      `[start, end]` in `page_content`
    - `rerank_status`, `rerank_error`: only where nothing was scored: "disabled", or "failed" and why

    Attributes:
        config: The settings.
        metadata_fields: Metadata keys that are scored with the content, written before it as `name: value`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    config: RerankConfig
    metadata_fields: tuple[str, ...] = ()

    _reranker: Reranker = PrivateAttr()
    _is_lent: bool = PrivateAttr()

    def __init__(
        self, *, config: RerankConfig | None = None, reranker: Reranker | None = None, **settings: Any
    ) -> None:
        """Create a compressor; nothing is loaded yet, and the environment is not read.

        Args:
            config: Settings to start from; None for the defaults.
            reranker: A ready reranker in place of settings; it stays the caller's to close.
            settings: `metadata_fields`, and fields of `RerankConfig`, over those of `config`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        own, settings = self.split_parameters(settings)
        chosen = choose_reranker(config, reranker, settings)
        try:
            BaseModel.__init__(self, config=chosen.config, **own)
        except ValidationError as error:
            raise _own_error(error) from None
        self._reranker = chosen
        self._is_lent = reranker is not None

    @classmethod
    def own_parameters(cls) -> Collection[str]:
        """The fields of the class, without `config`."""
        return cls.model_fields.keys() - {"config"}

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Give copies of the documents, best first: sorted, then those below `min_score` dropped, then cut.

        Instruction, `top_n` and `min_score` of one call come from the calling run's configuration, as
        `rerank_instruction`, `rerank_top_n` and `rerank_min_score`.

        Args:
            documents: What was retrieved; left as it is.
            query: What is searched for; not blank.
            callbacks: The calling run's; the call appears as a child run of type `chain`.

        Raises:
            InputError: The input cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        options = _options(callbacks)
        run = self._run(documents, query, options)
        return traced(lambda: self._rank(documents, query, options), run, callbacks).documents

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Give documents as `compress_documents` does, without blocking the event loop."""
        options = _options(callbacks)
        run = self._run(documents, query, options)
        ranked = await atraced(lambda: self._arank(documents, query, options), run, callbacks)
        return ranked.documents

    def rerank(
        self,
        documents: Iterable[Candidate],
        query: str,
        *,
        top_n: int | None = -1,
        instruction: str | None = None,
    ) -> list[dict[str, Any]]:
        """Rank texts and tell where the best ones stand, as `{"index": ..., "relevance_score": ...}`, best first.

        Args:
            documents: Strings, documents, or mappings with `text` or `page_content`.
            query: What is searched for; not blank.
            top_n: How many to give at most, None for all, -1 for the configuration's.
            instruction: What relevance means here; None for the configuration's.

        Raises:
            InputError: The input cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        texts = candidate_texts(documents, self.metadata_fields)
        return _indices(self._reranker.rank(query, texts, **_explicit(top_n, instruction)))

    async def arerank(
        self,
        documents: Iterable[Candidate],
        query: str,
        *,
        top_n: int | None = -1,
        instruction: str | None = None,
    ) -> list[dict[str, Any]]:
        """Rank texts as `rerank` does, without blocking the event loop."""
        texts = candidate_texts(documents, self.metadata_fields)
        return _indices(await self._reranker.arank(query, texts, **_explicit(top_n, instruction)))

    def as_runnable(self) -> Runnable[Mapping[str, Any], list[Document]]:
        """Give a runnable for chains: `{"query": ..., "documents": ...}` in, documents out.

        Its options can be set for each call: `invoke(..., {"configurable": {"rerank_top_n": 3}})`; so can
        `rerank_instruction` and `rerank_min_score`.
        """
        from langchain_qwen_rerank.runnable import configurable_runnable

        return configurable_runnable(self)

    def replace(self, **changes: Any) -> Self:
        """Give a checked copy with some settings changed, over the same engine where it can be.

        Raises:
            ConfigurationError: A setting is unknown or wrong, or belongs to a reranker that was passed in.
        """
        own, settings = self.split_parameters(changes)
        own = {name: getattr(self, name) for name in self._own_fields_set()} | own
        if self._is_lent:
            return type(self)(reranker=self._reranker, **settings, **own)
        return type(self)(config=self.config.replace(**settings), **own)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002 (pydantic's)
        """Copy as pydantic does, but check what is changed; settings are frozen, so no copy needs to be deep."""
        return self.replace(**(update or {}))

    # One call.

    def _rank(self, documents: Sequence[Document], query: str, options: Mapping[str, Any]) -> Ranked:
        candidates = Candidates.of(documents, self.metadata_fields)
        result = self._reranker.rank(query, candidates.texts, **options)
        return Ranked(candidates.ranked(result), result)

    async def _arank(self, documents: Sequence[Document], query: str, options: Mapping[str, Any]) -> Ranked:
        candidates = Candidates.of(documents, self.metadata_fields)
        result = await self._reranker.arank(query, candidates.texts, **options)
        return Ranked(candidates.ranked(result), result)

    def _run(self, documents: Sequence[Document], query: str, options: Mapping[str, Any]) -> Run:
        known = {name: getattr(self.config, name) for name in ("backend", "model", *OPTIONS.values())}
        told = {
            f"rerank_{name}": value for name, value in (known | dict(options)).items() if value is not None
        }
        return Run(type(self).__name__, {"query": query, "documents": documents}, told)

    # Copies, written forms and comparison.

    def _own_fields_set(self) -> list[str]:
        return [name for name in type(self).model_fields if name in self.model_fields_set - {"config"}]

    @model_serializer(mode="plain")
    def _explicit_settings(self) -> dict[str, Any]:
        """What was set explicitly, as the keywords that give an equal compressor; a key is masked."""
        own = {name: getattr(self, name) for name in self._own_fields_set()}
        return explicit_settings(self.config) | own

    def __reduce__(self) -> tuple[Any, ...]:
        self.refuse_if_lent("pickled")
        return _restored, (type(self), self.model_dump())

    def __copy__(self) -> Self:
        return self.replace()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.replace()

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        own = [(name, getattr(self, name)) for name in self._own_fields_set()]
        return [*self.config.__repr_args__(), *own]

    def __str__(self) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QwenRerank) or type(self) is not type(other):
            return NotImplemented
        same_source = self._reranker is other._reranker or not (self._is_lent or other._is_lent)
        names = type(self).model_fields
        return same_source and all(getattr(self, name) == getattr(other, name) for name in names)

    def __hash__(self) -> int:
        return hash((type(self), self.config.model, self.metadata_fields))


def _restored(kind: type[QwenRerank], settings: dict[str, Any]) -> QwenRerank:
    return kind(**settings)


def _options(callbacks: Callbacks) -> dict[str, Any]:
    """The options of one call that the calling run's configuration sets."""
    held = run_options(callbacks)
    return {option: held[name] for name, option in OPTIONS.items() if name in held}


def _explicit(top_n: int | None, instruction: str | None) -> dict[str, Any]:
    return {"instruction": instruction} if top_n == -1 else {"instruction": instruction, "top_n": top_n}


def _indices(result: RerankResult) -> list[dict[str, Any]]:
    return [{"index": one.index, "relevance_score": one.relevance_score} for one in result.results]


def _own_error(error: ValidationError) -> ConfigurationError:
    """Tell pydantic's first finding about a compressor's own field as the base package tells its own."""
    detail = error.errors(include_url=False)[0]
    name, value = detail["loc"][0], detail["input"]
    allowed = detail["msg"].removeprefix("Input should be ")
    return ConfigurationError(f"{name} is not valid: {value!r}; allowed: {allowed}")
