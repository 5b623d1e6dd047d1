"""The compressor as a runnable, for chains in LangChain's expression language. Knows chains, not scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField, Runnable, RunnableConfig, RunnableSerializable
from pydantic import ConfigDict
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on only

from langchain_qwen_rerank.compressor import OPTIONS, QwenRerank
from qwen_rerank_plugins import InputTypeError

__all__ = ["QwenRerankRunnable", "RerankInput", "configurable_runnable"]

_NAMES = {
    "instruction": "What relevance means here; None for the family's default.",
    "top_n": "Documents that are given at most; None for all.",
    "min_score": "Lowest relevance_score that is given; None for no threshold.",
}


class RerankInput(TypedDict):
    """What the runnable takes.

    Attributes:
        query: What is searched for; not blank.
        documents: What was retrieved.
    """

    query: str
    documents: Sequence[Document]


class QwenRerankRunnable(RunnableSerializable[Mapping[str, Any], list[Document]]):
    """Rerank as a step of a chain: `{"query": ..., "documents": ...}` in, documents out, best first.

    Attributes:
        compressor: What ranks.
        instruction: What relevance means here; None for the family's default.
        top_n: How many to give at most; None for all.
        min_score: Lowest relevance_score to be given; None for no threshold.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    compressor: QwenRerank
    instruction: str | None
    top_n: int | None
    min_score: float | None

    @property
    def InputType(self) -> Any:  # noqa: N802 (the base class names it)
        """What goes in, for schemas; any mapping of that form will do."""
        return RerankInput

    @classmethod
    def of(cls, compressor: QwenRerank) -> Self:
        """Create a runnable with a compressor's own options."""
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
        return self._call_with_config(self._ranked, input, config, **kwargs)

    async def ainvoke(
        self,
        input: Mapping[str, Any],  # noqa: A002 (the base class names it)
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Rank as `invoke` does, without blocking the event loop."""
        return await self._acall_with_config(self._aranked, input, config, **kwargs)

    def _ranked(self, given: Mapping[str, Any]) -> list[Document]:
        documents, query = _parts(given)
        return self.compressor._rank(documents, query, self._options()).documents  # noqa: SLF001 (its other face)

    async def _aranked(self, given: Mapping[str, Any]) -> list[Document]:
        documents, query = _parts(given)
        ranked = await self.compressor._arank(documents, query, self._options())  # noqa: SLF001 (its other face)
        return ranked.documents

    def _options(self) -> dict[str, Any]:
        return {option: getattr(self, option) for option in OPTIONS.values()}


def configurable_runnable(compressor: QwenRerank) -> Runnable[Mapping[str, Any], list[Document]]:
    """Give a compressor's runnable, whose options a run's configuration may set."""
    fields = {
        option: ConfigurableField(id=name, name=name, description=_NAMES[option])
        for name, option in OPTIONS.items()
    }
    return QwenRerankRunnable.of(compressor).configurable_fields(**fields)


def _parts(given: object) -> tuple[Sequence[Document], str]:
    if not isinstance(given, Mapping) or not {"query", "documents"} <= given.keys():
        shown = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise InputTypeError(
            f"input has the wrong form: {shown!r}; allowed: a mapping of 'query' and 'documents'"
        )
    return given["documents"], given["query"]
