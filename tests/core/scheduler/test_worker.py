from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import pytest

from qwen_rerank_plugins.core.scheduler.queue import QueuedPrompt, Request
from qwen_rerank_plugins.core.scheduler.worker import Worker
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import (
    CheckpointError,
    EngineError,
    EngineOutOfMemoryError,
    NonFiniteScoreError,
    RerankError,
)
from tests.core.scheduler.helpers import FakeEngine, answer, prompts, take_once


def batch_of(*requests: Request) -> list[QueuedPrompt]:
    return [
        QueuedPrompt(request, index, request.prompts[index])
        for request in requests
        for index in range(len(request.prompts))
    ]


def run(device: Worker, *requests: Request) -> tuple[dict[tuple[int, int], float], dict[int, RerankError]]:
    scores: dict[tuple[int, int], float] = {}
    failures: dict[int, RerankError] = {}
    for results in device.run(take_once(batch_of(*requests))):
        for item, result in results:
            request, index = item.request, item.index
            if isinstance(result, RerankError):
                request.is_open = False  # as the scheduler does
                failures[request.number] = result
                scores = {key: score for key, score in scores.items() if key[0] != request.number}
            elif request.is_open:
                scores[request.number, index] = result
    return scores, failures


def poisoned_by(value: float, error: Exception) -> FakeEngine:
    def fault(sequences: Sequence[Segment]) -> None:
        if value in map(answer, sequences):
            raise error

    return FakeEngine(fault=fault)


def test_a_batch_that_fits_is_computed_in_one_call() -> None:
    engine = FakeEngine()
    scores, failures = run(Worker(engine, 100), Request(0, prompts([5, 6])), Request(1, prompts([7])))
    assert scores == {(0, 0): 5.0, (0, 1): 6.0, (1, 0): 7.0}
    assert not failures
    assert engine.batches == [[5.0, 6.0, 7.0]]


def test_out_of_memory_halves_by_tokens_until_it_fits() -> None:
    engine = FakeEngine(oom_above=30)
    device = Worker(engine, 200)
    scores, failures = run(device, Request(0, prompts(range(8))))
    assert len(scores) == 8
    assert not failures
    assert engine.tokens == [86, 46, 26, 26, 46, 26, 26]
    assert device.stats().oom_splits == 3
    assert device.budget_tokens < 43


def test_a_prompt_that_never_fits_fails_alone() -> None:
    engine = FakeEngine(oom_above=50)
    long = Request(1, prompts([9], length=80))
    scores, failures = run(Worker(engine, 200), Request(0, prompts([1, 2])), long, Request(2, prompts([3])))
    assert set(scores) == {(0, 0), (0, 1), (2, 0)}
    assert list(failures) == [1]
    assert isinstance(failures[1], EngineOutOfMemoryError)


def test_the_budget_grows_back_with_full_batches_and_not_with_small_ones() -> None:
    engine = FakeEngine(oom_above=300)
    device = Worker(engine, 640)
    run(device, Request(0, prompts(range(40))))
    small = device.budget_tokens
    assert small == 203 + 2 * 10, "half of the 406 that failed, and a 64th of the maximum for each half"
    run(device, Request(1, prompts([1])))
    assert device.budget_tokens == small, "a batch of one says nothing about memory"
    run(device, Request(2, prompts(range(15))))
    assert device.budget_tokens == small + 10
    engine.oom_above = None
    for number in range(200):
        run(device, Request(number, prompts(range(60))))
    assert device.budget_tokens == 640


def test_memory_of_the_failed_attempt_is_free_when_the_halves_are_tried() -> None:
    """A handler that retries inside `except` keeps the engine's frames, and with them its tensors, alive."""
    tensors: list[weakref.ref[Tensor]] = []

    class Tensor:
        pass

    def fault(sequences: Sequence[Segment]) -> None:
        assert all(tensor() is None for tensor in tensors), "an earlier attempt's tensor is still there"
        tensor = Tensor()
        tensors.append(weakref.ref(tensor))
        if len(sequences) > 1:
            raise EngineOutOfMemoryError("too many") from RuntimeError("CUDA out of memory")

    scores, failures = run(Worker(FakeEngine(fault=fault), 200), Request(0, prompts(range(4))))
    assert (len(scores), len(failures), len(tensors)) == (4, 0, 7)


def test_only_the_guilty_request_of_a_failing_batch_gets_the_error() -> None:
    engine = poisoned_by(6, RuntimeError("device-side assert"))
    scores, failures = run(
        Worker(engine, 200),
        Request(0, prompts([1, 2])),
        Request(1, prompts([5, 6])),
        Request(2, prompts([3])),
    )
    assert set(scores) == {(0, 0), (0, 1), (2, 0)}
    assert list(failures) == [1]
    assert type(failures[1]) is EngineError
    assert isinstance(failures[1].__cause__, RuntimeError)
    assert engine.batches == [[1.0, 2.0, 5.0, 6.0, 3.0], [1.0, 2.0], [5.0, 6.0], [3.0]]


def test_an_error_of_the_package_is_not_wrapped() -> None:
    error = CheckpointError("gone")
    _, failures = run(Worker(poisoned_by(1, error), 200), Request(0, prompts([1])))
    assert failures == {0: error}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_fails_its_request_only(number: float) -> None:
    engine = FakeEngine(fault=lambda sequences: [number if answer(s) == 6 else answer(s) for s in sequences])
    scores, failures = run(Worker(engine, 200), Request(0, prompts([5, 6])), Request(1, prompts([7])))
    assert scores == {(1, 0): 7.0}
    assert list(failures) == [0]
    assert isinstance(failures[0], NonFiniteScoreError)
    assert repr(number) in str(failures[0])


@pytest.mark.parametrize("wrong", [[], [1.0], [1.0] * 4, ["x"] * 3, None.__class__])
def test_an_answer_of_the_wrong_form_is_an_engine_error(wrong: object) -> None:
    engine = FakeEngine(fault=lambda sequences: wrong)  # type: ignore[arg-type,return-value]
    scores, failures = run(Worker(engine, 200), Request(0, prompts([1, 2, 3])))
    assert not scores
    assert type(failures[0]) is EngineError


def test_what_nobody_waits_for_is_left_out_of_the_rest() -> None:
    engine = FakeEngine(oom_above=60)
    first, second = Request(0, prompts(range(6))), Request(1, prompts(range(10, 16), head=1))
    computed: list[QueuedPrompt] = []
    for results in Worker(engine, 400).run(take_once(batch_of(first, second))):
        computed += [item for item, _ in results]
        second.is_open = False
    assert all(item.request is first for item in computed)
    assert not any(value >= 10 for values in engine.batches[2:] for value in values)


def test_what_is_late_is_not_computed() -> None:
    engine = FakeEngine()
    assert run(Worker(engine, 100), Request(0, prompts([1]), deadline=-1.0)) == ({}, {})
    assert engine.batches == []


@pytest.mark.parametrize("error", [MemoryError, SystemExit, KeyboardInterrupt])
def test_what_ends_a_worker_is_not_caught_here(error: type[BaseException]) -> None:
    def fault(sequences: Sequence[Segment]) -> None:
        raise error

    with pytest.raises(error):
        run(Worker(FakeEngine(fault=fault), 100), Request(0, prompts([1])))


def test_a_device_counts_what_it_computed() -> None:
    device = Worker(FakeEngine(), 100)
    run(device, Request(0, prompts([1, 2])))
    assert (device.stats().batches, device.stats().sequences, device.stats().computed_tokens) == (1, 2, 26)
    assert device.tokens_per_s > 0
