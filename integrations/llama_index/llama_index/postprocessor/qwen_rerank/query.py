"""A query with its own instruction. Knows no reranker; for retrievers and synthesizers it is a plain `QueryBundle`."""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_index.core.schema import QueryBundle

__all__ = ["InstructedQuery"]


@dataclass
class InstructedQuery(QueryBundle):
    """A query bundle that says what relevance means for this query.

    It passes through a query engine like any other bundle, and its instruction is not embedded. A step that
    builds a new bundle, such as a query transform, drops the instruction.

    Attributes:
        instruction: What relevance means here; None for the reranker's own.
    """

    instruction: str | None = field(default=None, kw_only=True)
