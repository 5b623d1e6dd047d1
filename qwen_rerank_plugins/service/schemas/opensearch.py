"""The dialect of OpenSearch clusters with the recipe `rich`: an object of the search request, and the hits' fields.

`search` is an object that the cluster copies from the search request, with the query in `query_text` or `query` and
optionally an `instruction`. It is an object because the cluster writes a string that looks like JSON, such as
`[draft]`, without quotes, and because a key that a search omits is then simply absent. Documents are objects with the
hit's fields; `rank_fields` selects what is ranked, and dotted names select nested fields. The answer only contains
scores in input order, which the cluster assigns by position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas import answers, fields
from qwen_rerank_plugins.service.schemas.documents import texts_of
from qwen_rerank_plugins.service.schemas.request import Outcome, RankingRequest

__all__ = ["ANSWER_SCHEMA", "NAME", "REQUEST_SCHEMA", "read"]

NAME: Final = "opensearch"

_INSTRUCTION: Final = {**fields.TEXT, "description": "Definition of relevance for this search."}
_SEARCH: Final[dict[str, Any]] = {
    "description": "Part of the search request, with the query in `query_text` or `query`.",
    "type": ["object", "null"],
    "properties": {"instruction": _INSTRUCTION},
    "anyOf": [
        {"properties": {"query_text": fields.QUERY}, "required": ["query_text"]},
        {
            "properties": {"query_text": {"type": "null"}, "query": fields.QUERY},
            "required": ["query"],
        },
    ],
}

REQUEST_SCHEMA: Final = fields.object_schema(
    {
        "search": _SEARCH,
        "documents": fields.DOCUMENTS,
        "rank_fields": {
            **fields.NAMES,
            "description": "Fields of objects to rank, in this order; `a.b` is `b` in `a`.",
        },
        "model": fields.TEXT,
        "instruction": {
            **fields.TEXT,
            "description": "Definition of relevance if `search` has none; null or blank for the default.",
        },
        **fields.RAW_FIELDS,
    },
    required=["search", "documents"],
    description="OpenSearch, recipe `rich`",
)

ANSWER_SCHEMA: Final = answers.closed_schema(
    {
        "model": {"type": "string"},
        "scores": answers.SCORES_SCHEMA,
        "usage": answers.USAGE_SCHEMA,
        "status": answers.STATUS_SCHEMA,
    },
    optional=["status"],
)


@dataclass(frozen=True, slots=True)
class _Request:
    raw: bool

    def render(self, outcome: Outcome) -> dict[str, Any]:
        (result,) = outcome.results
        return {
            "model": outcome.model,
            "scores": answers.scores(result, raw=self.raw),
            "usage": answers.usage([result]),
            **answers.status([result]),
        }


def read(body: Mapping[str, Any]) -> RankingRequest:
    """Convert a body to a request.

    Raises:
        BodyError: A value is missing or invalid.
    """
    search = fields.read_object(body, "search")
    instruction = fields.read_text(search, "instruction", "search.instruction")
    documents = fields.read_documents(body)
    rank_fields = fields.read_names(body, "rank_fields")
    default = fields.read_text(body, "instruction")
    return RankingRequest(
        dialect=NAME,
        queries=(_query(search),),
        documents=(texts_of(documents, "documents", rank_fields),),
        render=_Request(fields.read_raw(body)).render,
        instruction=default if instruction is None else instruction,
        model=fields.read_text(body, "model"),
    )


def _query(search: Mapping[str, Any]) -> str:
    for key in ("query_text", "query"):
        if search.get(key) is not None:
            return fields.read_query(search, key, f"search.{key}")
    raise BodyError("search.query_text is missing; pass a string with at least one visible character")
