"""The dialect for several queries with their own documents: `{"queries": [...], "documents": [[...], ...]}`.

The answer has one entry per query and echoes documents unchanged unless `return_documents` is false. For a single
query, `documents` may be the list itself, if no document is a list.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, NotRequired, cast

from pydantic import ConfigDict, Field, WithJsonSchema
from typing_extensions import TypedDict

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas import answers, dialect, field_types
from qwen_rerank_plugins.service.schemas.documents import DOCUMENT_SCHEMA, texts_of
from qwen_rerank_plugins.service.schemas.validation import validated
from qwen_rerank_plugins.types import RerankResult

__all__ = ["MultiQueryAnswer", "MultiQueryRequest"]

_EXAMPLE: dict[str, Any] = {
    "queries": ["capital of France", "river in Berlin"],
    "documents": [
        ["Berlin lies on the Spree", "Paris, capital of France"],
        ["Berlin lies on the Spree", "The Seine is a river"],
    ],
    "top_n": 1,
}
_LISTS: dict[str, Any] = {"properties": {"documents": {"items": field_types.DOCUMENTS.json_schema()}}}
_ONE_LIST: dict[str, Any] = {
    "properties": {
        "queries": {"maxItems": 1},
        "documents": {"items": {**DOCUMENT_SCHEMA, "type": ["string", "object"]}},
    }
}


class MultiQueryRequest(
    dialect.Instructed,
    dialect.ScoreLimit,
    dialect.RawScores,
    dialect.TokenLimits,
    dialect.RelevantSpans,
    dialect.Dialect,
):
    """Several queries."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE], "anyOf": [_LISTS, _ONE_LIST]})
    name: ClassVar[str] = "multi_query"

    queries: field_types.Queries
    documents: Annotated[list[Any], Field(min_length=1, description="One list of documents per query.")]
    model: field_types.Text = None
    top_n: field_types.Count = None
    truncate: field_types.Flag = Field(default=None, description=field_types.TRUNCATE)
    return_documents: field_types.Flag = Field(
        default=None, description="Whether to echo documents; true by default."
    )
    rank_fields: field_types.Names = None
    return_pairs: field_types.Flag = Field(
        default=None, description="Whether to add `pairs` to each entry; false by default."
    )

    @property
    def lists(self) -> dict[str, list[Any]]:
        """The documents of each query, by their place in the body."""
        if len(self.queries) == 1 and not any(isinstance(one, list) for one in self.documents):
            return {"documents": self.documents}
        return {f"documents[{index}]": one for index, one in enumerate(self.documents)}

    def to_request(self) -> dialect.RankingRequest:
        """Return what to rank."""
        lists = {
            place: validated(field_types.DOCUMENTS.validate_python, one, place)
            for place, one in self.lists.items()
        }
        if len(lists) != len(self.queries):
            numbers = f"{len(lists)} lists for {len(self.queries)} queries"
            raise BodyError(f"documents has {numbers}; pass one list per query")
        fields = self.rank_fields or ()
        return dialect.RankingRequest(
            queries=tuple(self.queries),
            documents=tuple(texts_of(one, place, fields) for place, one in lists.items()),
            top_n=self.top_n,
            instruction=self.effective_instruction,
            model=self.model,
            allow_truncation=self.truncate is not False,
            min_score=self.effective_min_score,
            limits=self.limits,
            spans=self.spans,
        )

    def from_result(self, outcome: dialect.Outcome) -> MultiQueryAnswer:
        """Return the answer."""
        lists = zip(self.queries, self.lists.values(), outcome.results, strict=True)
        answer: MultiQueryAnswer = {
            "model": outcome.model,
            "results": [self._list(*one) for one in lists],
            "usage": answers.usage(outcome.results),
        }
        answer.update(cast(MultiQueryAnswer, answers.status(outcome.results)))
        if outcome.warnings:
            answer["warnings"] = list(outcome.warnings)
        return answer

    def _list(self, query: str, documents: list[Any], result: RerankResult) -> QueryAnswer:
        scores = answers.scores(result, raw=self.raw)
        entries: list[QueryResult] = [
            {"rank": rank, **answers.detailed(one, scores, with_spans=self.spans is not None)}
            for rank, one in enumerate(result.results, start=1)
        ]
        if self.return_documents is not False:
            for entry in entries:
                entry["document"] = documents[entry["index"]]
        answer: QueryAnswer = {"query": query, "results": entries, "scores": scores}
        if self.return_pairs:
            answer["pairs"] = answers.pairs(result)
        return answer


class QueryResult(answers.Detailed[Annotated[Any, WithJsonSchema(DOCUMENT_SCHEMA)]]):
    """One ranked document."""

    rank: Annotated[int, Field(ge=1, description="From 1.")]


class QueryAnswer(TypedDict):
    """The answer to one query."""

    query: str
    results: Annotated[list[QueryResult], Field(description="Best first.")]
    scores: answers.Scores
    pairs: NotRequired[list[answers.Pair]]


class MultiQueryAnswer(answers.Status):
    """The answer to several queries."""

    model: str
    results: Annotated[list[QueryAnswer], Field(description="One entry per query, in input order.")]
    usage: answers.Usage
    warnings: NotRequired[
        Annotated[list[str], Field(description="What was wrong with the texts of the request, if anything.")]
    ]
