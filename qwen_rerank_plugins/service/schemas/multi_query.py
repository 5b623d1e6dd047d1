"""The dialect for several queries with their own documents: `{"queries": [...], "documents": [[...], ...]}`.

The answer has one entry per query and echoes documents unchanged unless `return_documents` is false. For a single
query, `documents` may be the list itself, if no document is a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas import answers, fields
from qwen_rerank_plugins.service.schemas.documents import DOCUMENT_SCHEMA, texts_of
from qwen_rerank_plugins.service.schemas.request import Outcome, RankingRequest
from qwen_rerank_plugins.types import RankedDocument, RerankResult

__all__ = ["ANSWER_SCHEMA", "NAME", "REQUEST_SCHEMA", "read"]

NAME: Final = "multi_query"

_OPTIONS: Final[dict[str, Any]] = {
    "model": fields.TEXT,
    "top_n": {**fields.COUNT, "description": "Number of results per query; all if absent, null or 0."},
    "return_documents": {**fields.FLAG, "description": "Whether to echo documents; true by default."},
    "rank_fields": {**fields.NAMES, "description": "Fields of objects to rank, in this order."},
    **fields.INSTRUCTION_FIELDS,
    **fields.RAW_FIELDS,
    **fields.TRUNCATE_FIELD,
    "return_pairs": {**fields.FLAG, "description": "Whether to add `pairs` to each entry; false by default."},
}
_UNWRAPPED: Final[dict[str, Any]] = {
    "queries": {"maxItems": 1},
    "documents": {"items": {"type": ["string", "object"], "properties": DOCUMENT_SCHEMA["properties"]}},
}

REQUEST_SCHEMA: Final[dict[str, Any]] = {
    **fields.object_schema(
        {
            "queries": {
                "description": "The queries.",
                "type": "array",
                "items": fields.QUERY,
                "minItems": 1,
            },
            "documents": {
                "description": "One list of documents per query.",
                "type": "array",
                "minItems": 1,
            },
            **_OPTIONS,
        },
        required=["queries", "documents"],
        description="Several queries",
    ),
    "anyOf": [
        {"properties": {"documents": {"items": fields.DOCUMENTS}}},
        {"properties": _UNWRAPPED},
    ],
}

ANSWER_SCHEMA: Final = answers.closed_schema(
    {
        "model": {"type": "string"},
        "results": {
            "description": "One entry per query, in input order.",
            "type": "array",
            "items": answers.closed_schema(
                {
                    "query": {"type": "string"},
                    "results": {
                        "description": "Best first.",
                        "type": "array",
                        "items": answers.closed_schema(
                            {
                                "index": answers.INDEX_SCHEMA,
                                "rank": {"description": "From 1.", "type": "integer", "minimum": 1},
                                "document": DOCUMENT_SCHEMA,
                                "relevance_score": answers.SCORE_SCHEMA,
                                **answers.DETAILS_SCHEMA,
                            },
                            optional=["document"],
                        ),
                    },
                    "scores": answers.SCORES_SCHEMA,
                    "pairs": answers.PAIRS_SCHEMA,
                },
                optional=["pairs"],
            ),
        },
        "usage": answers.USAGE_SCHEMA,
        "status": answers.STATUS_SCHEMA,
    },
    optional=["status"],
)


@dataclass(frozen=True, slots=True)
class _Request:
    queries: list[str]
    documents: list[list[Any]]
    return_documents: bool
    return_pairs: bool
    raw: bool

    def render(self, outcome: Outcome) -> dict[str, Any]:
        lists = zip(self.queries, self.documents, outcome.results, strict=True)
        return {
            "model": outcome.model,
            "results": [self._list(*one) for one in lists],
            "usage": answers.usage(outcome.results),
            **answers.status(outcome.results),
        }

    def _list(self, query: str, documents: list[Any], result: RerankResult) -> dict[str, Any]:
        return {
            "query": query,
            "results": [
                self._entry(rank, documents, one) for rank, one in enumerate(result.results, start=1)
            ],
            "scores": answers.scores(result, raw=self.raw),
            **({"pairs": answers.pairs(result)} if self.return_pairs else {}),
        }

    def _entry(self, rank: int, documents: list[Any], ranked: RankedDocument) -> dict[str, Any]:
        return {
            "index": ranked.index,
            "rank": rank,
            **({"document": documents[ranked.index]} if self.return_documents else {}),
            "relevance_score": answers.score_of(ranked, raw=self.raw),
            **answers.details(ranked),
        }


def read(body: Mapping[str, Any]) -> RankingRequest:
    """Convert a body to a request.

    Raises:
        BodyError: A value is missing or invalid, or the numbers of lists and queries differ.
    """
    queries = fields.check_list(body.get("queries"), "queries", "queries")
    for index, query in enumerate(queries):
        fields.check_query(query, f"queries[{index}]")
    lists = _read_lists(body, len(queries))
    rank_fields = fields.read_names(body, "rank_fields")
    texts = tuple(texts_of(one, place, rank_fields) for place, one in lists)
    request = _Request(
        queries=queries,
        documents=[one for _, one in lists],
        return_documents=fields.read_flag(body, "return_documents", default=True),
        return_pairs=fields.read_flag(body, "return_pairs", default=False),
        raw=fields.read_raw(body),
    )
    return RankingRequest(
        dialect=NAME,
        queries=tuple(queries),
        documents=texts,
        render=request.render,
        top_n=fields.read_count(body, "top_n"),
        instruction=fields.read_instruction(body),
        model=fields.read_text(body, "model"),
        allow_truncation=fields.read_flag(body, "truncate", default=True),
    )


def _read_lists(body: Mapping[str, Any], num_queries: int) -> list[tuple[str, list[Any]]]:
    """Return the documents of each query, with their place in the body."""
    documents = fields.read_documents(body)
    if num_queries == 1 and not any(isinstance(one, list) for one in documents):
        return [("documents", documents)]
    places = [f"documents[{index}]" for index in range(len(documents))]
    lists = [fields.check_list(one, place, "documents") for place, one in zip(places, documents, strict=True)]
    if len(lists) != num_queries:
        raise BodyError(
            f"documents has {len(lists)} lists for {num_queries} queries; pass one list per query"
        )
    return list(zip(places, lists, strict=True))
