"""The dialect of Weaviate's `reranker-transformers` module: `property` (an empty string), answered with `scores`.

Weaviate assigns scores by position, so the answer has all of them, in input order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_rerank_plugins.service.schemas import answers, fields
from qwen_rerank_plugins.service.schemas.documents import texts_of
from qwen_rerank_plugins.service.schemas.request import Outcome, RankingRequest

__all__ = ["ANSWER_SCHEMA", "NAME", "REQUEST_SCHEMA", "read"]

NAME: Final = "weaviate"

REQUEST_SCHEMA: Final = fields.object_schema(
    {
        "query": fields.QUERY,
        "documents": fields.DOCUMENTS,
        "property": {**fields.TEXT, "description": "Any string; ignored."},
        **fields.INSTRUCTION_FIELDS,
    },
    required=["query", "documents"],
    description="Weaviate",
)

ANSWER_SCHEMA: Final = answers.closed_schema(
    {
        "query": {"type": "string"},
        "scores": {
            "description": "Weaviate: in input order.",
            "type": "array",
            "items": answers.closed_schema({"document": {"type": "string"}, "score": answers.SCORE_SCHEMA}),
        },
    }
)


@dataclass(frozen=True, slots=True)
class _Request:
    query: str
    texts: tuple[str, ...]

    def render(self, outcome: Outcome) -> dict[str, Any]:
        (result,) = outcome.results
        scores = answers.scores(result, raw=False) or [None] * len(self.texts)
        entries = zip(self.texts, scores, strict=True)
        return {
            "query": self.query,
            "scores": [{"document": text, "score": score} for text, score in entries],
        }


def read(body: Mapping[str, Any]) -> RankingRequest:
    """Convert a body to a request.

    Raises:
        BodyError: A value is missing or invalid.
    """
    fields.read_text(body, "property")
    query = fields.read_query(body)
    documents = fields.read_documents(body)
    texts = texts_of(documents, "documents")
    return RankingRequest(
        dialect=NAME,
        queries=(query,),
        documents=(texts,),
        render=_Request(query, texts).render,
        instruction=fields.read_instruction(body),
    )
