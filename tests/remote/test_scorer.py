"""The scorer behind its protocol, and a reranker over it."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import threading
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_rerank_plugins import (
    ClosedError,
    ConfigurationError,
    RemoteConnectionError,
    RemoteStatusError,
    RerankConfig,
    Reranker,
    Scorer,
    ScoreRequest,
)
from qwen_rerank_plugins.remote import RemoteScorer
from qwen_rerank_plugins.scorers import build_scorer
from tests.laws.sources import run_fresh
from tests.remote import servers
from tests.remote.servers import mocked, score_of, serving

DOWN = "http://127.0.0.1:9"  # discard; nothing listens there


def config_of(base_url: str = "http://service.test", **values: Any) -> RerankConfig:
    return RerankConfig.model_validate({"backend": "remote", "base_url": base_url, **values})


def echoing(seen: list[Any] | None = None) -> httpx.MockTransport:
    """A transport that scores by the first number of a text."""

    def handle(request: httpx.Request) -> tuple[int, Any]:
        body = json.loads(request.content)
        if seen is not None:
            seen.append(body)
        return servers.answer("qwen", "/rerank", body)

    return mocked(handle)


# The protocol.


def test_it_is_a_scorer_and_the_backend_of_its_name() -> None:
    scorer = build_scorer(config_of())
    assert isinstance(scorer, Scorer)
    assert scorer.info()["url"] == "http://service.test/rerank"
    scorer.close()
    with pytest.raises(ClosedError):
        scorer.score([ScoreRequest("q", "0.5")])


def test_importing_it_loads_no_torch() -> None:
    ran = run_fresh(
        "import sys, qwen_rerank_plugins.remote\n"
        "print(*sorted({'torch', 'transformers', 'tokenizers', 'numpy', 'fastapi'} & set(sys.modules)))"
    )
    assert (ran.returncode, ran.stdout.split()) == (0, []), ran.stderr


PAIRS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 98), st.sampled_from([None, "mine"])), max_size=25
)


@given(PAIRS, st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_every_pair_gets_its_own_score_however_they_are_mixed(
    pairs: list[tuple[str, int, str | None]], max_batch_documents: int
) -> None:
    seen: list[Any] = []
    scorer = RemoteScorer(config_of(max_batch_documents=max_batch_documents), transport=echoing(seen))
    requests = [ScoreRequest(query, f"0.{number:02}", instruction) for query, number, instruction in pairs]
    scores = scorer.score(requests)
    scorer.close()
    assert [one.relevance_score for one in scores] == [score_of(request.document) for request in requests]
    asked = {(body["query"], body.get("instruction")) for body in seen}
    assert asked == {(query, instruction) for query, _, instruction in pairs}
    assert all(len(body["documents"]) <= max_batch_documents for body in seen)


def test_details_of_our_own_service_are_passed_on() -> None:
    scorer = RemoteScorer(config_of(), transport=echoing())
    short, long = scorer.score([ScoreRequest("q", "0.25 short"), ScoreRequest("q", "0.75 long one")])
    scorer.close()
    assert (short.truncated, short.span, short.num_tokens) == (False, None, 2)
    assert (long.truncated, long.span, long.num_tokens) == (True, (0, 3), 3)
    assert long.log_odds == pytest.approx(servers.logit(0.75))


def test_a_background_call_says_so_in_the_standard_header() -> None:
    """RFC 9218: `u=7` is for work in the background."""
    seen: list[str | None] = []

    def handle(request: httpx.Request) -> tuple[int, Any]:
        seen.append(request.headers.get("priority"))
        return servers.answer("qwen", "/rerank", json.loads(request.content))

    with Reranker(config_of(), scorer=RemoteScorer(config_of(), transport=mocked(handle))) as reranker:
        reranker.rank("q", ["0.1"])
        reranker.rank("q", ["0.1"], priority="background")
    assert seen == [None, "u=7"]


def test_without_pairs_nothing_is_sent() -> None:
    scorer = RemoteScorer(config_of(DOWN))
    assert scorer.score([]) == []
    assert asyncio.run(scorer.ascore([])) == []
    assert threading.active_count() == len(threading.enumerate())
    scorer.close()


def test_the_model_is_the_one_that_the_service_names() -> None:
    scorer = RemoteScorer(config_of(model="mine"), transport=echoing())
    assert scorer.model == "mine"
    scorer.score([ScoreRequest("q", "0.5")])
    assert (scorer.model, scorer.info()["model"]) == ("served/model", "served/model")
    scorer.close()


def test_an_answer_without_a_name_leaves_the_name_of_an_earlier_one() -> None:
    def handle(request: httpx.Request) -> tuple[int, Any]:
        status, value = servers.answer("qwen", "/rerank", json.loads(request.content))
        return status, value if "0.5" in request.content.decode() else {**value, "model": None}

    scorer = RemoteScorer(config_of(), transport=mocked(handle))
    for document in ("0.5", "0.6"):
        scorer.score([ScoreRequest("q", document)])
        assert scorer.model == "served/model"
    scorer.close()


def test_info_is_plain_json_without_the_key() -> None:
    scorer = RemoteScorer(config_of(api_key="s3cret", dialect="tei", template="client"))
    assert json.loads(json.dumps(scorer.info())) == {
        "model": "Qwen/Qwen3-Reranker-0.6B",
        "base_url": "http://service.test",
        "url": "http://service.test/rerank",
        "dialect": "tei",
        "template": "client",
        "max_batch_documents": 32,
        "max_concurrency": 8,
        "timeout_s": 60.0,
        "retries": 2,
    }
    scorer.close()


def test_a_key_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def refuse(request: httpx.Request) -> tuple[int, Any]:
        return 401, {"error": f"bad {request.headers['authorization']}"}

    scorer = RemoteScorer(config_of(api_key="sk-0123456789abcdef"), transport=mocked(refuse))
    with pytest.raises(RemoteStatusError) as caught:
        scorer.score([ScoreRequest("a secret query", "a secret document")])
    scorer.close()
    shown = [
        repr(scorer),
        str(caught.value),
        repr(caught.value),
        caplog.text,
        str(pickle.dumps(caught.value)),
    ]
    assert [text for text in shown if "0123456789" in text] == []
    assert [text for text in shown if "secret" in text] == []


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "\x7f"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(key: str) -> None:
    with pytest.raises(ConfigurationError, match="API key is not valid") as caught:
        RemoteScorer(config_of(api_key=key))
    assert key not in str(caught.value)


def test_the_key_is_looked_up_where_the_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "fr0m-env")
    scorer = RemoteScorer.from_config(config_of(api_key_env="SOME_KEY"))
    assert scorer._key == "fr0m-env"
    scorer.close()
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ConfigurationError, match="no API key in variable 'SOME_KEY'"):
        RemoteScorer.from_config(config_of(api_key_env="SOME_KEY"))


def test_without_an_address_there_is_no_scorer() -> None:
    with pytest.raises(ConfigurationError, match="base_url is missing"):
        RemoteScorer(RerankConfig())


# A reranker over it.


@pytest.mark.loopback
def test_a_reranker_ranks_by_what_the_service_says() -> None:
    with serving("qwen") as service, Reranker(backend="remote", base_url=service.url) as reranker:
        result = reranker.rank("q", ["0.2 a", {"text": "0.9 b", "id": 7}, "0.5 c"], top_n=2)
        assert [(one.index, one.relevance_score) for one in result.results] == [(1, 0.9), (2, 0.5)]
        assert (result.status, result.model, result.usage.num_tokens) == ("ranked", "served/model", 6)
        assert asyncio.run(reranker.ascore("q", ["0.2", "0.4"])) == [0.2, 0.4]
        assert reranker.info()["backend"] == "remote"


@pytest.mark.loopback
def test_saturated_scores_without_log_odds_keep_the_input_s_order() -> None:
    with serving("vllm") as service:
        settings: dict[str, Any] = {"backend": "remote", "base_url": service.url, "dialect": "vllm"}
        with Reranker(**settings) as reranker:
            result = reranker.rank("q", ["1.0 a", "0.5", "1.0 b", "1.0 c"])
    assert [one.index for one in result.results] == [0, 2, 3, 1]


@pytest.mark.loopback
def test_a_service_that_is_down_raises_or_leaves_the_first_order() -> None:
    settings: dict[str, Any] = {"backend": "remote", "base_url": DOWN, "retries": 0}
    with Reranker(**settings) as reranker, pytest.raises(RemoteConnectionError):
        reranker.rank("q", ["a", "b"])
    with Reranker(**settings, on_error="keep_order") as reranker:
        result = reranker.rank("q", ["a", "b", "c"], top_n=2, min_score=0.5)
        assert (result.status, [one.index for one in result.results]) == ("failed", [0, 1])
        assert [one.relevance_score for one in result.results] == [None, None]
        assert "RemoteConnectionError: cannot reach the service" in (result.error or "")
        later = asyncio.run(reranker.arank("q", ["a", "b"]))
        assert (later.status, [one.index for one in later.results]) == ("failed", [0, 1])
        with pytest.raises(RemoteConnectionError):
            reranker.score("q", ["a"])


@pytest.mark.loopback
def test_a_service_that_is_late_leaves_the_first_order_in_time() -> None:
    with serving("qwen") as service:
        service.always = servers.hang
        settings: dict[str, Any] = {"backend": "remote", "base_url": service.url, "on_error": "keep_order"}
        with Reranker(**settings, deadline_s=0.2) as reranker:
            result = reranker.rank("q", ["a", "b"])
    assert (result.status, [one.index for one in result.results]) == ("failed", [0, 1])
    assert (result.error or "").startswith("DeadlineExceededError: ")


@pytest.mark.parametrize("settings", [{"dialect": "tei", "instruction": "mine"}, {"template": "client"}])
def test_a_contradiction_is_raised_even_when_failures_are_survived(settings: dict[str, Any]) -> None:
    with (
        Reranker(backend="remote", base_url=DOWN, on_error="keep_order", **settings) as reranker,
        pytest.raises(ConfigurationError),
    ):
        reranker.rank("q", ["a"])


def test_closing_twice_is_fine_and_later_calls_say_that_it_was_closed() -> None:
    scorer = RemoteScorer(config_of(), transport=echoing())
    scorer.score([ScoreRequest("q", "0.5")])
    scorer.close()
    scorer.close()
    for requests in ([ScoreRequest("q", "0.5")], []):
        with pytest.raises(ClosedError, match="the scorer is closed"):
            scorer.score(requests)
        with pytest.raises(ClosedError, match="the scorer is closed"):
            asyncio.run(scorer.ascore(requests))
    assert repr(scorer) == "RemoteScorer('http://service.test/rerank', dialect='qwen', closed)"
