"""The dialect of text-embeddings-inference: `texts`, answered with a bare array.

`top_n`, which the original does not define, is supported as in llama.cpp, because LiteLLM sends it. A text may also be
an object or a list of fields; the echo is the ranked text, because clients expect a string.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_rerank_plugins.service.schemas import answers, fields
from qwen_rerank_plugins.service.schemas.documents import texts_of
from qwen_rerank_plugins.service.schemas.request import Outcome, RankingRequest
from qwen_rerank_plugins.types import RankedDocument

__all__ = ["ANSWER_SCHEMA", "NAME", "REQUEST_SCHEMA", "read"]

NAME: Final = "tei"

REQUEST_SCHEMA: Final = fields.object_schema(
    {
        "query": fields.QUERY,
        "texts": fields.DOCUMENTS,
        "model": fields.TEXT,
        "top_n": {**fields.COUNT, "description": "Number of results; all if absent, null or 0."},
        "return_text": {**fields.FLAG, "description": "Whether to echo texts; false by default."},
        **fields.INSTRUCTION_FIELDS,
        **fields.RAW_FIELDS,
        **fields.TRUNCATE_FIELD,
        "truncation_direction": fields.IGNORED,
    },
    required=["query", "texts"],
    description="text-embeddings-inference",
)

ANSWER_SCHEMA: Final[dict[str, Any]] = {
    "description": "text-embeddings-inference: best first.",
    "type": "array",
    "items": answers.closed_schema(
        {"index": answers.INDEX_SCHEMA, "score": answers.SCORE_SCHEMA, "text": {"type": "string"}},
        optional=["text"],
    ),
}


@dataclass(frozen=True, slots=True)
class _Request:
    texts: tuple[str, ...]
    return_text: bool
    raw: bool

    def render(self, outcome: Outcome) -> list[dict[str, Any]]:
        (result,) = outcome.results
        return [self._entry(one) for one in result.results]

    def _entry(self, ranked: RankedDocument) -> dict[str, Any]:
        entry = {"index": ranked.index, "score": answers.score_of(ranked, raw=self.raw)}
        return {**entry, "text": self.texts[ranked.index]} if self.return_text else entry


def read(body: Mapping[str, Any]) -> RankingRequest:
    """Convert a body to a request.

    Raises:
        BodyError: A value is missing or invalid.
    """
    query = fields.read_query(body)
    documents = fields.read_documents(body, "texts")
    texts = texts_of(documents, "texts")
    request = _Request(
        texts=texts,
        return_text=fields.read_flag(body, "return_text", default=False),
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
