"""Clients and answers for tests of the client's side: what a cluster would answer, from a list in memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from opensearch_qwen_rerank.client import ClientSideReranker

from qwen_rerank_plugins import PairScore, Reranker, ScoreRequest
from tests.doubles import FakeScorer


class FakeClient:
    """Answers searches from a list of hits as a cluster does, and remembers what it was sent."""

    def __init__(self, hits: Sequence[dict[str, Any]], *, error: Exception | None = None) -> None:
        self.hits = list(hits)
        self.sent: list[dict[str, Any]] = []
        self._error = error

    def search(self, *, body: Any, index: Any, params: Any, headers: Any) -> Any:
        self.sent.append({"body": body, "index": index, "params": params, "headers": headers})
        if self._error is not None:
            raise self._error
        start = body.get("from", 0)
        return answer_of(self.hits[start : start + body.get("size", 10)], total=len(self.hits))


class FakeAsyncClient(FakeClient):
    """The same, to be awaited."""

    async def search(self, *, body: Any, index: Any, params: Any, headers: Any) -> Any:
        return super().search(body=body, index=index, params=params, headers=headers)


def hit(name: str, text: str | None, score: float | None = 1.0, **more: Any) -> dict[str, Any]:
    """A hit with its text in `body`."""
    source = {} if text is None else {"body": text}
    return {"_index": "docs", "_id": name, "_score": score, "_source": source, **more}


def hits_of_scores(scores: Sequence[float]) -> list[dict[str, Any]]:
    """Hits whose texts are what the fake scorer gives them; the first stage's scores fall from 100."""
    return [hit(str(number), repr(score), 100.0 - number) for number, score in enumerate(scores)]


def answer_of(hits: Sequence[dict[str, Any]], total: int | None = None) -> dict[str, Any]:
    """A search's answer with these hits."""
    first = hits[0]["_score"] if hits else None
    count = {"value": len(hits) if total is None else total, "relation": "eq"}
    found = {"total": count, "max_score": first, "hits": copy.deepcopy(list(hits))}
    return {
        "took": 3,
        "timed_out": False,
        "_shards": {"total": 1, "successful": 1, "failed": 0},
        "hits": found,
    }


def ids(answer: dict[str, Any]) -> list[str]:
    """The ids of an answer's hits."""
    return [one["_id"] for one in answer["hits"]["hits"]]


def scores(answer: dict[str, Any]) -> list[float | None]:
    """The scores of an answer's hits."""
    return [one["_score"] for one in answer["hits"]["hits"]]


def words_scorer(**probabilities: float) -> FakeScorer:
    """A scorer that gives a text the greatest number of the words that are in it, else 0."""

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
    """A reranker over a fake scorer; `body` is scored unless the settings say something else."""
    if not {"fields", "template", "text_of"} & settings.keys():
        settings["fields"] = ["body"]
    ready = Reranker(scorer=scorer or FakeScorer(), **(config or {}))
    return ClientSideReranker(client, reranker=ready, **settings)
