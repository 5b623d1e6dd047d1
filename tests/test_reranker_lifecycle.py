from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import qwen_rerank_plugins.reranker as reranker_module
from qwen_rerank_plugins import (
    CheckpointFormatError,
    CheckpointNotFoundError,
    ClosedError,
    ConfigurationError,
    EngineError,
    LexicalScorer,
    MissingDependencyError,
    PairScore,
    RerankConfig,
    Reranker,
    RerankError,
    ScoreRequest,
    scorers,
)
from qwen_rerank_plugins.scorers import LoadBackoff, build_scorer
from tests.doubles import FakeScorer


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[FakeScorer]:
    """Every reranker builds a slow fake; the list contains those that were built."""
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


def test_warming_up_builds_the_scorer_and_lets_it_compute_once(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[str] = []

    class WarmScorer(FakeScorer):
        def warm_up(self) -> None:
            warmed.append(threading.current_thread().name)

    built: list[WarmScorer] = []

    def build(config: RerankConfig, *, shared: bool = False) -> FakeScorer:
        built.append(WarmScorer())
        return built[-1]

    monkeypatch.setattr(reranker_module, "build_scorer", build)
    reranker = Reranker()
    reranker.warm_up()
    asyncio.run(reranker.awarm_up())
    assert (len(built), built[0].calls) == (1, [])
    assert warmed[0] == threading.current_thread().name != warmed[1]


def test_warming_up_needs_no_method_of_the_scorer_and_nothing_of_a_disabled_reranker(
    built: list[FakeScorer],
) -> None:
    Reranker(enabled=False).warm_up()
    assert built == []
    reranker = Reranker()
    reranker.warm_up()
    assert (len(built), built[0].calls) == (1, [])
    reranker.close()
    with pytest.raises(ClosedError):
        reranker.warm_up()


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


class Clock:
    """Seconds that pass only when a test says so."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[RerankError | None]:
    """Outcomes of the attempts to build a scorer, which each takes the next of: an error, or None for a scorer."""
    outcomes: list[RerankError | None] = []

    def build(config: RerankConfig, *, shared: bool = False) -> FakeScorer:
        error = outcomes.pop(0)
        if error is not None:
            raise error
        return FakeScorer()

    monkeypatch.setattr(reranker_module, "build_scorer", build)
    return outcomes


def _with_clock(**settings: Any) -> tuple[Reranker, Clock]:
    reranker, clock = Reranker(**settings), Clock()
    reranker._load_backoff = LoadBackoff(clock=clock)
    return reranker, clock


def _statuses(reranker: Reranker) -> tuple[str, str]:
    """The status of a blocking call, then of an asynchronous one."""
    return (
        reranker.rank("query", ["0.1"]).status,
        asyncio.run(reranker.arank("query", ["0.1"])).status,
    )


def test_a_failed_load_is_repeated_after_a_pause_that_doubles_up_to_a_minute(
    failing: list[RerankError | None],
) -> None:
    reranker, clock = _with_clock(on_error="keep_order")
    failing += [CheckpointNotFoundError(f"attempt {number}") for number in range(9)] + [None]
    for number, pause_s in enumerate([1, 2, 4, 8, 16, 32, 60, 60, 60]):
        assert reranker.rank("query", ["0.1"]).error == f"CheckpointNotFoundError: attempt {number}"
        clock.now_s += pause_s - 0.01
        result = asyncio.run(reranker.arank("query", ["0.1"]))
        assert (result.status, result.error) == ("failed", f"CheckpointNotFoundError: attempt {number}")
        assert len(failing) == 9 - number
        clock.now_s += 0.01
    assert _statuses(reranker) == ("ranked", "ranked")


def test_a_kept_failure_is_raised_too_with_the_seconds_to_the_next_attempt(
    failing: list[RerankError | None],
) -> None:
    reranker, clock = _with_clock()
    failing.append(CheckpointNotFoundError("no such folder"))
    with pytest.raises(CheckpointNotFoundError) as first:
        reranker.score("query", ["0.1"])
    clock.now_s += 0.25
    with pytest.raises(CheckpointNotFoundError, match="no such folder") as second:
        asyncio.run(reranker.ascore("query", ["0.1"]))
    assert second.value is not first.value
    assert second.value.__notes__ == ["The next attempt to load is in 0.8 s."]
    assert failing == []


def test_a_kept_failure_holds_nothing_of_what_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise half a model would stay in memory during all pauses."""
    loaded: list[weakref.ref[Any]] = []

    def build(config: RerankConfig, *, shared: bool = False) -> FakeScorer:
        weights = FakeScorer()
        loaded.append(weakref.ref(weights))
        raise CheckpointFormatError("damaged")

    monkeypatch.setattr(reranker_module, "build_scorer", build)
    reranker = Reranker(on_error="keep_order")
    assert reranker.rank("query", ["0.1"]).status == "failed"
    gc.collect()
    assert [one() for one in loaded] == [None]


@pytest.mark.parametrize("error", [ConfigurationError("x"), MissingDependencyError("x")])
def test_a_failure_that_is_not_transient_is_raised_and_not_kept(
    failing: list[RerankError | None], error: RerankError
) -> None:
    reranker, _ = _with_clock(on_error="keep_order")
    failing += [error, error, None]
    for _attempt in range(2):
        with pytest.raises(type(error)):
            reranker.rank("query", ["0.1"])
    assert _statuses(reranker) == ("ranked", "ranked")


def test_threads_that_wait_for_a_load_share_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt ends only when seven threads wait for its lock; none of them loads."""
    attempts: list[int] = []
    waiting = threading.Semaphore(0)

    class CountedLock:
        """Signals when a thread is about to wait."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            waiting.release()
            self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    def build(config: RerankConfig, *, shared: bool = False) -> FakeScorer:
        attempts.append(1)
        for _ in range(8):
            assert waiting.acquire(timeout=10)
        raise CheckpointNotFoundError("not yet")

    monkeypatch.setattr(reranker_module, "build_scorer", build)
    reranker, _clock = _with_clock(on_error="keep_order")
    reranker._lock = CountedLock()  # type: ignore[assignment]
    statuses: list[str] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(reranker.rank("query", ["0.1"]).status))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == ["failed"] * 8
    assert attempts == [1]


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


