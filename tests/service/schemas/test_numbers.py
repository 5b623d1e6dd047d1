from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_rerank_plugins import NonFiniteScoreError
from qwen_rerank_plugins.service.schemas.answers import wire_number
from tests.service.schemas.answering import unhurried

finite = st.floats(min_value=-1e14, max_value=1e14)


@unhurried
@given(finite)
@example(0.0)
@example(-0.0)
@example(1.0)
@example(-1.0)
@example(0.12345678901234567)
@example(1.2345678901234567e-05)
@example(-1.2345678901234567e-105)
@example(-0.00012345678901234567)
@example(5e-324)
@example(12345678901234.56)
@example(-99999999999999.9)
def test_every_literal_is_one_that_opensearch_reads_as_a_double(value: float) -> None:
    literal = json.dumps(wire_number(value))
    assert len(literal) <= 18
    assert "." in literal or "e" in literal


@unhurried
@given(finite)
def test_at_least_eleven_digits_survive(value: float) -> None:
    assert math.isclose(wire_number(value), value, rel_tol=5e-11, abs_tol=1e-320)


@unhurried
@given(st.floats(0.0, 1.0))
def test_a_probability_stays_one_and_keeps_twelve_digits(value: float) -> None:
    rounded = wire_number(value)
    assert 0.0 <= rounded <= 1.0
    assert math.isclose(rounded, value, rel_tol=5e-12, abs_tol=1e-320)


@unhurried
@given(finite, finite)
def test_rounding_never_turns_an_order_round(left: float, right: float) -> None:
    low, high = sorted([left, right])
    assert wire_number(low) <= wire_number(high)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_refused(value: float) -> None:
    with pytest.raises(NonFiniteScoreError, match="not finite"):
        wire_number(value)
