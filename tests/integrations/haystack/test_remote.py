"""The same component asks a service: over sockets of this machine, against the double of tests/remote."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.qwen_rerank import QwenReranker

from qwen_rerank_plugins import (
    ConfigurationError,
    DeadlineExceededError,
    InputError,
    RemoteConnectionError,
    RemoteStatusError,
)
from tests.integrations.haystack.documents import ids, some_documents
from tests.remote.servers import hang, serving, status

pytestmark = pytest.mark.loopback


def remote(url: str, **settings: Any) -> Any:
    return QwenReranker(backend="remote", base_url=url, **settings)


def test_a_service_is_asked_with_key_and_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "k")
    key = Secret.from_env_var("MY_KEY")
    with serving("qwen") as service, remote(service.url, api_key=key, top_k=2) as ranker:
        documents = some_documents("0.1 a", "0.9 long b", "0.5 c", scores=[3.0, 2.0, 1.0])
        found = ranker.run(query="whales", documents=documents, instruction="find songs")["documents"]
    assert ids(found) == ["d1", "d2"]
    assert (found[0].score, found[0].meta["first_stage_score"]) == (0.9, 2.0)
    assert (found[0].meta["rerank_passage"], found[0].meta["rerank_passage_span"]) == ("0.9", [0, 3])
    (seen,) = service.seen
    assert seen.headers["Authorization"] == "Bearer k"
    assert seen.body["instruction"] == "find songs"


def test_a_copy_sends_the_key_that_it_reads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("qwen") as service:
        with remote(service.url, api_key=Secret.from_env_var("MY_KEY")) as ranker:
            written = pickle.dumps(ranker)
        again = pickle.loads(written)  # noqa: S301 (our own)
        with again.replace() as without, pytest.raises(ConfigurationError, match="MY_KEY"):
            without.run(query="q", documents=some_documents("0.5"))
        monkeypatch.setenv("MY_KEY", "another")
        with again:
            again.run(query="q", documents=some_documents("0.5"))
    assert [one.headers["Authorization"] for one in service.seen] == ["Bearer another"]


@pytest.mark.parametrize("dialect", ["cohere", "jina", "vllm", "tei", "voyage"])
def test_every_dialect_ranks(dialect: str) -> None:
    with serving(dialect) as service, remote(service.url, dialect=dialect) as ranker:
        found = asyncio.run(ranker.run_async(query="q", documents=some_documents("0.1", "0.9", "0.5")))
    assert ids(found["documents"]) == ["d1", "d2", "d0"]


def test_more_documents_than_a_service_takes_are_sent_in_several_calls() -> None:
    with serving("tei") as service, remote(service.url, dialect="tei") as ranker:
        documents = some_documents(*(f"0.{n:03}1" for n in range(70)))
        assert ids(ranker.run(query="q", documents=documents, top_k=2)["documents"]) == ["d69", "d68"]
    assert len(service.seen) == 3


def test_a_busy_service_is_asked_again() -> None:
    with serving("qwen") as service, remote(service.url, retries=1) as ranker:
        service.faults.append(status(503, Retry_After="0"))
        assert ids(ranker.run(query="q", documents=some_documents("0.1", "0.9"))["documents"]) == ["d1", "d0"]
    assert len(service.seen) == 2


def test_a_service_that_says_nothing_is_left_in_time() -> None:
    documents = some_documents("0.1")
    with serving("qwen") as service:
        service.always = hang
        with remote(service.url, timeout_s=0.1, retries=0) as ranker, pytest.raises(RemoteConnectionError):
            ranker.run(query="q", documents=documents)
        with remote(service.url, deadline_s=0.1) as ranker, pytest.raises(DeadlineExceededError):
            asyncio.run(ranker.run_async(query="q", documents=documents))


def test_a_service_that_fails_raises_or_leaves_the_first_order() -> None:
    documents = some_documents("0.1", "0.9", scores=[2.0, 1.0])
    with serving("qwen") as service:
        service.always = status(401)
        with remote(service.url) as ranker, pytest.raises(RemoteStatusError):
            ranker.run(query="q", documents=documents)
        with remote(service.url, on_error="keep_order") as ranker:
            found = ranker.run(query="q", documents=documents)["documents"]
    assert [(one.id, one.score) for one in found] == [("d0", 2.0), ("d1", 1.0)]
    assert {one.meta["rerank_status"] for one in found} == {"failed"}


def test_warming_up_asks_no_service() -> None:
    """A pipeline starts while its service does."""
    with serving("qwen") as service, remote(service.url) as ranker:
        ranker.warm_up()
        assert service.seen == []


def test_an_instruction_that_a_dialect_cannot_carry_is_refused() -> None:
    with serving("cohere") as service, remote(service.url, dialect="cohere") as ranker:
        with pytest.raises(InputError, match="instruction"):
            ranker.run(query="q", documents=some_documents("0.1"), instruction="find songs")
        assert service.seen == []


def test_one_ranker_serves_several_loops_and_none() -> None:
    documents = some_documents("0.1", "0.9")
    with serving("qwen") as service, remote(service.url) as ranker:

        def once() -> list[Document]:
            found: list[Document] = asyncio.run(ranker.run_async(query="q", documents=documents))["documents"]
            return found

        blocking = ranker.run(query="q", documents=documents)["documents"]
        assert ids(once()) == ids(once()) == ids(blocking) == ["d1", "d0"]
