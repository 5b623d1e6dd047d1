"""Blank documents: a foreign service may refuse a whole request for one, so they are not sent, and are ranked last."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from qwen_rerank_plugins import PairScore, RerankConfig, Reranker, ScoreRequest
from qwen_rerank_plugins.remote import RemoteScorer
from qwen_rerank_plugins.remote.dialects import DIALECTS
from qwen_rerank_plugins.types import Document
from tests.remote.servers import answer, mocked, serving

BLANK = PairScore(0.0, blank=True)
FOREIGN = sorted(name for name, dialect in DIALECTS.items() if not dialect.takes_blanks)


def scores_of(
    dialect: str, documents: list[str], **settings: Any
) -> tuple[list[PairScore], list[httpx.Request]]:
    """The scores, and the requests that were sent to a service that refuses blank documents."""
    sent: list[httpx.Request] = []

    def handle(request: httpx.Request) -> tuple[int, Any]:
        sent.append(request)
        return answer(dialect, request.url.path, json.loads(request.content))

    values = {"backend": "remote", "base_url": "http://service.test", "dialect": dialect, **settings}
    scorer = RemoteScorer(RerankConfig.model_validate(values), transport=mocked(handle))
    try:
        return scorer.score([ScoreRequest("q", document) for document in documents]), sent
    finally:
        scorer.close()


def test_only_our_own_service_takes_blanks() -> None:
    assert set(DIALECTS) - set(FOREIGN) == {"qwen"}
    scores, sent = scores_of("qwen", ["0.9 good", "", " \n"])
    assert json.loads(sent[0].content)["documents"] == ["0.9 good", "", " \n"]
    assert not any(score.blank for score in scores)


@pytest.mark.parametrize("dialect", FOREIGN)
@pytest.mark.parametrize("template", ["server", "client"])
def test_blanks_are_not_sent_and_the_others_get_their_own_scores(dialect: str, template: str) -> None:
    if DIALECTS[dialect].has_template and template == "client":
        template = "server"
    documents = ["", "0.3 a", " ", "0.8 b", "\n\t", "0.6 c"]
    scores, sent = scores_of(dialect, documents, template=template, max_batch_documents=2)
    assert [scores[index] for index in (0, 2, 4)] == [BLANK] * 3
    assert [scores[index].relevance_score for index in (1, 3, 5)] == pytest.approx([0.3, 0.8, 0.6])
    assert len(sent) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\u3000",
        "\xa0",
        "\u200b",
        "\ufeff",
        "\u200d\u2060",
        "\u2028\u2029",
        "\x00",
        "\xad",
        "\r\n\t\x0b\x0c\x1f\x85",
    ],
)
def test_what_nobody_can_see_is_blank(text: str) -> None:
    assert scores_of("jina", [text, "0.5"])[0] == [BLANK, PairScore(0.5)]


@pytest.mark.parametrize("text", [".", "0", " a ", "\u200b中", "\ufffd", "💧", "\u0301"])
def test_a_single_visible_character_is_sent(text: str) -> None:
    (score,), sent = scores_of("jina", [text])
    assert (score.blank, len(sent)) == (False, 1)


@pytest.mark.parametrize("documents", [[""], ["", " ", "\u3000"]])
def test_a_call_with_nothing_but_blanks_sends_nothing(documents: list[str]) -> None:
    scores, sent = scores_of("cohere", documents)
    assert (scores, sent) == ([BLANK] * len(documents), [])


@pytest.mark.loopback
@pytest.mark.parametrize("dialect", ["tei", "vllm"])
def test_blanks_are_ranked_last_in_their_own_order_even_behind_a_probability_of_zero(dialect: str) -> None:
    """With log-odds (`tei`) the other documents are still compared by log-odds, which do not saturate."""
    with serving(dialect) as service:
        settings: dict[str, Any] = {"backend": "remote", "base_url": service.url, "dialect": dialect}
        documents: list[Document] = ["", "0.000000000000000000001", " ", "0.5", {"text": "\u3000", "id": 7}]
        with Reranker(**settings) as reranker:
            result = reranker.rank("q", documents)
            later = asyncio.run(reranker.arank("q", documents, top_n=3, min_score=0.0))
    assert [one.index for one in result.results] == [3, 1, 0, 2, 4]
    assert [one.score is not None and one.score.blank for one in result.results] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert [one.index for one in later.results] == [3, 1, 0]


@pytest.mark.loopback
def test_log_odds_still_decide_beside_a_blank() -> None:
    """Both probabilities are 1.0 in double precision."""
    with serving("tei") as service:
        scores = [{"index": 0, "score": 50.0}, {"index": 1, "score": 60.0}]
        service.always = lambda handler: handler.reply(200, scores)
        with Reranker(backend="remote", base_url=service.url, dialect="tei") as reranker:
            result = reranker.rank("q", ["a", "", "b"])
    assert [one.index for one in result.results] == [2, 0, 1]
    assert result.results[0].relevance_score == result.results[1].relevance_score == 1.0


def test_the_name_of_the_model_survives_a_call_with_nothing_but_blanks() -> None:
    values: dict[str, Any] = {"backend": "remote", "base_url": "http://service.test", "dialect": "vllm"}

    def handle(request: httpx.Request) -> tuple[int, Any]:
        return answer("vllm", request.url.path, json.loads(request.content))

    scorer = RemoteScorer(RerankConfig.model_validate(values), transport=mocked(handle))
    for document in ("0.5", ""):
        scorer.score([ScoreRequest("q", document)])
        assert scorer.model == "served/model"
    scorer.close()
