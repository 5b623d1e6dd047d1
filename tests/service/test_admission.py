"""Admission: what is accepted, what is rejected and for how long, and the counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.service.admission import (
    BYTES_PER_TOKEN,
    AdmissionController,
    Throughput,
    estimate_tokens,
)
from qwen_rerank_plugins.service.errors import ProblemError
from qwen_rerank_plugins.service.settings import ServiceSettings


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock | None = None, **settings: float) -> AdmissionController:
    return AdmissionController(ServiceSettings.model_validate(settings), clock or Clock())


def refused(one: AdmissionController, num_bytes: int) -> tuple[int, str, int] | None:
    try:
        one.check(num_bytes)
    except ProblemError as error:
        return error.problem.status, error.problem.reason, int(error.problem.headers["Retry-After"])
    return None


def test_an_empty_service_takes_any_request() -> None:
    one = admission(max_pending_tokens=10)
    with one.enter(1_000_000):
        assert one.pending_requests == 1
    assert refused(one, 1_000_000) is None


def test_more_tokens_than_allowed_are_refused_until_there_is_room() -> None:
    one = admission(max_pending_tokens=2 * estimate_tokens(400))
    with one.enter(400):
        with one.enter(400):
            assert refused(one, 0) == (429, "tokens", 1)
            with pytest.raises(ProblemError):
                one.enter(400)
        assert refused(one, 400) is None
    assert (one.accepted, one.answered, one.cancelled, one.pending_tokens) == (2, 2, 0, 0)


def test_a_wait_that_would_be_too_long_is_rejected_with_retry_after() -> None:
    clock = Clock()
    one = admission(clock, max_wait_s=4.0)
    slot = one.enter(1000 * BYTES_PER_TOKEN)
    clock.now = 1.0
    slot.scored = True
    with slot:
        pass
    speed = estimate_tokens(1000 * BYTES_PER_TOKEN)  # tokens in one second
    with one.enter(3 * speed * BYTES_PER_TOKEN):
        assert refused(one, 0) is None
        assert refused(one, 4 * speed * BYTES_PER_TOKEN) == (429, "wait", 4)


def test_the_speed_is_believed_after_half_a_second_of_work_and_forgets_slowly() -> None:
    clock = Clock()
    speed = Throughput(clock)
    clock.now = 0.4
    speed.advance(busy=True)
    speed.add(400)
    assert speed.tokens_per_s is None
    clock.now = 1.0
    speed.advance(busy=True)
    assert speed.tokens_per_s == pytest.approx(400, rel=0.05)
    clock.now = 1000.0
    speed.advance(busy=False)
    assert speed.tokens_per_s == pytest.approx(400, rel=0.05)
    for _ in range(200):
        clock.now += 1.0
        speed.advance(busy=True)
        speed.add(50)
    assert speed.tokens_per_s == pytest.approx(50, rel=0.05)


def test_bytes_are_held_while_a_body_is_here_and_refused_above_the_limit() -> None:
    one = admission(max_pending_bytes=100)
    with one.reserve_bytes() as hold:
        hold(60)
        hold(40)
        assert refused(one, 1) == (429, "bytes", 1)
        with one.reserve_bytes() as other, pytest.raises(ProblemError):
            other(1)
        assert one.pending_bytes == 100
    assert one.pending_bytes == 0


def test_a_request_whose_handling_fails_is_removed_from_the_counters() -> None:
    one = admission()
    with pytest.raises(RuntimeError), one.enter(10):
        raise RuntimeError
    with one.enter(10) as slot:
        slot.answered = False
    assert (one.accepted, one.answered, one.cancelled, one.pending_requests) == (2, 1, 1, 0)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.booleans(), st.booleans()), max_size=40))
def test_the_counters_balance_for_any_sequence_of_requests(moves: list[tuple[int, bool, bool]]) -> None:
    """Accepted = answered + cancelled + pending, and pending requests are those inside."""
    one = admission(max_pending_tokens=5000)
    inside = []
    for num_bytes, leaves, answered in moves:
        try:
            inside.append(one.enter(num_bytes))
        except ProblemError:
            assert inside
        if leaves and inside:
            with inside.pop(0) as slot:
                slot.answered = answered
        assert one.accepted == one.answered + one.cancelled + one.pending_requests
        assert one.pending_requests == len(inside)
        assert one.pending_tokens == sum(slot.tokens for slot in inside)
