"""The remote backend with the real service returns the results of the model in the process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from qwen_rerank_plugins import RerankConfig, Reranker, RerankResult
from qwen_rerank_plugins.errors import RemoteConnectionError, RemoteStatusError
from qwen_rerank_plugins.types import Document
from tests.service.servers import RunningService, running_service

QUERY = "how do I descale a kettle"
DOCUMENTS: list[Document] = [
    "Night trains run to Vienna.",
    {"text": "Vinegar dissolves the limescale in a kettle.", "source": "kitchen.md"},
    "",
    "水垢可以用柠檬酸清除。 " * 200,
    "A kettle is descaled with vinegar. " * 60,
]
CONFIG = RerankConfig(model="demo", max_length=512, long_documents="chunk", chunk_tokens=96, chunk_overlap=16)

pytestmark = pytest.mark.loopback


@pytest.fixture(scope="module")
def running() -> Iterator[RunningService]:
    with running_service(CONFIG) as service:
        yield service


@pytest.fixture(scope="module")
def local() -> RerankResult:
    with Reranker(CONFIG) as reranker:
        return reranker.rank(QUERY, DOCUMENTS)


def remote(running: RunningService, **settings: Any) -> Reranker:
    return Reranker(backend="remote", base_url=running.base_url, **settings)


@pytest.mark.parametrize("dialect", ["qwen", "vllm", "tei", "cohere", "jina", "voyage"])
@pytest.mark.parametrize("max_batch_documents", [None, 2])
def test_every_dialect_gives_the_order_and_the_scores_of_the_model_itself(
    dialect: str, max_batch_documents: int | None, running: RunningService, local: RerankResult
) -> None:
    with remote(running, dialect=dialect, max_batch_documents=max_batch_documents) as reranker:
        result = reranker.rank(QUERY, DOCUMENTS)
    assert [ranked.index for ranked in result.results] == [ranked.index for ranked in local.results]
    assert [ranked.document for ranked in result.results] == [ranked.document for ranked in local.results]
    blanks = [index for index, score in enumerate(result.scores) if score.blank]
    assert blanks == ([] if dialect == "qwen" else [2]), "other services may refuse a blank: it is not sent"
    for index, (there, here) in enumerate(zip(result.scores, local.scores, strict=True)):
        expected = 0.0 if index in blanks else here.relevance_score
        assert there.relevance_score == pytest.approx(expected, rel=1e-9)


def test_our_own_service_returns_everything_that_the_model_would(
    running: RunningService, local: RerankResult
) -> None:
    with remote(running) as reranker:
        result = reranker.rank(QUERY, DOCUMENTS)
    assert any(score.span for score in local.scores)
    for there, here in zip(result.scores, local.scores, strict=True):
        assert there.log_odds == pytest.approx(here.log_odds, rel=1e-9)
        assert (there.span, there.truncated, there.query_truncated, there.num_tokens) == (
            *(here.span, here.truncated, here.query_truncated, here.num_tokens),
        )
    assert (result.model, result.usage.num_tokens) == ("demo", local.usage.num_tokens)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (20, "truncate_prompt_tokens is 20. Shorten the instruction or raise truncate_prompt_tokens"),
        (10_000, "max_length is 512. Shorten the instruction or raise max_length"),
    ],
)
def test_a_prompt_without_room_for_a_document_is_refused_by_the_name_of_the_field(
    running: RunningService, limit: int, words: str
) -> None:
    answer = running.rank(instruction="Find it. " * (1 if limit < 512 else 400), truncate_prompt_tokens=limit)
    assert answer.status_code == 422
    assert words in answer.json()["message"]


def test_an_instruction_reaches_the_model(running: RunningService, local: RerankResult) -> None:
    instruction = "Find texts about railways"
    with Reranker(CONFIG) as here, remote(running) as there:
        wanted = here.score(QUERY, DOCUMENTS, instruction=instruction)
        assert there.score(QUERY, DOCUMENTS, instruction=instruction) == pytest.approx(wanted, rel=1e-9)
    assert wanted != pytest.approx([score.relevance_score for score in local.scores], rel=1e-6)


def test_many_event_loops_and_tasks_share_a_remote_reranker(
    running: RunningService, local: RerankResult
) -> None:
    async def several(reranker: Reranker) -> list[RerankResult]:
        return await asyncio.gather(*(reranker.arank(QUERY, DOCUMENTS) for _ in range(10)))

    with remote(running) as reranker:
        results = [result for _ in range(2) for result in asyncio.run(several(reranker))]
    order = [ranked.index for ranked in local.results]
    assert [[ranked.index for ranked in result.results] for result in results] == [order] * 20


def test_a_service_that_went_away_leaves_the_first_order_or_an_error(running: RunningService) -> None:
    with running_service() as short_lived:
        base_url = short_lived.base_url
    settings: dict[str, Any] = {"backend": "remote", "base_url": base_url, "retries": 0, "timeout_s": 5.0}
    with Reranker(on_error="keep_order", top_n=2, **settings) as forgiving:
        result = forgiving.rank(QUERY, DOCUMENTS)
    assert (result.status, [ranked.index for ranked in result.results]) == ("failed", [0, 1])
    with Reranker(**settings) as strict, pytest.raises(RemoteConnectionError, match="cannot reach"):
        strict.rank(QUERY, DOCUMENTS)


def test_a_key_is_sent_and_a_missing_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEYS", "open-sesame")
    with running_service(api_keys_env="SERVICE_KEYS") as guarded:
        with remote(guarded, api_key="open-sesame") as reranker:
            assert len(reranker.score(QUERY, DOCUMENTS)) == len(DOCUMENTS)
        with remote(guarded) as keyless, pytest.raises(RemoteStatusError, match="key") as caught:
            keyless.rank(QUERY, DOCUMENTS)
    assert caught.value.status == 401
