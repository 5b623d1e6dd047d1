"""Fake clients and responses for tests of the client side, from a list of hits in memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from opensearch_qwen_rerank.client import ClientSideReranker

from qwen_rerank_plugins import PairScore, Reranker, ScoreRequest
from tests.doubles import FakeScorer


class FakeClient:
    """Answers searches from a list of hits as a cluster does, and records the requests."""

    def __init__(self, hits: Sequence[dict[str, Any]], *, error: Exception | None = None) -> None:
        self.hits = list(hits)
        self.sent: list[dict[str, Any]] = []
        self._error = error

    def search(self, *, body: Any, index: Any, params: Any, headers: Any) -> Any:
        self.sent.append({"body": body, "index": index, "params": params, "headers": headers})
        if self._error is not None:
            raise self._error
        start = body.get("from", 0)
        return response_of(self.hits[start : start + body.get("size", 10)], total=len(self.hits))


class FakeAsyncClient(FakeClient):
    """The asynchronous variant."""

    async def search(self, *, body: Any, index: Any, params: Any, headers: Any) -> Any:
        return super().search(body=body, index=index, params=params, headers=headers)


def hit(name: str, text: str | None, score: float | None = 1.0, **more: Any) -> dict[str, Any]:
    """Return a hit with its text in `body`."""
    source = {} if text is None else {"body": text}
    return {"_index": "docs", "_id": name, "_score": score, "_source": source, **more}


def hits_with_scores(scores: Sequence[float]) -> list[dict[str, Any]]:
    """Return hits whose texts are their scores for the fake scorer; the first stage's scores fall from 100."""
    return [hit(str(number), repr(score), 100.0 - number) for number, score in enumerate(scores)]


def response_of(hits: Sequence[dict[str, Any]], total: int | None = None) -> dict[str, Any]:
    """Return a search response with these hits."""
    first = hits[0]["_score"] if hits else None
    count = {"value": len(hits) if total is None else total, "relation": "eq"}
    found = {"total": count, "max_score": first, "hits": copy.deepcopy(list(hits))}
    return {
        "took": 3,
        "timed_out": False,
        "_shards": {"total": 1, "successful": 1, "failed": 0},
        "hits": found,
    }


def ids(response: dict[str, Any]) -> list[str]:
    """Return the ids of a response's hits."""
    return [one["_id"] for one in response["hits"]["hits"]]


def scores(response: dict[str, Any]) -> list[float | None]:
    """Return the scores of a response's hits."""
    return [one["_score"] for one in response["hits"]["hits"]]


def words_scorer(**probabilities: float) -> FakeScorer:
    """Return a scorer: the score of a text is the maximum over the given words in it, or 0."""

    def score(request: ScoreRequest) -> PairScore:
        return PairScore(
            max((value for word, value in probabilities.items() if word in request.document), default=0.0)
        )

    return FakeScorer(score)


def client_side(
    client: Any = None,
    scorer: FakeScorer | None = None,
    config: dict[str, Any] | None = None,
    **settings: Any,
) -> ClientSideReranker:
    """Return a reranker with a fake scorer that scores `body` unless the settings say otherwise."""
    if not {"fields", "template", "text_of"} & settings.keys():
        settings["fields"] = ["body"]
    ready = Reranker(scorer=scorer or FakeScorer(), **(config or {}))
    return ClientSideReranker(client, reranker=ready, **settings)
