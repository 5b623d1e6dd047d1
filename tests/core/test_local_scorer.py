"""The local scorer: each caller gets its own scores, from cache or model, from any thread, for any text."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.engine.engine import LaunchedBatch
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.core.model.decoder import Plan
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import (
    ClosedError,
    DeadlineExceededError,
    EngineError,
    InstructionTooLongError,
    NonFiniteScoreError,
)
from qwen_rerank_plugins.recipe import REMOVED_TEMPLATE, TEMPLATE_IN_TEXT
from qwen_rerank_plugins.types import (
    PairScore,
    Priority,
    Scorer,
    ScoreRequest,
    TextLimits,
)
from tests.core.texts import NASTY
from tests.core.tiny_checkpoints import Shape, with_demo_tokenizer, write_checkpoint
from tests.core.tolerances import assert_close, sigmoid
from tests.laws.sources import plain_environment

QUERY = "how to wash a cat"
DOCUMENTS = ("Use warm water.", "猫 一个月洗一次", "", "The iPhone can send messages.", "Use warm water.")
REQUESTS = [ScoreRequest(QUERY, document) for document in DOCUMENTS]
LONG = "Cats are washed once a month. " * 60 + "Now something about telephones. " * 60


@pytest.fixture
def own(demo_settings: RerankConfig) -> Iterator[LocalScorer]:
    """A scorer over an engine of its own, which a test may break."""
    scorer = LocalScorer.from_config(demo_settings.replace(self_check=False))
    yield scorer
    scorer.close()


def shared(demo_settings: RerankConfig, **changes: Any) -> LocalScorer:
    return LocalScorer.from_config(demo_settings.replace(**changes), shared=True)


def log_odds(scores: Sequence[PairScore]) -> list[float]:
    return [math.nan if score.log_odds is None else score.log_odds for score in scores]


class Gate:
    """Holds an engine's batches until it is opened, and counts them."""

    def __init__(self, scorer: LocalScorer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.sequences = 0
        self._engine = scorer._runtime.engines[0]
        self._prepare = self._engine.prepare
        monkeypatch.setattr(self._engine, "prepare", self)

    def __call__(self, prompts: Sequence[Segment]) -> Plan:
        self.sequences += len(prompts)
        self.entered.set()
        assert self.opened.wait(30)
        return self._prepare(prompts)


async def until(condition: Callable[[], bool]) -> None:
    """Run the event loop until a condition holds, half a minute at most."""
    for _ in range(30_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come so")


# ---------------------------------------------------------------------------------------------- scores


def test_it_is_a_scorer(demo: LocalScorer) -> None:
    assert isinstance(demo, Scorer)
    assert demo.model == "demo"


def test_scores_come_in_input_order_and_are_what_each_pair_gets_alone(demo_settings: RerankConfig) -> None:
    scorer = shared(demo_settings, cache_entries=0)
    together = scorer.score(REQUESTS)
    alone = [scorer.score([request])[0] for request in REQUESTS]
    scorer.close()
    assert_close(log_odds(together), log_odds(alone))
    assert together[0] == together[4]
    assert [score.num_tokens for score in together] == [score.num_tokens for score in alone]


def test_a_probability_is_the_sigmoid_of_the_log_odds(demo: LocalScorer) -> None:
    for score in demo.score(REQUESTS):
        assert score.log_odds is not None
        assert score.relevance_score == pytest.approx(sigmoid(score.log_odds), abs=1e-12)
        assert (score.truncated, score.query_truncated, score.span, score.cached) == (
            False,
            False,
            None,
            False,
        )


def test_an_instruction_changes_the_score(demo: LocalScorer) -> None:
    default, other = demo.score([ScoreRequest(QUERY, "d"), ScoreRequest(QUERY, "d", "Find telephones.")])
    assert default.log_odds != other.log_odds


def test_a_wrapped_pair_is_scored_as_its_plain_texts_where_the_setting_says_so(
    demo_settings: RerankConfig,
) -> None:
    wrapped = ScoreRequest(f"<Query>: {QUERY}\n", f"<Document>: {DOCUMENTS[0]}<|im_end|>\n")
    found = {}
    for unwrap in ("warn", "strip", "off"):
        scorer = shared(demo_settings, unwrap=unwrap)
        scorer.score([wrapped])
        found[unwrap], plain = scorer.score([wrapped, REQUESTS[0]])
        scorer.close()
        assert (found[unwrap].cached, plain.warnings) == (True, ())
    assert found["strip"].log_odds == pytest.approx(plain.log_odds, abs=1e-5)
    assert found["warn"].log_odds == found["off"].log_odds != plain.log_odds
    warnings = [found[unwrap].warnings for unwrap in ("warn", "strip", "off")]
    assert warnings == [(TEMPLATE_IN_TEXT,), (REMOVED_TEMPLATE,), ()]


def test_warming_up_computes_once_and_caches_no_score(
    own: LocalScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(own, monkeypatch)
    gate.opened.set()
    own.warm_up()
    assert gate.sequences == 1
    assert own.info()["cache"]["entries"] == 0


def test_nothing_gives_nothing(demo: LocalScorer) -> None:
    assert demo.score([]) == []
    assert asyncio.run(demo.ascore([])) == []


def test_a_long_document_is_cut_and_says_so(demo_settings: RerankConfig) -> None:
    scorer = shared(demo_settings, max_length=200)
    short, cut = scorer.score([ScoreRequest(QUERY, "short"), ScoreRequest(QUERY, LONG)])
    scorer.close()
    assert (short.truncated, cut.truncated) == (False, True)
    assert cut.num_tokens == 200


def test_a_long_document_in_chunks_scores_as_its_best_chunk(demo_settings: RerankConfig) -> None:
    """The span is the best chunk's, and scoring that text alone gives the same."""
    scorer = shared(demo_settings, long_documents="chunk", chunk_tokens=64, chunk_overlap=8, cache_entries=0)
    (found,) = scorer.score([ScoreRequest(QUERY, LONG)])
    assert found.span is not None
    (alone,) = scorer.score([ScoreRequest(QUERY, LONG[slice(*found.span)])])
    scorer.close()
    assert_close(log_odds([found]), log_odds([alone]))
    assert alone.span is None
    assert not found.truncated
    assert found.num_tokens > 1000


def test_of_equally_good_chunks_the_first_is_the_best(
    demo_settings: RerankConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = shared(demo_settings, long_documents="chunk", chunk_tokens=64, chunk_overlap=8, cache_entries=0)
    engine = scorer._runtime.engines[0]
    monkeypatch.setattr(engine, "prepare", len)
    monkeypatch.setattr(engine, "launch", lambda count: LaunchedBatch(torch.ones(count), None, nullcontext))
    (score,) = scorer.score([ScoreRequest(QUERY, LONG)])
    scorer.close()
    assert score.span is not None
    assert score.span[0] == 0


def test_a_long_query_is_cut_and_says_so(demo_settings: RerankConfig) -> None:
    scorer = shared(demo_settings, max_query_tokens=5)
    (score,) = scorer.score([ScoreRequest(QUERY * 10, "d")])
    scorer.close()
    assert (score.query_truncated, score.truncated) == (True, False)


def test_limits_are_never_above_the_models_own(demo: LocalScorer, demo_settings: RerankConfig) -> None:
    scorer = shared(demo_settings, max_length=1_000_000)
    assert scorer.info()["max_length"] == 8192
    assert scorer.info()["max_query_tokens"] == 2048
    scorer.close()


def test_the_state_tells_the_caches_hits(demo: LocalScorer) -> None:
    demo.score(REQUESTS[:2])
    demo.score(REQUESTS[:2])
    cache = demo.info()["cache"]
    assert (cache["hits"], cache["misses"], cache["hit_rate"]) == (2, 2, 0.5)


# ----------------------------------------------------------------------------------------------- cache


def test_a_cached_score_is_not_computed_again(own: LocalScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(own, monkeypatch)
    gate.opened.set()
    first = own.score(REQUESTS[:3])
    second = own.score([REQUESTS[3], *REQUESTS[:3]])
    assert gate.sequences == 4
    assert [score.cached for score in second] == [False, True, True, True]
    assert log_odds(second[1:]) == log_odds(first)


def test_the_cache_never_mixes_limits(own: LocalScorer) -> None:
    query, document = "what is a whale", "a whale is a mammal that lives in the sea " * 3
    limits = [
        None,
        TextLimits(max_document_tokens=5),
        TextLimits(max_query_tokens=2),
        TextLimits(max_chunks=5),
    ]
    requests = [ScoreRequest(query, document, None, one) for one in limits]
    first, second = own.score(requests), own.score(requests)
    assert [score.cached for score in [*first, *second]] == [False] * 4 + [True] * 4
    assert log_odds(first) == log_odds(second)
    assert len(set(log_odds(first))) == 3, (
        "a number of chunks changes nothing where nothing is read in chunks"
    )


@pytest.mark.parametrize(
    ("change", "is_hit"),
    [
        ({}, True),
        ({"top_n": 1}, True),
        ({"max_length": 4096}, False),
        ({"max_query_tokens": 7}, False),
        ({"long_documents": "chunk"}, False),
        ({"long_documents": "chunk", "chunk_tokens": 100}, False),
        ({"dtype": "bfloat16"}, False),
        ({"quantization": "int8"}, False),
        ({"unwrap": "strip"}, False),
        ({"unwrap": "off"}, False),
    ],
)
def test_the_cache_never_mixes_settings(
    demo_settings: RerankConfig, tmp_path: Path, change: dict[str, Any], is_hit: bool
) -> None:
    """Two scorers over one file: every setting that can change a score is part of the key."""
    with_file = demo_settings.replace(cache_path=str(tmp_path / "scores"))
    first = LocalScorer.from_config(with_file, shared=True)
    first.score(REQUESTS[:1])
    first.close()
    second = LocalScorer.from_config(with_file.replace(**change), shared=True)
    (score,) = second.score(REQUESTS[:1])
    second.close()
    assert score.cached == is_hit


@pytest.mark.parametrize(
    ("query", "document", "instruction"),
    [
        ("ab", "c", None),
        ("a", "bc", None),
        ("a", "b", "c"),
        ("a", "b", ""),
        ("", "abc", None),
        ("a", "b", None),
    ],
)
def test_texts_are_distinguished_wherever_they_are_split(
    demo: LocalScorer, query: str, document: str, instruction: str | None
) -> None:
    others = [ScoreRequest("abc", ""), ScoreRequest("", "ab", "c"), ScoreRequest("b", "a")]
    demo.score(others)
    (score,) = demo.score([ScoreRequest(query, document, instruction)])
    assert not score.cached


def test_flags_and_spans_come_from_the_cache_too(demo_settings: RerankConfig) -> None:
    scorer = shared(demo_settings, long_documents="chunk", chunk_tokens=128, max_query_tokens=3)
    request = ScoreRequest(QUERY, LONG)
    (first,), (second,) = scorer.score([request]), scorer.score([request])
    scorer.close()
    assert second.cached
    assert (second.span, second.query_truncated, second.num_tokens, second.log_odds) == (
        first.span, True, first.num_tokens, first.log_odds,
    )  # fmt: skip


def test_scores_outlive_the_process_in_a_file(demo_settings: RerankConfig, tmp_path: Path) -> None:
    with_file = {"cache_path": str(tmp_path / "scores"), "cache_entries": 0}
    for is_hit in (False, True):
        scorer = shared(demo_settings, **with_file)
        assert [score.cached for score in asyncio.run(scorer.ascore(REQUESTS[:2]))] == [is_hit] * 2
        scorer.close()


def test_no_entries_on_disk_are_fine_without_a_file(demo_settings: RerankConfig) -> None:
    scorer = shared(demo_settings, cache_disk_entries=0)
    assert [scorer.score(REQUESTS[:1])[0].cached for _ in range(2)] == [False, True]
    scorer.close()


# ------------------------------------------------------------------------------------- many callers


def test_twenty_threads_each_get_their_own_scores(demo_settings: RerankConfig) -> None:
    scorer = shared(demo_settings, cache_entries=0)
    asked = [[ScoreRequest(f"query {n}", f"text {n} {m}") for m in range(1 + n % 4)] for n in range(20)]
    wanted = [scorer.score(requests) for requests in asked]
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(scorer.score, asked))
    scorer.close()
    for mine, expected in zip(found, wanted, strict=True):
        assert_close(log_odds(mine), log_odds(expected))


def test_coroutines_each_get_their_own_scores(demo_settings: RerankConfig) -> None:
    scorer = shared(demo_settings, cache_entries=0)
    asked = [[ScoreRequest(f"query {n}", f"text {m}") for m in range(1 + n % 3)] for n in range(10)]

    async def all_at_once() -> list[list[PairScore]]:
        return await asyncio.gather(*map(scorer.ascore, asked))

    found = asyncio.run(all_at_once())
    for mine, requests in zip(found, asked, strict=True):
        assert_close(log_odds(mine), log_odds(scorer.score(requests)))
    scorer.close()


def test_the_event_loop_goes_on_while_the_model_works(
    own: LocalScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(own, monkeypatch)

    async def both() -> list[PairScore]:
        task = asyncio.create_task(own.ascore(REQUESTS))
        await until(gate.entered.is_set)  # the loop turns although the engine holds still
        gate.opened.set()
        return await task

    assert len(asyncio.run(both())) == len(REQUESTS)


def test_a_cancelled_request_leaves_the_queue(own: LocalScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one batch is computed another waits; once cancelled, it is never computed, and the first is not affected."""
    gate = Gate(own, monkeypatch)

    async def cancel_one() -> list[PairScore]:
        first = asyncio.create_task(own.ascore(REQUESTS[:1]))
        await until(gate.entered.is_set)
        second = asyncio.create_task(own.ascore(REQUESTS[1:4]))
        await until(lambda: own.info()["scheduler"]["queued_requests"] > 0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.opened.set()
        return await first

    assert len(asyncio.run(cancel_one())) == 1
    assert gate.sequences == 1
    assert own.score(REQUESTS)


def test_a_request_that_is_cancelled_while_it_is_tokenised_is_never_computed(
    own: LocalScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that tokenises cannot be stopped; what it queues afterwards must leave the queue again."""
    gate = Gate(own, monkeypatch)
    tokenising, go_on = threading.Event(), threading.Event()
    encode = own._encoder.encode

    def slow_encode(requests: Sequence[ScoreRequest]) -> Any:
        tokenising.set()
        assert go_on.wait(30)
        return encode(requests)

    async def cancel_early() -> None:
        blocker = asyncio.ensure_future(own.ascore(REQUESTS[:1]))
        await asyncio.to_thread(gate.entered.wait, 30)
        monkeypatch.setattr(own._encoder, "encode", slow_encode)
        request = asyncio.ensure_future(own.ascore(REQUESTS[1:4]))
        await asyncio.to_thread(tokenising.wait, 30)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        go_on.set()
        while own._runtime.scheduler.stats().cancelled < 1:  # noqa: ASYNC110 (a figure, not an event)
            await asyncio.sleep(0.01)
        gate.opened.set()
        assert len(await blocker) == 1

    asyncio.run(asyncio.wait_for(cancel_early(), 60))
    assert gate.sequences == 1


def test_a_deadline_that_passes_is_an_error(own: LocalScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(own, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(own.score, REQUESTS[:1])
        assert gate.entered.wait(30)
        with pytest.raises(DeadlineExceededError):
            own.score(REQUESTS[1:], deadline_s=0.05)
        gate.opened.set()
        assert len(first.result(30)) == 1


def test_a_deadline_that_passes_for_a_task_is_an_error(
    own: LocalScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is busy, so the waiting task's own timer fails its request, which is never computed."""
    gate = Gate(own, monkeypatch)

    async def main() -> None:
        first = asyncio.create_task(own.ascore(REQUESTS[:1], deadline_s=1000.0))
        await until(gate.entered.is_set)
        with pytest.raises(DeadlineExceededError):
            await own.ascore(REQUESTS[1:], deadline_s=0.05)
        gate.opened.set()
        assert len(await first) == 1

    asyncio.run(asyncio.wait_for(main(), 60))
    assert own.info()["scheduler"]["expired"] == 1
    assert gate.sequences == 1


def test_background_calls_wait_for_interactive_ones(
    own: LocalScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(own, monkeypatch)
    computed: list[str] = []

    async def score(name: str, requests: list[ScoreRequest], priority: Priority) -> None:
        await own.ascore(requests, priority=priority)
        computed.append(name)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(score("first", REQUESTS[:1], "interactive"))
            await until(gate.entered.is_set)
            group.create_task(score("background", REQUESTS[1:2], "background"))
            await until(lambda: own.info()["scheduler"]["queued_requests"] == 1)
            group.create_task(score("interactive", REQUESTS[2:3], "interactive"))
            await until(lambda: own.info()["scheduler"]["queued_requests"] == 2)
            gate.opened.set()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert computed == ["first", "interactive", "background"]


def test_a_closed_scorer_says_so(own: LocalScorer) -> None:
    own.close()
    own.close()
    with pytest.raises(ClosedError, match="the scorer of 'demo' was closed"):
        own.score(REQUESTS)
    with pytest.raises(ClosedError):
        asyncio.run(own.ascore(REQUESTS))


FORK = """
import os, sys
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.core.model.decoder import Plan
from qwen_rerank_plugins.types import ScoreRequest

config = RerankConfig(model="demo", device="cpu", dtype="float32", cache_entries=0, num_threads=2)
scorer = LocalScorer.from_config(config, shared=True)
requests = [ScoreRequest("how to wash a cat", "use warm water " * n) for n in range(40)]
wanted = scorer.score(requests)
child = os.fork()
if child == 0:
    again = LocalScorer.from_config(config, shared=True)
    for found in (scorer.score(requests), again.score(requests)):
        if any(abs(a.log_odds - b.log_odds) > 1e-4 for a, b in zip(found, wanted, strict=True)):
            os._exit(1)
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert abs(scorer.score(requests)[3].log_odds - wanted[3].log_odds) < 1e-4
sys.exit(code)
"""


def test_a_forked_child_scores_as_its_parent_does() -> None:
    """After the parent has computed with several threads, which do not exist in the child."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=90, env=plain_environment()
    )


# ------------------------------------------------------------------------------------------- bad input


def test_every_nasty_text_gets_a_score(demo: LocalScorer) -> None:
    requests = [ScoreRequest(text, text, text) for text in NASTY]
    assert all(0 <= score.relevance_score <= 1 for score in demo.score(requests))


@pytest.mark.parametrize("query", ["", " ", "\n\u3000"])
def test_a_blank_query_or_document_is_scored_here(demo: LocalScorer, query: str) -> None:
    """Whether a blank query makes sense is the caller's decision; the model scores it."""
    (score,) = demo.score([ScoreRequest(query, "")])
    assert math.isfinite(score.relevance_score)


def test_lone_surrogates_are_scored_as_the_replacement_character(demo: LocalScorer) -> None:
    broken, mended = demo.score([ScoreRequest("a\ud800", "\udfffb"), ScoreRequest("a\ufffd", "\ufffdb")])
    assert broken.log_odds == mended.log_odds


@pytest.mark.parametrize("long_documents", ["truncate", "chunk"])
@pytest.mark.parametrize("unit", ["wash the cat ", "x"])
def test_a_document_of_ten_megabytes_is_scored_with_its_flag(
    demo_settings: RerankConfig, unit: str, long_documents: Any
) -> None:
    """With chunks the time grows with the length, so that case has a tenth of the text."""
    size = 10_000_000 if long_documents == "truncate" else 100_000
    scorer = shared(demo_settings, max_length=600, long_documents=long_documents)
    started = time.perf_counter()
    (score,) = scorer.score([ScoreRequest(QUERY, unit * (size // len(unit)))])
    scorer.close()
    assert time.perf_counter() - started < 60
    assert score.truncated == (long_documents == "truncate")


def test_an_instruction_without_end_is_an_error_and_spares_the_others(demo: LocalScorer) -> None:
    with pytest.raises(InstructionTooLongError):
        demo.score([ScoreRequest("q", "d", "word " * 20_000)])
    assert demo.score([ScoreRequest("q", "d")])


def broken_folder(folder: Path, value: float) -> Path:
    shape = Shape(vocab_size=10_000)
    tensors = shape.tensors()
    tensors["model.norm.weight"][3] = value
    return with_demo_tokenizer(write_checkpoint(folder, shape.config, tensors))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_weights_are_an_error_and_never_a_score(tmp_path: Path, value: float) -> None:
    folder = broken_folder(tmp_path, value)
    config = RerankConfig(model=str(folder), device="cpu", dtype="float32", self_check=False)
    scorer = LocalScorer.from_config(config)
    with pytest.raises(NonFiniteScoreError):
        scorer.score(REQUESTS)
    assert scorer.info()["cache"]["entries"] == 0
    scorer.close()


def test_weights_that_do_not_pass_the_self_check_are_not_loaded(tmp_path: Path) -> None:
    config = RerankConfig(model=str(broken_folder(tmp_path, math.nan)), device="cpu", dtype="float32")
    with pytest.raises(EngineError, match=r"returned NaN or infinity.*set self_check to False"):
        LocalScorer.from_config(config)


def test_the_demo_thinks_in_more_than_one_number_format(demo_settings: RerankConfig) -> None:
    """bf16 ranks as fp32 does where the difference is larger than its rounding."""
    narrow = shared(demo_settings, dtype="bfloat16")
    exact = shared(demo_settings)
    difference = [
        abs(a.relevance_score - b.relevance_score)
        for a, b in zip(narrow.score(REQUESTS), exact.score(REQUESTS), strict=True)
    ]
    narrow.close()
    exact.close()
    assert max(difference) < 0.02
    assert torch.get_default_dtype() is torch.float32
