"""Numbers as they go over the wire. Knows no dialect and no result.

OpenSearch's built-in connector functions cast a score to `Double` and an index to `Integer`; its JSON parser makes
an `Integer` of a literal without point or exponent, and a `BigDecimal` of one with more than 18 characters. Either
fails the whole search, so a score must look like neither, whichever dialect carries it.
"""

from __future__ import annotations

import math

from qwen_rerank_plugins.errors import NonFiniteScoreError

__all__ = ["MAX_LITERAL_LENGTH", "SIGNIFICANT_DIGITS", "wire_number"]

SIGNIFICANT_DIGITS = 12
"""More than fp32 scores can tell apart, with room for sign, point, zeros and a two-digit exponent."""

MAX_LITERAL_LENGTH = 18
"""Longest literal that json-smart 2.5.2 still reads as a `Double`."""


def wire_number(value: float) -> float:
    """Round a score so that its JSON literal has a point or an exponent and at most 18 characters.

    Holds for every magnitude below 1e14. Twelve significant digits are kept; eleven where a negative number
    has a three-digit exponent. Rounding never changes the order of two scores, but may make them equal.

    Raises:
        NonFiniteScoreError: The score is NaN or infinite, for which JSON has no literal.
    """
    if not math.isfinite(value):
        raise NonFiniteScoreError(f"a score is not finite: {value!r}; allowed: finite numbers")
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    # json writes a float with float.__repr__, so its length is the literal's.
    if len(repr(rounded)) > MAX_LITERAL_LENGTH:
        rounded = float(f"{value:.{SIGNIFICANT_DIGITS - 1}g}")
    return rounded
