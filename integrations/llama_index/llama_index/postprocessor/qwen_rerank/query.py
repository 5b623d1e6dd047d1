"""A query that brings its own instruction. Knows no reranker; retrievers and synthesizers see a plain `QueryBundle`."""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_index.core.schema import QueryBundle

__all__ = ["InstructedQuery"]


@dataclass
class InstructedQuery(QueryBundle):
    """A query bundle that says what relevance means for this one query.

    It passes through a query engine like any other bundle, and its instruction is not embedded. A step that
    builds a new bundle (a query transform, for example) leaves the instruction behind.

    Attributes:
        instruction: What relevance means here; None for the reranker's own.
    """

    instruction: str | None = field(default=None, kw_only=True)
