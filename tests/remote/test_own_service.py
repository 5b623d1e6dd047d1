"""Both sides of HTTP: the remote scorer's requests in each dialect, answered by this project's service."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from qwen_rerank_plugins import LexicalScorer, PairScore, RerankConfig, Reranker, ScoreRequest, SpanOptions
from qwen_rerank_plugins.remote import RemoteScorer
from qwen_rerank_plugins.remote.dialects import DIALECTS
from qwen_rerank_plugins.service.schemas import read_request
from qwen_rerank_plugins.service.schemas.dialect import Outcome, Route
from qwen_rerank_plugins.types import Scorer
from tests.doubles import FakeScorer
from tests.remote.servers import mocked

REQUESTS = [
    ScoreRequest(query, document)
    for query in ("blue whale", "中文 检索")
    for document in ("a red fox", "the blue whale sings", "", "中文检索系统", "the blue whale sings")
]


def remote_over(scorer: Scorer, dialect: str, instructions: list[str | None] | None = None) -> RemoteScorer:
    """A remote scorer whose service ranks with another scorer."""

    def handle(request: httpx.Request) -> tuple[int, Any]:
        dialect = read_request(Route.RERANK, json.loads(request.content))
        ranking_request = dialect.to_request()
        if instructions is not None:
            instructions.append(ranking_request.instruction)
        results = Reranker(scorer=scorer).rank_many(
            ranking_request.queries,
            ranking_request.documents,
            top_n=ranking_request.top_n,
            instruction=ranking_request.instruction,
        )
        return 200, dialect.from_result(Outcome(results, scorer.model, "r-1", 1))

    config = {"backend": "remote", "base_url": "http://service.test", "dialect": dialect}
    return RemoteScorer(RerankConfig.model_validate(config), transport=mocked(handle))


# Our service answers `documents` with an object, never with SGLang's bare list.
@pytest.mark.parametrize("dialect", sorted(set(DIALECTS) - {"sglang"}))
def test_scores_over_the_wire_are_the_scores(dialect: str) -> None:
    """Blank documents too in our own dialect; in the others they are not sent."""
    remote = remote_over(LexicalScorer(), dialect)
    scores, expected = remote.score(REQUESTS), LexicalScorer().score(REQUESTS)
    remote.close()
    blanks = {index for index in (2, 7) if dialect != "qwen"}
    assert {index for index, one in enumerate(scores) if one.blank} == blanks
    pairs = [pair for index, pair in enumerate(zip(scores, expected, strict=True)) if index not in blanks]
    for score, wanted in pairs:
        assert score.relevance_score == pytest.approx(wanted.relevance_score, rel=1e-11)
        if dialect in {"qwen", "tei"}:
            assert score.log_odds == pytest.approx(wanted.log_odds, rel=1e-11)


def test_our_own_dialect_loses_nothing() -> None:
    known = {
        "a": PairScore(0.75, 1.0986122886681098, truncated=True, num_tokens=7),
        "bcd": PairScore(0.5, 0.0, query_truncated=True, span=(1, 3), num_tokens=9),
        "c": PairScore(1.0, 44.5),
        "d": PairScore(0.25, None, warnings=("first", "second")),
    }
    remote = remote_over(FakeScorer(lambda request: known[request.document]), "qwen")
    scores = remote.score([ScoreRequest("q", document) for document in known])
    remote.close()
    assert scores[1:] == list(known.values())[1:]
    assert scores[0].log_odds == pytest.approx(1.0986122886681098, rel=1e-11)
    assert (scores[0].truncated, scores[0].num_tokens, remote.model) == (True, 7, "fake")


@pytest.mark.parametrize("dialect", ["qwen", "tei", "cohere"])
def test_relevant_spans_are_those_of_the_scorer_behind_the_service(dialect: str) -> None:
    documents = ["A red fox. The blue whale sings! Nothing.", "", "鲸鱼很大。blue whale\r\n\U0001f40b whale"]
    remote = remote_over(LexicalScorer(), dialect)
    options = SpanOptions(max_spans=None)
    found = Reranker(scorer=remote).rank("blue whale", documents, spans=options)
    remote.close()
    expected = Reranker(scorer=LexicalScorer()).rank("blue whale", documents, spans=options)
    assert [len(one.spans) for one in expected.results] == [3, 3, 0]
    for one, wanted in zip(found.results, expected.results, strict=True):
        places = [[(span.start, span.end) for span in ranked.spans] for ranked in (one, wanted)]
        assert places[0] == places[1]
        scores = [span.relevance_score for span in wanted.spans]
        assert [span.relevance_score for span in one.spans] == pytest.approx(scores, rel=1e-11)


@pytest.mark.parametrize("dialect", ["qwen", "vllm", "dashscope"])
def test_an_instruction_arrives(dialect: str) -> None:
    instructions: list[str | None] = []
    remote = remote_over(LexicalScorer(), dialect, instructions)
    remote.score([ScoreRequest("q", "d", "mine"), ScoreRequest("q", "d", None)])
    remote.close()
    assert sorted(instructions, key=str) == [None, "mine"]
