"""Rounds scores for JSON. Knows no dialect and no result.

OpenSearch's built-in connector functions cast a score to `Double` and an index to `Integer`. Its JSON parser returns
an `Integer` for a literal without point or exponent, and a `BigDecimal` for one with more than 18 characters; either
fails the whole search. Scores of all dialects therefore avoid both.
"""

from __future__ import annotations

import math

from qwen_rerank_plugins.errors import NonFiniteScoreError

__all__ = ["MAX_LITERAL_LENGTH", "SIGNIFICANT_DIGITS", "wire_number"]

SIGNIFICANT_DIGITS = 12
"""More digits than fp32 has, with room for sign, point, zeros and a two-digit exponent."""

MAX_LITERAL_LENGTH = 18
"""Longest literal that json-smart 2.5.2 parses as a `Double`."""


def wire_number(value: float) -> float:
    """Round a score so that its JSON literal has a point or an exponent and at most 18 characters.

    Valid for magnitudes below 1e14. Twelve significant digits are kept, or eleven for a negative number with a
    three-digit exponent. Rounding never changes the order of two scores, but may make them equal.

    Raises:
        NonFiniteScoreError: The score is NaN or infinite, which JSON cannot represent.
    """
    if not math.isfinite(value):
        raise NonFiniteScoreError(f"a score is not finite: {value!r}")
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    # json writes floats with float.__repr__.
    if len(repr(rounded)) > MAX_LITERAL_LENGTH:
        rounded = float(f"{value:.{SIGNIFICANT_DIGITS - 1}g}")
    return rounded
