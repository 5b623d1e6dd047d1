"""Answers a body as the service does, without HTTP: read, rank with known scores, render."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, settings

from qwen_rerank_plugins import PairScore, Reranker
from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas import read_request
from qwen_rerank_plugins.service.schemas.dialect import Outcome, RankingRequest, Route
from tests.doubles import FakeScorer

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For properties: what they check has nothing to do with how busy the machine is."""

QUERY = "capital of France"
FOX = "a red fox"
PARIS = "Paris is the capital."
TEXAS = "Paris, Texas"
TEXTS = [FOX, PARIS, TEXAS]

KNOWN = {
    FOX: PairScore(1 / 3, -0.6931471805599453, num_tokens=10),
    PARIS: PairScore(0.9820137900379085, 4.0, num_tokens=12, span=(0, 5)),
    TEXAS: PairScore(1.0, 40.0, num_tokens=20, truncated=True),
}
"""In this order by log-odds: Texas, Paris, the fox."""


def outcome_of(request: RankingRequest, scores: Mapping[str, PairScore] = KNOWN, **options: Any) -> Outcome:
    """Rank the documents of a request; unknown texts are irrelevant."""
    scorer = FakeScorer(lambda request: scores.get(request.document, PairScore(0.0, -50.0)))
    results = Reranker(scorer=scorer, **options).rank_many(
        request.queries,
        request.documents,
        top_n=request.top_n,
        instruction=request.instruction,
        spans=request.spans,
    )
    return Outcome(results=results, model="Qwen3-Reranker", request_id="req-1", created_s=1_700_000_000)


def answer(body: Any, *, route: Route = Route.RERANK, **options: Any) -> Any:
    """Return the JSON value of the answer."""
    dialect = read_request(route, body)
    return dialect.from_result(outcome_of(dialect.to_request(), **options))


def refusal(body: Any, *, route: Route = Route.RERANK) -> BodyError | None:
    """Return the error of a body, or None if it is accepted."""
    try:
        read_request(route, body).to_request()
    except BodyError as error:
        return error
    return None


def sizes_differ(body: Any, *, route: Route = Route.RERANK) -> bool:
    """Return whether a body is rejected only for the rule that its JSON Schema cannot express.

    Several queries need as many lists of documents, or on the score route as many documents.
    """
    error = refusal(body, route=route)
    return error is not None and str(error).endswith(
        ("pass one list per query", "pass one query, or one per document")
    )
