"""The dialect of text-embeddings-inference: `texts`, answered with a bare array.

`top_n`, which the original does not define, is supported as in llama.cpp, because LiteLLM sends it. A text may also be
an object or a list of fields; the echo is the ranked text, because clients expect a string.
"""

from __future__ import annotations

from typing import Any, ClassVar, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from qwen_rerank_plugins.service.schemas import answers, dialect, field_types

__all__ = ["TEIRequest", "TEIResult"]

_EXAMPLE: dict[str, Any] = {
    "query": "capital of France",
    "texts": ["Berlin lies on the Spree", "Paris, capital of France"],
    "return_text": True,
}


class TEIRequest(dialect.SingleQuery, dialect.RawScores):
    """text-embeddings-inference."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    name: ClassVar[str] = "tei"

    documents: field_types.Documents = Field(alias="texts")
    return_text: field_types.Flag = Field(
        default=None, description="Whether to echo texts; false by default."
    )
    truncation_direction: field_types.Ignored = None

    def from_result(self, outcome: dialect.Outcome) -> list[TEIResult]:
        """Return the answer, best first."""
        (result,) = outcome.results
        raw = self.raw
        entries: list[TEIResult] = [
            {"index": one.index, "score": answers.score_of(one, raw=raw)} for one in result.results
        ]
        if outcome.echoes(self.return_text):
            for entry, one in zip(entries, result.results, strict=True):
                entry["text"] = one.text
        return entries


class TEIResult(TypedDict):
    """One ranked text."""

    index: answers.Index
    score: answers.Score
    text: NotRequired[str]
