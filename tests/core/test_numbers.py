"""Numbers of NumPy and torch, which the base package does not install, are accepted as options of a call."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from qwen_rerank_plugins import InputError, InputTypeError, Reranker
from tests.doubles import FakeScorer


def indices(reranker: Reranker, documents: list[str], **options: Any) -> list[int]:
    return [one.index for one in reranker.rank("query", documents, **options).results]


@pytest.mark.parametrize("top_n", [np.int64(2), np.uint8(2), np.array(2), torch.tensor(2)])
@pytest.mark.parametrize("half", [np.float32(0.5), np.float64(0.5), Fraction(1, 2), Decimal("0.5")])
def test_numbers_of_other_libraries_are_numbers(top_n: Any, half: Any) -> None:
    scorer = FakeScorer()
    documents = ["0.1", "0.9", "0.5", "0.7"]
    options = {"top_n": top_n, "min_score": half, "deadline_s": half}
    assert indices(Reranker(scorer=scorer), documents, **options) == [1, 3]
    assert indices(Reranker(scorer=scorer, **options), documents) == [1, 3]
    assert [type(deadline_s) for _, deadline_s in scorer.calls] == [float, float]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top_n": np.True_}, InputTypeError, "`top_n` must be an integer or None"),
        ({"top_n": np.int64(0)}, InputError, "`top_n` must be at least 1"),
        ({"top_n": np.float64(1)}, InputTypeError, "`top_n` must be an integer or None"),
        ({"min_score": np.float32("nan")}, InputError, "`min_score` must be from 0 to 1"),
        ({"deadline_s": np.False_}, InputTypeError, "`deadline_s` must be a number of seconds"),
    ],
)
def test_what_is_no_number_of_them_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    scorer = FakeScorer()
    with pytest.raises(error, match=message):
        Reranker(scorer=scorer).rank("q", ["0.1"], **options)
    assert scorer.calls == []
