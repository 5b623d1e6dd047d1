"""The dialect of vLLM's score route, in its four spellings, answered with scores in input order.

The left side is one query for all documents, or one query per document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas import answers, fields
from qwen_rerank_plugins.service.schemas.documents import DOCUMENT_SCHEMA, json_type, text_of, texts_of
from qwen_rerank_plugins.service.schemas.request import Outcome, RankingRequest
from qwen_rerank_plugins.types import PairScore

__all__ = ["ANSWER_SCHEMA", "NAME", "REQUEST_SCHEMA", "SPELLINGS", "read"]

NAME: Final = "score"

SPELLINGS: Final = (
    ("text_1", "text_2"),
    ("data_1", "data_2"),
    ("queries", "documents"),
    ("queries", "items"),
)
"""Names of left and right side: the first left that is present applies, then the first of its rights."""

_LEFT: Final[dict[str, Any]] = {
    "description": "One query for all documents, or one per document.",
    "anyOf": [fields.QUERY, {"type": "array", "items": fields.QUERY, "minItems": 1}],
}
_RIGHT: Final[dict[str, Any]] = {
    "description": "One document or a list; with several queries, one document per query.",
    "anyOf": [{**DOCUMENT_SCHEMA, "type": ["string", "object"]}, fields.DOCUMENTS],
}
_OPTIONS: Final[dict[str, Any]] = {
    "model": fields.TEXT,
    **fields.INSTRUCTION_FIELDS,
    **fields.RAW_FIELDS,
    **fields.TRUNCATE_FIELD,
}


def _spelling(left: str, right: str, absent: tuple[str, ...]) -> dict[str, Any]:
    properties = {**{key: {"type": "null"} for key in absent}, left: _LEFT, right: _RIGHT, **_OPTIONS}
    return fields.object_schema(properties, required=[left, right], description=f"{left} and {right}")


REQUEST_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        _spelling("text_1", "text_2", ()),
        _spelling("data_1", "data_2", ("text_1",)),
        _spelling("queries", "documents", ("text_1", "data_1")),
        _spelling("queries", "items", ("text_1", "data_1", "documents")),
    ]
}

ANSWER_SCHEMA: Final = answers.closed_schema(
    {
        "id": {"description": "The request id.", "type": "string"},
        "object": {"const": "list"},
        "created": {"description": "Unix time in seconds.", "type": "integer"},
        "model": {"type": "string"},
        "data": {
            "description": "In input order.",
            "type": "array",
            "items": answers.closed_schema(
                {
                    "index": answers.INDEX_SCHEMA,
                    "object": {"const": "score"},
                    "score": answers.SCORE_SCHEMA,
                    **answers.DETAILS_SCHEMA,
                },
                optional=list(answers.DETAILS_SCHEMA),
            ),
        },
        "usage": answers.USAGE_SCHEMA,
        "status": answers.STATUS_SCHEMA,
    },
    optional=["status"],
)


@dataclass(frozen=True, slots=True)
class _Request:
    num_pairs: int
    raw: bool

    def render(self, outcome: Outcome) -> dict[str, Any]:
        scores: list[PairScore | None] = [one for result in outcome.results for one in result.scores]
        return {
            "id": outcome.request_id,
            "object": "list",
            "created": outcome.created_s,
            "model": outcome.model,
            "data": [
                self._entry(index, score) for index, score in enumerate(scores or [None] * self.num_pairs)
            ],
            "usage": answers.usage(outcome.results),
            **answers.status(outcome.results),
        }

    def _entry(self, index: int, score: PairScore | None) -> dict[str, Any]:
        entry: dict[str, Any] = {"index": index, "object": "score", "score": None}
        if score is None:
            return entry
        return {**entry, "score": answers.score_of(score, raw=self.raw), **answers.details(score)}


def read(body: Mapping[str, Any]) -> RankingRequest:
    """Convert a body to a request.

    Raises:
        BodyError: A value is missing or invalid, or the numbers of queries and documents differ.
    """
    left, right = _chosen(body)
    queries = _read_queries(body, left)
    texts = _read_documents(body, right)
    if len(queries) > 1 and len(queries) != len(texts):
        raise BodyError(
            f"{right} has {len(texts)} documents for {len(queries)} of {left}; pass one query, or one per document"
        )
    return RankingRequest(
        dialect=NAME,
        queries=queries,
        documents=(texts,) if len(queries) == 1 else tuple((text,) for text in texts),
        render=_Request(len(texts), fields.read_raw(body)).render,
        instruction=fields.read_instruction(body),
        model=fields.read_text(body, "model"),
        allow_truncation=fields.read_flag(body, "truncate", default=True),
    )


def _chosen(body: Mapping[str, Any]) -> tuple[str, str]:
    left = next((left for left, _ in SPELLINGS if body.get(left) is not None), None)
    if left is None:
        raise BodyError(
            "text_1 is missing; pass text_1 and text_2, data_1 and data_2, or queries and documents or items"
        )
    rights = [right for name, right in SPELLINGS if name == left]
    return left, next((right for right in rights if body.get(right) is not None), rights[0])


def _read_queries(body: Mapping[str, Any], left: str) -> tuple[str, ...]:
    value = body.get(left)
    if not isinstance(value, list):
        return (fields.check_query(value, left),)
    queries = fields.check_list(value, left, "queries")
    return tuple(fields.check_query(one, f"{left}[{index}]") for index, one in enumerate(queries))


def _read_documents(body: Mapping[str, Any], right: str) -> tuple[str, ...]:
    value = body.get(right)
    if isinstance(value, str | dict):
        return (text_of(value, right),)
    if value is not None and not isinstance(value, list):
        raise BodyError(
            f"{right} has the wrong type: {json_type(value)}; pass a document or a list of documents"
        )
    documents = fields.check_list(value, right, "documents")
    return texts_of(documents, right)