@pytest.mark.parametrize("settings", [{"on_error": "keep_order"}, {"enabled": False}])
def test_a_closed_reranker_raises_whatever_its_settings(
    built: list[FakeScorer], settings: dict[str, Any]
) -> None:
    reranker = Reranker(**settings)
    reranker.rank("query", ["0.1"])
    reranker.close()
    with pytest.raises(ClosedError, match="the reranker was closed"):
        reranker.rank("query", ["0.1"])
    with pytest.raises(ClosedError, match="the reranker was closed"):
        asyncio.run(reranker.arank_many(["query"], [["0.1"]]))


def test_a_call_that_fails_because_the_reranker_is_closed_meanwhile_raises() -> None:
    def close_and_fail(request: ScoreRequest) -> PairScore:
        reranker.close()
        raise EngineError("stopped in the middle")

    reranker = Reranker(scorer=FakeScorer(close_and_fail), on_error="keep_order")
    with pytest.raises(ClosedError):
        reranker.rank("query", ["0.1"])


def test_the_name_of_the_model_can_be_read_while_the_reranker_is_closed() -> None:
    """`close` runs before the n-th instruction of the property, for every n."""
    code = vars(Reranker)["model"].fget.__code__
    for step in range(40):
        reranker, left = Reranker(scorer=FakeScorer()), step

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            if frame.f_code is not code:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                if left == 0:
                    reranker.close()  # noqa: B023 (called within this turn of the loop)
                left -= 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            name = reranker.model
        finally:
            sys.settrace(before)
        assert name in {"fake", reranker.config.model}
        if left > 0:  # the property has fewer instructions
            break
    assert step > 3


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
    with pytest.raises(ConfigurationError, match="did you mean 'model'"):
        Reranker(modle="demo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": "demo"}, "`config` must be a RerankConfig, got 'demo'; name a model with `model=`"),
        ({"config": {"model": "demo"}}, "`config` must be a RerankConfig, got {'model': 'demo'}"),
        ({"scorer": object()}, "`scorer` must be a Scorer, got <object"),
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
        ImportError, match=r"needs 'torch'; run pip install 'qwen-rerank-plugins\[local\]'"
    ) as caught:
        Reranker().score("query", ["a"])
    assert isinstance(caught.value, ConfigurationError)


def _without_torch(real: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(name: str, *rest: Any, **options: Any) -> Any:
        if name == "qwen_rerank_plugins.core.local_scorer":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *rest, **options)

    return guarded


def test_a_second_number_of_threads_in_a_process_is_named_in_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Torch has one number per process: without a warning, one of the two values has no effect unnoticed."""
    local_scorer = pytest.importorskip("qwen_rerank_plugins.core.local_scorer")
    monkeypatch.setattr(local_scorer.LocalScorer, "from_config", lambda config, *, shared: FakeScorer())
    monkeypatch.setattr(scorers, "_num_threads", {})
    kept = [build_scorer(RerankConfig()), build_scorer(RerankConfig(num_threads=2), shared=True)]
    assert "num_threads=2 differs from another reranker's in this process (torch's default)" in caplog.text
    caplog.clear()
    kept += [build_scorer(RerankConfig(num_threads=3))]
    assert "num_threads=3 differs from another reranker's in this process (2, torch's default)" in caplog.text
    caplog.clear()
    kept.clear()
    build_scorer(RerankConfig(num_threads=4))
    assert caplog.text == ""
