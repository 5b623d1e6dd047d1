"""The dialect of Voyage: `top_k` or `truncation`, answered with `data`. Documents are echoed as strings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_rerank_plugins.service.schemas import answers, fields
from qwen_rerank_plugins.service.schemas.documents import texts_of
from qwen_rerank_plugins.service.schemas.request import Outcome, RankingRequest
from qwen_rerank_plugins.types import RankedDocument

__all__ = ["ANSWER_SCHEMA", "NAME", "REQUEST_SCHEMA", "read"]

NAME: Final = "voyage"

REQUEST_SCHEMA: Final = fields.object_schema(
    {
        "query": fields.QUERY,
        "documents": fields.DOCUMENTS,
        "model": fields.TEXT,
        "top_k": {**fields.COUNT, "description": "Number of results; all if absent, null or 0."},
        "return_documents": {**fields.FLAG, "description": "Whether to echo documents; false by default."},
        "truncation": {
            **fields.FLAG,
            "description": "Whether documents may be truncated; if false, a truncated document is an error. True by default.",
        },
        **fields.INSTRUCTION_FIELDS,
    },
    required=["query", "documents"],
    description="Voyage",
)

ANSWER_SCHEMA: Final = answers.closed_schema(
    {
        "object": {"const": "list"},
        "data": {
            "description": "Voyage: best first.",
            "type": "array",
            "items": answers.closed_schema(
                {
                    "index": answers.INDEX_SCHEMA,
                    "relevance_score": answers.SCORE_SCHEMA,
                    "document": {"type": "string"},
                },
                optional=["document"],
            ),
        },
        "model": {"type": "string"},
        "usage": answers.closed_schema({"total_tokens": {"type": "integer", "minimum": 0}}),
    }
)


@dataclass(frozen=True, slots=True)
class _Request:
    texts: tuple[str, ...]
    return_documents: bool

    def render(self, outcome: Outcome) -> dict[str, Any]:
        (result,) = outcome.results
        return {
            "object": "list",
            "data": [self._entry(one) for one in result.results],
            "model": outcome.model,
            "usage": {"total_tokens": answers.num_tokens([result])},
        }

    def _entry(self, ranked: RankedDocument) -> dict[str, Any]:
        entry = {"index": ranked.index, "relevance_score": answers.score_of(ranked, raw=False)}
        return {**entry, "document": self.texts[ranked.index]} if self.return_documents else entry


def read(body: Mapping[str, Any]) -> RankingRequest:
    """Convert a body to a request.

    Raises:
        BodyError: A value is missing or invalid.
    """
    query = fields.read_query(body)
    documents = fields.read_documents(body)
    texts = texts_of(documents, "documents")
    request = _Request(
        texts=texts, return_documents=fields.read_flag(body, "return_documents", default=False)
    )
    return RankingRequest(
        dialect=NAME,
        queries=(query,),
        documents=(texts,),
        render=request.render,
        top_n=fields.read_count(body, "top_k"),
        instruction=fields.read_instruction(body),
        model=fields.read_text(body, "model"),
        allow_truncation=fields.read_flag(body, "truncation", default=True),
    )
