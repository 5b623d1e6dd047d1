"""The compressor over a service on this machine, as a stack without a GPU uses it."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator

import pytest
from langchain_core.documents import Document
from langchain_qwen_rerank import QwenRerank, init_reranker

from qwen_rerank_plugins import RemoteError
from tests.remote.servers import Service, serving

pytestmark = pytest.mark.loopback

GIVEN = [Document("0.1 a", id="a"), Document("0.9 b", id="b"), Document("0.5 c", id="c")]


@pytest.fixture
def service() -> Iterator[Service]:
    with serving("qwen") as running:
        yield running


def _ids(documents: list[Document]) -> list[str | None]:
    return [one.id for one in documents]


def test_a_service_ranks_blocking_and_asynchronously(service: Service) -> None:
    with init_reranker(f"remote:{service.url}", top_n=2, instruction="mine") as rerank:
        assert _ids(rerank.compress_documents(GIVEN, "q")) == ["b", "c"]
        for _ in range(2):  # event loops come and go
            assert _ids(asyncio.run(rerank.acompress_documents(GIVEN, "q"))) == ["b", "c"]
    assert [one.body["instruction"] for one in service.seen] == ["mine"] * 3


def test_blocking_and_asynchronous_calls_mix_in_one_loop(service: Service) -> None:
    async def both() -> list[list[str | None]]:
        with init_reranker(f"remote:{service.url}") as rerank:
            awaited = await rerank.acompress_documents(GIVEN, "q")
            return [_ids(awaited), _ids(rerank.compress_documents(GIVEN, "q"))]

    assert asyncio.run(both()) == [["b", "c", "a"]] * 2


def test_a_pickled_compressor_sends_the_key_that_it_reads_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = QwenRerank(backend="remote", base_url=service.url, api_key="sesame")
    pickled = pickle.dumps(original)
    monkeypatch.setenv("QWEN_RERANK_API_KEY", "another")
    for rerank in (original, copy.deepcopy(original), pickle.loads(pickled)):  # noqa: S301 (written above)
        with rerank:
            rerank.compress_documents(GIVEN, "q")
    sent = [one.headers.get("Authorization", one.headers.get("authorization")) for one in service.seen]
    assert sent == ["Bearer sesame", "Bearer sesame", "Bearer another"]


def test_a_service_that_fails_raises_or_keeps_the_first_order(service: Service) -> None:
    service.always = lambda handler: handler.reply(503, {"detail": "busy"})
    with init_reranker(f"remote:{service.url}", retries=0) as rerank, pytest.raises(RemoteError):
        rerank.compress_documents(GIVEN, "q")
    with init_reranker(f"remote:{service.url}", retries=0, on_error="keep_order", top_n=2) as rerank:
        found = rerank.compress_documents(GIVEN, "q")
    assert _ids(found) == ["a", "b"]
    assert {one.metadata["rerank_status"] for one in found} == {"failed"}


def test_long_lists_are_sent_in_calls_of_the_size_that_is_set(service: Service) -> None:
    with init_reranker(f"remote:{service.url}", max_batch_documents=2, max_concurrency=1) as rerank:
        assert _ids(rerank.compress_documents(GIVEN, "q")) == ["b", "c", "a"]
    assert [len(one.body["documents"]) for one in service.seen] == [2, 1]


def test_what_a_call_costs_in_time_and_attempts_is_the_configurations(service: Service) -> None:
    service.faults.append(lambda handler: handler.reply(503, {"detail": "busy"}))
    with init_reranker(f"remote:{service.url}", retries=1, timeout_s=10.0) as rerank:
        assert _ids(rerank.compress_documents(GIVEN, "q")) == ["b", "c", "a"]
    assert len(service.seen) == 2
    service.delay_s = 5.0
    with init_reranker(f"remote:{service.url}", timeout_s=0.2) as rerank, pytest.raises(RemoteError):
        rerank.compress_documents(GIVEN, "other")
