"""The dialect of Weaviate's `reranker-transformers` module: `property` (an empty string), answered with `scores`.

Weaviate assigns scores by position, so the answer has all of them, in input order.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from qwen_rerank_plugins.service.schemas import answers, dialect, field_types
from qwen_rerank_plugins.service.schemas.documents import texts_of

__all__ = ["WeaviateAnswer", "WeaviateRequest"]

_EXAMPLE: dict[str, Any] = {
    "query": "capital of France",
    "documents": ["Berlin lies on the Spree", "Paris, capital of France"],
    "property": "",
}


class WeaviateRequest(dialect.Instructed, dialect.Dialect):
    """Weaviate."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    name: ClassVar[str] = "weaviate"

    query: field_types.Query
    documents: field_types.Documents
    ignored: field_types.Text = Field(default=None, alias="property", description="Any string; ignored.")

    def to_request(self) -> dialect.RankingRequest:
        """Return what to rank."""
        texts = texts_of(self.documents, "documents")
        return dialect.RankingRequest((self.query,), (texts,), instruction=self.effective_instruction)

    def from_result(self, outcome: dialect.Outcome) -> WeaviateAnswer:
        """Return the answer."""
        (result,) = outcome.results
        return {
            "query": self.query,
            "scores": [
                {"document": one.text, "score": answers.score_of(one)}
                for one in answers.in_input_order([result])
            ],
        }


class WeaviateScore(TypedDict):
    """The score of one document."""

    document: str
    score: answers.Score


class WeaviateAnswer(TypedDict):
    """The answer to Weaviate."""

    query: str
    scores: Annotated[list[WeaviateScore], Field(description="In input order.")]
