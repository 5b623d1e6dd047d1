"""The dialect of OpenSearch clusters with the recipe `rich`: an object of the search request, and the hits' fields.

`search` is an object that the cluster copies from the search request, with the query in `query_text` or `query` and
optionally an `instruction`. It is an object because the cluster writes a string that looks like JSON, such as
`[draft]`, without quotes, and because a key that a search omits is then simply absent. Documents are objects with the
hit's fields; `rank_fields` selects what is ranked, and dotted names select nested fields. The answer only contains
scores in input order, which the cluster assigns by position.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from qwen_rerank_plugins.service.schemas import answers, dialect, field_types
from qwen_rerank_plugins.service.schemas.documents import texts_of
from qwen_rerank_plugins.service.schemas.validation import validated

__all__ = ["OpenSearchAnswer", "OpenSearchRequest"]

_EXAMPLE: dict[str, Any] = {
    "search": {"query_text": "capital of France"},
    "documents": [
        {"title": "Berlin", "body": "lies on the Spree"},
        {"title": None, "body": "Paris, capital of France"},
    ],
    "rank_fields": ["title", "body"],
}
_QUERY = field_types.QUERY.json_schema()
_EITHER_QUERY: Any = [
    {"properties": {"query_text": _QUERY}, "required": ["query_text"]},
    {"properties": {"query_text": {"type": "null"}, "query": _QUERY}, "required": ["query"]},
]


class Search(dialect.Fields):
    """Part of the search request, with the query in `query_text` or `query`."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _EITHER_QUERY})

    query_text: Any = None
    query: Any = None
    instruction: field_types.Text = Field(
        default=None, description="Definition of relevance for this search."
    )


class OpenSearchRequest(dialect.RawScores, dialect.Dialect):
    """OpenSearch, recipe `rich`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    name: ClassVar[str] = "opensearch"

    search: Search
    documents: field_types.Documents
    rank_fields: field_types.Names = None
    model: field_types.Text = None
    instruction: field_types.Text = Field(
        default=None,
        description="Definition of relevance if `search` has none; null or blank for the default.",
    )

    def to_request(self) -> dialect.RankingRequest:
        """Return what to rank."""
        search = self.search
        key = "query" if search.query_text is None and search.query is not None else "query_text"
        return dialect.RankingRequest(
            queries=(validated(field_types.QUERY.validate_python, getattr(search, key), f"search.{key}"),),
            documents=(texts_of(self.documents, "documents", self.rank_fields or ()),),
            instruction=self.instruction if search.instruction is None else search.instruction,
            model=self.model,
        )

    def from_result(self, outcome: dialect.Outcome) -> OpenSearchAnswer:
        """Return the answer."""
        (result,) = outcome.results
        return {
            "model": outcome.model,
            "scores": answers.scores(result, raw=self.raw),
            "usage": answers.usage([result]),
            **answers.status([result]),
        }


class OpenSearchAnswer(answers.Status):
    """The answer to OpenSearch's `ml_inference` processor."""

    model: str
    scores: answers.Scores
    usage: answers.Usage
