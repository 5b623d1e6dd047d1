"""The dialect of DashScope's native API: `input` and `parameters`, answered with `output`.

DashScope's OpenAI-compatible mode uses the dialect of `cohere`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from qwen_rerank_plugins.service.schemas import answers, dialect, field_types
from qwen_rerank_plugins.service.schemas.documents import echo, texts_of

__all__ = ["DashScopeAnswer", "DashScopeRequest"]

_EXAMPLE: dict[str, Any] = {
    "model": "qwen3-rerank",
    "input": {
        "query": "capital of France",
        "documents": ["Berlin lies on the Spree", "Paris, capital of France"],
    },
    "parameters": {"top_n": 1, "return_documents": True},
}


class DashScopeInput(dialect.Fields):
    """What to rank."""

    query: field_types.Query
    documents: field_types.Documents


class DashScopeParameters(dialect.Instructed, dialect.ScoreLimit):
    """How to rank."""

    top_n: field_types.Count = None
    return_documents: field_types.Flag = Field(
        default=None, description="Whether to echo documents; false by default."
    )


class DashScopeRequest(dialect.Dialect):
    """DashScope."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    name: ClassVar[str] = "dashscope"

    model: field_types.Text = None
    input: DashScopeInput
    parameters: DashScopeParameters | None = None

    def to_request(self) -> dialect.RankingRequest:
        """Return what to rank."""
        parameters = self.parameters or DashScopeParameters()
        return dialect.RankingRequest(
            queries=(self.input.query,),
            documents=(texts_of(self.input.documents, "input.documents"),),
            top_n=parameters.top_n,
            instruction=parameters.effective_instruction,
            model=self.model,
            min_score=parameters.effective_min_score,
        )

    def from_result(self, outcome: dialect.Outcome) -> DashScopeAnswer:
        """Return the answer."""
        (result,) = outcome.results
        echoes = outcome.echoes(self.parameters.return_documents if self.parameters else None)
        return {
            "output": {
                "results": answers.ranked(
                    result, (lambda one: echo(self.input.documents[one.index], one)) if echoes else None
                )
            },
            "usage": {"total_tokens": result.usage.num_tokens},
            "request_id": outcome.request_id,
        }


class DashScopeOutput(TypedDict):
    """The ranked documents, best first."""

    results: list[answers.Ranked[dict[str, Any]]]


class DashScopeAnswer(TypedDict):
    """The answer to DashScope's clients."""

    output: DashScopeOutput
    usage: answers.TotalUsage
    request_id: str
