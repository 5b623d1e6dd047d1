"""The dialect of Voyage: `top_k` or `truncation`, answered with `data`. Documents are echoed as strings."""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from qwen_rerank_plugins.service.schemas import answers, dialect, field_types

__all__ = ["VoyageAnswer", "VoyageRequest"]

_EXAMPLE: dict[str, Any] = {
    "query": "capital of France",
    "documents": ["Berlin lies on the Spree", "Paris, capital of France"],
    "top_k": 1,
    "return_documents": True,
    "truncation": True,
}


class VoyageRequest(dialect.SingleQuery):
    """Voyage."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    name: ClassVar[str] = "voyage"

    top_n: field_types.Count = Field(default=None, alias="top_k")
    truncate: field_types.Flag = Field(default=None, alias="truncation", description=field_types.TRUNCATE)
    return_documents: field_types.Flag = Field(
        default=None, description="Whether to echo documents; false by default."
    )

    def from_result(self, outcome: dialect.Outcome) -> VoyageAnswer:
        """Return the answer."""
        (result,) = outcome.results
        return {
            "object": "list",
            "data": answers.ranked(
                result, attrgetter("text") if outcome.echoes(self.return_documents) else None
            ),
            "model": outcome.model,
            "usage": {"total_tokens": result.usage.num_tokens},
        }


class VoyageAnswer(TypedDict):
    """The answer to Voyage's clients."""

    object: Literal["list"]
    data: Annotated[list[answers.Ranked[str]], Field(description="Best first.")]
    model: str
    usage: answers.TotalUsage
