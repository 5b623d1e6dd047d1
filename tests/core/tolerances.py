"""The tolerances of all comparisons of scores, and comparisons that print the largest difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

FP32_LOG_ODDS = 1e-4
"""fp32 against the official recipe, and sharing, packing or merging on against off."""

BF16_PROBABILITY = 0.02
"""bf16 against the fp32 recipe on the weights as bf16 holds them."""

ATTENTION = 2e-6
"""Two fp32 attentions of numbers of size one."""

GOLDEN_LOG_ODDS = 1e-4
"""Real weights in fp32 against published log-odds."""

GOLDEN_PROBABILITY = 1e-3
"""Real weights against published probabilities of four digits."""


def sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def largest_difference(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest difference; infinite if a value is NaN."""
    differences = [abs(a - b) for a, b in zip(found, wanted, strict=True)]
    return max(differences, default=0.0) if all(map(math.isfinite, differences)) else math.inf


def assert_close(
    found: Sequence[float], wanted: Sequence[float], tolerance: float = FP32_LOG_ODDS, what: str = ""
) -> None:
    """Assert that all of `found` is within a tolerance of `wanted`; prints the largest difference."""
    difference = largest_difference(found, wanted)
    print(f"{what or 'largest difference'}: {difference:.3g} (allowed: {tolerance:g})")
    assert difference <= tolerance, (found, wanted)


def assert_probabilities_close(found: Sequence[float], wanted: Sequence[float], what: str = "") -> None:
    """Log-odds whose probabilities are within what bf16 is allowed."""
    assert_close([*map(sigmoid, found)], [*map(sigmoid, wanted)], BF16_PROBABILITY, what)
