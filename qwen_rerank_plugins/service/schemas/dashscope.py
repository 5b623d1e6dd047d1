"""The dialect of DashScope's native API: `input` and `parameters`, answered with `output`.

DashScope's OpenAI-compatible mode uses the dialect of `cohere`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas import answers, fields
from qwen_rerank_plugins.service.schemas.documents import echo, texts_of
from qwen_rerank_plugins.service.schemas.request import Outcome, RankingRequest
from qwen_rerank_plugins.types import RankedDocument

__all__ = ["ANSWER_SCHEMA", "NAME", "REQUEST_SCHEMA", "read"]

NAME: Final = "dashscope"

_PARAMETERS: Final = fields.object_schema(
    {
        "top_n": {**fields.COUNT, "description": "Number of results; all if absent, null or 0."},
        "return_documents": {**fields.FLAG, "description": "Whether to echo documents; false by default."},
        **fields.INSTRUCTION_FIELDS,
    }
)

REQUEST_SCHEMA: Final = fields.object_schema(
    {
        "model": fields.TEXT,
        "input": fields.object_schema(
            {"query": fields.QUERY, "documents": fields.DOCUMENTS}, required=["query", "documents"]
        ),
        "parameters": {**_PARAMETERS, "type": ["object", "null"]},
    },
    required=["input"],
    description="DashScope",
)

ANSWER_SCHEMA: Final = answers.closed_schema(
    {
        "output": answers.closed_schema(
            {
                "results": {
                    "description": "DashScope: best first.",
                    "type": "array",
                    "items": answers.closed_schema(
                        {
                            "index": answers.INDEX_SCHEMA,
                            "relevance_score": answers.SCORE_SCHEMA,
                            "document": {"type": "object"},
                        },
                        optional=["document"],
                    ),
                }
            }
        ),
        "usage": answers.closed_schema({"total_tokens": {"type": "integer", "minimum": 0}}),
        "request_id": {"type": "string"},
    }
)


@dataclass(frozen=True, slots=True)
class _Request:
    documents: list[Any]
    texts: tuple[str, ...]
    return_documents: bool

    def render(self, outcome: Outcome) -> dict[str, Any]:
        (result,) = outcome.results
        return {
            "output": {"results": [self._entry(one) for one in result.results]},
            "usage": {"total_tokens": answers.num_tokens([result])},
            "request_id": outcome.request_id,
        }

    def _entry(self, ranked: RankedDocument) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "index": ranked.index,
            "relevance_score": answers.score_of(ranked, raw=False),
        }
        if self.return_documents:
            entry["document"] = echo(self.documents[ranked.index], self.texts[ranked.index])
        return entry


def read(body: Mapping[str, Any]) -> RankingRequest:
    """Convert a body to a request.

    Raises:
        BodyError: A value is missing or invalid.
    """
    if body.get("input") is None:
        raise BodyError("input is missing; pass an object with query and documents")
    inputs = fields.read_object(body, "input")
    parameters = fields.read_object(body, "parameters")
    query = fields.read_query(inputs, place="input.query")
    documents = fields.read_documents(inputs, place="input.documents")
    texts = texts_of(documents, "input.documents")
    return_documents = fields.read_flag(
        parameters, "return_documents", default=False, place="parameters.return_documents"
    )
    return RankingRequest(
        dialect=NAME,
        queries=(query,),
        documents=(texts,),
        render=_Request(documents, texts, return_documents).render,
        top_n=fields.read_count(parameters, "top_n", "parameters.top_n"),
        instruction=fields.read_instruction(parameters, "parameters."),
        model=fields.read_text(body, "model"),
    )
