"""The compressor as a runnable, for chains in LangChain's expression language. Knows chains, and nothing of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField, Runnable, RunnableConfig, RunnableSerializable
from pydantic import ConfigDict
from typing_extensions import TypedDict  # pydantic accepts typing's since Python 3.12

from langchain_qwen_rerank._documents import arank_documents, rank_documents
from qwen_rerank_plugins import InputTypeError
from qwen_rerank_plugins.adapters import OwnsRerankerModel

__all__ = ["OPTIONS", "QwenRerankRunnable", "RerankInput", "configurable_runnable"]

OPTIONS = {"rerank_instruction": "instruction", "rerank_top_n": "top_n", "rerank_min_score": "min_score"}
"""Name in a run's configuration → option of one call."""

_DESCRIPTIONS = {
    "instruction": "What relevance means; None for the default of the prompt family.",
    "top_n": "Maximum number of results; None for all.",
    "min_score": "Minimum relevance_score of a result; None for no threshold.",
}


class RerankInput(TypedDict):
    """The runnable's input.

    Attributes:
        query: The search query; not blank.
        documents: The retrieved documents.
    """

    query: str
    documents: Sequence[Document]


class QwenRerankRunnable(RunnableSerializable[Mapping[str, Any], list[Document]]):
    """Rerank as a step of a chain: `{"query": ..., "documents": ...}` in, documents out, best first.

    Attributes:
        compressor: The compressor that ranks.
        instruction: What relevance means; None for the default of the prompt family.
        top_n: Maximum number of results; None for all.
        min_score: Minimum relevance_score of a result; None for no threshold.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    compressor: OwnsRerankerModel
    instruction: str | None
    top_n: int | None
    min_score: float | None

    @property
    def InputType(self) -> Any:  # noqa: N802 (the base class names it)
        """The input's type for schemas; any mapping of this form is accepted."""
        return RerankInput

    @classmethod
    def of(cls, compressor: OwnsRerankerModel) -> Self:
        """Create a runnable with the compressor's options."""
        options = {option: getattr(compressor.config, option) for option in OPTIONS.values()}
        return cls(compressor=compressor, name=type(compressor).__name__, **options)

    def invoke(
        self,
        input: Mapping[str, Any],  # noqa: A002 (the base class names it)
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Rank the documents of one input.

        Raises:
            InputError: The input cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        return self._call_with_config(self._rank, input, config, **kwargs)

    async def ainvoke(
        self,
        input: Mapping[str, Any],  # noqa: A002 (the base class names it)
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Rank as `invoke` does, without blocking the event loop."""
        return await self._acall_with_config(self._arank, input, config, **kwargs)

    def _rank(self, given: Mapping[str, Any]) -> list[Document]:
        documents, query = _check_input(given)
        return rank_documents(self.compressor, documents, query, self._options()).documents

    async def _arank(self, given: Mapping[str, Any]) -> list[Document]:
        documents, query = _check_input(given)
        return (await arank_documents(self.compressor, documents, query, self._options())).documents

    def _options(self) -> dict[str, Any]:
        return {option: getattr(self, option) for option in OPTIONS.values()}


def configurable_runnable(compressor: OwnsRerankerModel) -> Runnable[Mapping[str, Any], list[Document]]:
    """Return the compressor's runnable; a run's configuration can set its options."""
    fields = {
        option: ConfigurableField(id=name, name=name, description=_DESCRIPTIONS[option])
        for name, option in OPTIONS.items()
    }
    return QwenRerankRunnable.of(compressor).configurable_fields(**fields)


def _check_input(given: object) -> tuple[Sequence[Document], str]:
    if not isinstance(given, Mapping) or not {"query", "documents"} <= given.keys():
        found = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise InputTypeError(
            f"input has the wrong form: {found!r}. Pass a mapping with 'query' and 'documents'."
        )
    return given["documents"], given["query"]
