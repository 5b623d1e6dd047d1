"""The dialect of Cohere (v1 and v2), Jina, vLLM, Infinity and DashScope's compatible mode.

The answer is a superset that each of their clients can read. `results` is sorted and limited by `top_n`; `scores` has
one number per document in input order, because OpenSearch's `ml_inference` processor assigns a model's output to its
hits by position. `return_pairs` adds `pairs` with the details of every document.

Documents are only echoed on request, as in Cohere's and Jina's current APIs: an echo makes answers many times longer,
and OpenSearch reads an answer's chunks one by one. An object is echoed unchanged, any other document as
`{"text": ...}`, because Cohere's, vLLM's and Dify's clients read `document.text`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_rerank_plugins.service.schemas import answers, fields
from qwen_rerank_plugins.service.schemas.documents import echo, texts_of
from qwen_rerank_plugins.service.schemas.request import Outcome, RankingRequest
from qwen_rerank_plugins.types import RankedDocument, RerankResult

__all__ = ["ANSWER_SCHEMA", "NAME", "REQUEST_SCHEMA", "read"]

NAME: Final = "cohere"

REQUEST_SCHEMA: Final = fields.object_schema(
    {
        "query": fields.QUERY,
        "documents": fields.DOCUMENTS,
        "model": {**fields.TEXT, "description": "Any name; the answer contains that of the served model."},
        "top_n": {**fields.COUNT, "description": "Number of results; all if absent, null or 0."},
        "return_documents": {**fields.FLAG, "description": "Whether to echo documents; false by default."},
        "rank_fields": {**fields.NAMES, "description": "Fields of objects to rank, in this order."},
        **fields.INSTRUCTION_FIELDS,
        **fields.RAW_FIELDS,
        **fields.TRUNCATE_FIELD,
        "return_pairs": {
            **fields.FLAG,
            "description": "Whether to add `pairs` to the answer; false by default.",
        },
        "max_chunks_per_doc": fields.IGNORED,
        "max_tokens_per_doc": fields.IGNORED,
        "priority": fields.IGNORED,
    },
    required=["query", "documents"],
    description="Cohere, Jina, vLLM, Infinity, DashScope compatible",
)

ANSWER_SCHEMA: Final = answers.closed_schema(
    {
        "id": {"description": "The request id.", "type": "string"},
        "object": {"const": "rerank"},
        "created": {"description": "Unix time in seconds.", "type": "integer"},
        "model": {"type": "string"},
        "results": {
            "description": "Best first.",
            "type": "array",
            "items": answers.closed_schema(
                {
                    "index": answers.INDEX_SCHEMA,
                    "relevance_score": answers.SCORE_SCHEMA,
                    "document": {"type": "object"},
                    **answers.DETAILS_SCHEMA,
                },
                optional=["document"],
            ),
        },
        "scores": answers.SCORES_SCHEMA,
        "pairs": answers.PAIRS_SCHEMA,
        "meta": {"description": "Metadata for Cohere's clients.", "type": "object"},
        "usage": answers.USAGE_SCHEMA,
        "status": answers.STATUS_SCHEMA,
    },
    optional=["pairs", "status"],
)


@dataclass(frozen=True, slots=True)
class _Request:
    documents: list[Any]
    texts: tuple[str, ...]
    return_documents: bool
    return_pairs: bool
    raw: bool

    def render(self, outcome: Outcome) -> dict[str, Any]:
        (result,) = outcome.results
        return {
            "id": outcome.request_id,
            "object": "rerank",
            "created": outcome.created_s,
            "model": outcome.model,
            "results": [self._entry(one) for one in result.results],
            "scores": answers.scores(result, raw=self.raw),
            **({"pairs": answers.pairs(result)} if self.return_pairs else {}),
            "meta": _meta(result),
            "usage": answers.usage([result]),
            **answers.status([result]),
        }

    def _entry(self, ranked: RankedDocument) -> dict[str, Any]:
        entry = {
            "index": ranked.index,
            "relevance_score": answers.score_of(ranked, raw=self.raw),
            **answers.details(ranked),
        }
        if self.return_documents:
            entry["document"] = echo(self.documents[ranked.index], self.texts[ranked.index])
        return entry


def read(body: Mapping[str, Any]) -> RankingRequest:
    """Convert a body to a request.

    Raises:
        BodyError: A value is missing or invalid.
    """
    query = fields.read_query(body)
    documents = fields.read_documents(body)
    rank_fields = fields.read_names(body, "rank_fields")
    texts = texts_of(documents, "documents", rank_fields)
    request = _Request(
        documents=documents,
        texts=texts,
        return_documents=fields.read_flag(body, "return_documents", default=False),
        return_pairs=fields.read_flag(body, "return_pairs", default=False),
        raw=fields.read_raw(body),
    )
    return RankingRequest(
        dialect=NAME,
        queries=(query,),
        documents=(texts,),
        render=request.render,
        top_n=fields.read_count(body, "top_n"),
        instruction=fields.read_instruction(body),
        model=fields.read_text(body, "model"),
        allow_truncation=fields.read_flag(body, "truncate", default=True),
    )


def _meta(result: RerankResult) -> dict[str, Any]:
    return {
        "api_version": {"version": "2", "is_experimental": False},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": answers.num_tokens([result]), "output_tokens": 0},
    }
