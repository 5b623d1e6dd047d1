from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qwen_rerank_plugins.reranker as reranker_module
from qwen_rerank_plugins import (
    CheckpointNotFoundError,
    ClosedError,
    ConfigurationError,
    LexicalScorer,
    RerankConfig,
    Reranker,
)
from tests.doubles import FakeScorer


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[FakeScorer]:
    """Every reranker builds a slow fake; the list holds those that were built."""
    scorers: list[FakeScorer] = []

    def build(config: RerankConfig, *, shared: bool = False) -> FakeScorer:
        time.sleep(0.05)
        scorers.append(FakeScorer())
        return scorers[-1]

    monkeypatch.setattr(reranker_module, "build_scorer", build)
    return scorers


def test_nothing_is_built_before_it_is_needed(built: list[FakeScorer]) -> None:
    reranker = Reranker()
    assert (reranker.model, built) == ("Qwen/Qwen3-Reranker-0.6B", [])
    assert reranker.rank("query", []).model == "Qwen/Qwen3-Reranker-0.6B"
    assert built == []
    assert reranker.score("query", ["0.1"]) == [0.1]
    assert (reranker.model, len(built)) == ("fake", 1)


def test_many_threads_build_one_scorer(built: list[FakeScorer]) -> None:
    reranker = Reranker()
    start = threading.Barrier(8)
    scores: list[list[float]] = []

    def ask() -> None:
        start.wait()
        scores.append(reranker.score("query", ["0.25"]))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores == [[0.25]] * 8
    assert len(built) == 1


def test_neither_building_nor_scoring_blocks_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(config: RerankConfig, *, shared: bool = False) -> FakeScorer:
        time.sleep(0.3)
        return FakeScorer(delay_s=0.3)

    async def longest_pause() -> float:
        ranking = asyncio.create_task(Reranker().arank("query", ["0.1"]))
        longest, last = 0.0, time.monotonic()
        while not ranking.done():
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        await ranking
        return longest

    monkeypatch.setattr(reranker_module, "build_scorer", build)
    assert asyncio.run(longest_pause()) < 0.2


def test_a_scorer_that_could_not_be_built_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[FakeScorer | None] = [None, FakeScorer()]

    def build(config: RerankConfig, *, shared: bool = False) -> FakeScorer:
        scorer = attempts.pop(0)
        if scorer is None:
            raise CheckpointNotFoundError("not yet")
        return scorer

    monkeypatch.setattr(reranker_module, "build_scorer", build)
    reranker = Reranker(on_error="keep_order")
    assert reranker.rank("query", ["0.1"]).status == "failed"
    assert reranker.rank("query", ["0.1"]).status == "ranked"


def test_a_shared_reranker_asks_for_a_shared_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def build(config: RerankConfig, *, shared: bool = False) -> FakeScorer:
        asked.append(shared)
        return FakeScorer()

    monkeypatch.setattr(reranker_module, "build_scorer", build)
    Reranker().score("query", ["0.1"])
    shared = Reranker.shared(RerankConfig(top_n=1), min_score=0.2)
    shared.score("query", ["0.1"])
    assert asked == [False, True]
    assert (shared.config.top_n, shared.config.min_score) == (1, 0.2)


def test_closing_releases_the_scorer_and_refuses_later_calls(built: list[FakeScorer]) -> None:
    with Reranker() as reranker:
        reranker.score("query", ["0.1"])
    reranker.close()
    assert built[0].closed == 1
    for call in (lambda: reranker.rank("q", ["a"]), lambda: reranker.rank("q", []), reranker.info):
        with pytest.raises(ClosedError):
            call()


def test_closing_works_asynchronously_and_before_the_first_use(built: list[FakeScorer]) -> None:
    async def use() -> Reranker:
        async with Reranker() as reranker:
            return reranker

    reranker = asyncio.run(use())
    with pytest.raises(ClosedError):
        asyncio.run(reranker.arank("query", ["0.1"]))
    assert built == []


def test_a_scorer_that_was_passed_in_is_left_open() -> None:
    scorer = FakeScorer()
    with Reranker(scorer=scorer) as reranker:
        assert reranker.score("query", ["0.1"]) == [0.1]
    assert scorer.closed == 0


# Configuration.


def test_keywords_are_settings_over_those_of_the_configuration() -> None:
    base = RerankConfig(model="demo", top_n=3)
    assert Reranker(base, top_n=5).config == RerankConfig(model="demo", top_n=5)
    assert base.top_n == 3
    with pytest.raises(ConfigurationError, match="nearest known one is 'model'"):
        Reranker(modle="demo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": "demo"}, "config has the wrong type: 'demo'; .*a model is named by model="),
        ({"config": {"model": "demo"}}, "config has the wrong type"),
        ({"scorer": object()}, "scorer has the wrong type"),
    ],
)
def test_a_configuration_or_scorer_of_another_kind_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Reranker(**arguments)


def test_a_reranker_comes_from_a_file_or_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "qwen-rerank.yaml"
    path.write_text("backend: lexical\ntop_n: 1\n", encoding="utf-8")
    reranker = Reranker.from_config(path, min_score=0.1)
    assert (reranker.config.top_n, reranker.config.min_score) == (1, 0.1)
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "2")
    assert Reranker.from_env(backend="lexical").config.top_n == 2
    assert Reranker(backend="lexical").config.top_n is None


def test_a_representation_shows_settings_and_state_but_no_secret() -> None:
    reranker = Reranker(backend="lexical", api_key="s3cret")
    assert repr(reranker) == (
        "Reranker(RerankConfig(backend='lexical', api_key=SecretStr('**********')), not loaded)"
    )
    reranker.score("query", ["a"])
    assert repr(reranker).endswith(", loaded)")
    reranker.close()
    assert repr(reranker).endswith(", closed)")


def test_the_lexical_backend_needs_nothing_else() -> None:
    reranker = Reranker(backend="lexical")
    assert [one.index for one in reranker.rank("query", ["none of it", "the query itself"]).results] == [1, 0]
    assert reranker.info() == {"backend": "lexical", **LexicalScorer().info()}


def test_the_remote_backend_needs_nothing_else_and_asks_nobody_before_it_has_to() -> None:
    with Reranker(backend="remote", base_url="http://localhost:8501") as reranker:
        assert (reranker.info()["backend"], reranker.info()["dialect"]) == ("remote", "qwen")
        assert reranker.rank("query", []).status == "ranked"


def test_without_its_packages_the_local_backend_names_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("builtins.__import__", _without_torch(__import__))
    with pytest.raises(
        ImportError, match=r"needs 'torch': pip install 'qwen-rerank-plugins\[local\]'"
    ) as caught:
        Reranker().score("query", ["a"])
    assert isinstance(caught.value, ConfigurationError)


def _without_torch(real: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(name: str, *rest: Any, **options: Any) -> Any:
        if name == "qwen_rerank_plugins.core.local_scorer":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *rest, **options)

    return guarded
