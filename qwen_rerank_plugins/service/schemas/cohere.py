"""The dialect of Cohere (v1 and v2), Jina, vLLM, Infinity and DashScope's compatible mode.

The answer is a superset that each of their clients can read. `results` is sorted and limited by `top_n`; `scores` has
one number per document in input order, because OpenSearch's `ml_inference` processor assigns a model's output to its
hits by position. `return_pairs` adds `pairs` with the details of every document.

Documents are only echoed on request, as in Cohere's and Jina's current APIs: an echo makes answers many times longer,
and OpenSearch reads an answer's chunks one by one. An object is echoed unchanged, any other document as
`{"text": ...}`, because Cohere's, vLLM's and Dify's clients read `document.text`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NotRequired, cast

from pydantic import ConfigDict, Field

from qwen_rerank_plugins.service.schemas import answers, dialect, field_types
from qwen_rerank_plugins.service.schemas.documents import echo, texts_of

__all__ = ["CohereAnswer", "CohereRequest"]

_EXAMPLE: dict[str, Any] = {
    "query": "capital of France",
    "documents": ["Berlin lies on the Spree", {"text": "Paris, capital of France", "id": 7}],
    "top_n": 1,
    "return_documents": True,
}


class CohereRequest(dialect.SingleQuery, dialect.RawScores, dialect.TokenLimits, dialect.RelevantSpans):
    """Cohere, Jina, vLLM, Infinity, DashScope compatible."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    name: ClassVar[str] = "cohere"

    return_documents: field_types.Flag = Field(
        default=None, description="Whether to echo documents; false by default."
    )
    rank_fields: field_types.Names = None
    return_pairs: field_types.Flag = Field(
        default=None, description="Whether to add `pairs` to the answer; false by default."
    )
    priority: field_types.Ignored = None

    def _texts(self) -> tuple[str, ...]:
        return texts_of(self.documents, "documents", self.rank_fields or ())

    def from_result(self, outcome: dialect.Outcome) -> CohereAnswer:
        """Return the answer."""
        (result,) = outcome.results
        scores, usage = answers.scores(result, raw=self.raw), answers.usage([result])
        entries: list[answers.Detailed[dict[str, Any]]] = [
            answers.detailed(one, scores, with_spans=self.spans is not None) for one in result.results
        ]
        if outcome.echoes(self.return_documents):
            for entry, one in zip(entries, result.results, strict=True):
                entry["document"] = echo(self.documents[one.index], one)
        answer: CohereAnswer = {
            "id": outcome.request_id,
            "object": "rerank",
            "created": outcome.created_s,
            "model": outcome.model,
            "results": entries,
            "scores": scores,
            "meta": {
                "api_version": {"version": "2", "is_experimental": False},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": usage["total_tokens"], "output_tokens": 0},
            },
            "usage": usage,
        }
        answer.update(cast(CohereAnswer, answers.status([result])))
        if outcome.warnings:
            answer["meta"]["warnings"] = list(outcome.warnings)
        if self.return_pairs:
            answer["pairs"] = answers.pairs(result)
        return answer


class CohereAnswer(answers.Status):
    """The answer to Cohere's, Jina's, vLLM's and Infinity's clients."""

    id: Annotated[str, Field(description="The request id.")]
    object: Literal["rerank"]
    created: Annotated[int, Field(description="Unix time in seconds.")]
    model: str
    results: Annotated[list[answers.Detailed[dict[str, Any]]], Field(description="Best first.")]
    scores: answers.Scores
    pairs: NotRequired[list[answers.Pair]]
    meta: Annotated[dict[str, Any], Field(description="Metadata for Cohere's clients.")]
    usage: answers.Usage
