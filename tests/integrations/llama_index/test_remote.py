"""The same postprocessor asks a service: over sockets of this machine, against the double of tests/remote."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.schema import NodeWithScore
from llama_index.postprocessor.qwen_rerank import InstructedQuery, QwenRerank, RerankedNode
from pydantic import SecretStr

from qwen_rerank_plugins import DeadlineExceededError, InputError, RemoteConnectionError, RemoteStatusError
from tests.integrations.llama_index.nodes import ids, some_nodes
from tests.remote.servers import hang, serving, status

pytestmark = pytest.mark.loopback


def remote(url: str, **settings: Any) -> QwenRerank:
    return QwenRerank(backend="remote", base_url=url, **settings)


def test_a_service_is_asked_with_key_and_instruction() -> None:
    with serving("qwen") as service, remote(service.url, api_key=SecretStr("k"), top_n=2) as reranker:
        query = InstructedQuery("whales", instruction="find songs")
        nodes = some_nodes("0.1 a", "0.9 long b", "0.5 c", scores=[3.0, 2.0, 1.0])
        first, second = reranker.postprocess_nodes(nodes, query)
    assert ids([first, second]) == ["n1", "n2"]
    assert isinstance(first, RerankedNode)
    assert (first.score, first.first_stage_score, first.rerank_model) == (0.9, 2.0, "served/model")
    assert (first.rerank_truncated, first.rerank_passage, first.rerank_passage_span) == (True, "0.9", (0, 3))
    assert first.rerank_log_odds == pytest.approx(2.197, abs=1e-3)
    (seen,) = service.seen
    assert seen.headers["Authorization"] == "Bearer k"
    assert seen.body["instruction"] == "find songs"


@pytest.mark.parametrize("dialect", ["cohere", "jina", "vllm", "tei", "voyage"])
def test_every_dialect_ranks(dialect: str) -> None:
    with serving(dialect) as service, remote(service.url, dialect=dialect) as reranker:
        given = asyncio.run(reranker.apostprocess_nodes(some_nodes("0.1", "0.9", "0.5"), query_str="q"))
    assert ids(given) == ["n1", "n2", "n0"]


def test_more_nodes_than_a_service_takes_are_sent_in_several_calls() -> None:
    with serving("tei") as service, remote(service.url, dialect="tei") as reranker:
        nodes = some_nodes(*(f"0.{n:03}1" for n in range(70)))
        assert ids(reranker.postprocess_nodes(nodes, query_str="q"))[:2] == ["n69", "n68"]
    assert len(service.seen) == 3


def test_a_busy_service_is_asked_again() -> None:
    with serving("qwen") as service, remote(service.url, retries=1) as reranker:
        service.faults.append(status(503, Retry_After="0"))
        assert ids(reranker.postprocess_nodes(some_nodes("0.1", "0.9"), query_str="q")) == ["n1", "n0"]
    assert len(service.seen) == 2


def test_a_service_that_says_nothing_is_left_in_time() -> None:
    with serving("qwen") as service:
        service.always = hang
        with remote(service.url, timeout_s=0.1, retries=0) as reranker, pytest.raises(RemoteConnectionError):
            reranker.postprocess_nodes(some_nodes("0.1"), query_str="q")
        with remote(service.url, deadline_s=0.1) as reranker, pytest.raises(DeadlineExceededError):
            asyncio.run(reranker.apostprocess_nodes(some_nodes("0.1"), query_str="q"))


def test_a_service_that_fails_raises_or_leaves_the_first_order() -> None:
    nodes = some_nodes("0.1", "0.9", scores=[2.0, 1.0])
    with serving("qwen") as service:
        service.always = status(401)
        with remote(service.url) as reranker, pytest.raises(RemoteStatusError):
            reranker.postprocess_nodes(nodes, query_str="q")
        with remote(service.url, on_error="keep_order") as reranker:
            given = reranker.postprocess_nodes(nodes, query_str="q")
    assert [(one.node_id, one.score) for one in given] == [("n0", 2.0), ("n1", 1.0)]
    assert {one.rerank_status for one in given if isinstance(one, RerankedNode)} == {"failed"}


def test_an_instruction_that_a_dialect_cannot_carry_is_refused() -> None:
    with serving("cohere") as service, remote(service.url, dialect="cohere") as reranker:
        with pytest.raises(InputError, match="instruction"):
            reranker.rerank(some_nodes("0.1"), "q", instruction="find songs")
        assert service.seen == []


def test_one_postprocessor_serves_several_loops() -> None:
    """A client that is bound to its first loop fails on the second: https://github.com/run-llama/llama_index/issues/21150."""

    def once() -> list[NodeWithScore]:
        return asyncio.run(reranker.apostprocess_nodes(some_nodes("0.1", "0.9"), query_str="q"))

    with serving("qwen") as service, remote(service.url) as reranker:
        assert (
            ids(once())
            == ids(once())
            == ids(reranker.postprocess_nodes(some_nodes("0.1", "0.9"), query_str="q"))
        )
