from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import InputError
from qwen_rerank_plugins.evaluation import read_run, write_run
from qwen_rerank_plugins.evaluation.runs import logit, order_as_trec_eval, strictly_decreasing


@given(st.lists(st.floats(min_value=-1e6, max_value=1e6), max_size=30))
def test_written_scores_fall_strictly_in_32_bits(scores: list[float]) -> None:
    falling = np.array(strictly_decreasing(sorted(scores, reverse=True)), dtype=np.float32)
    assert (np.diff(falling) < 0).all()


def test_scores_that_fall_already_are_kept() -> None:
    assert strictly_decreasing([2.5, 1.0, -3.0]) == [2.5, 1.0, -3.0]


def test_a_written_run_is_ordered_by_trec_eval_as_it_was(tmp_path: Path) -> None:
    """Ids increase where scores tie: trec_eval alone would reverse them."""
    scored = [("a", 40.0), ("b", 40.0), ("c", 40.0 - 1e-9), ("d", -1.0), ("e", -1.0)]
    write_run(tmp_path / "out.trec", {"q": scored})
    assert order_as_trec_eval(dict(scored)) != list("abcde")
    assert order_as_trec_eval(read_run(tmp_path / "out.trec")["q"]) == list("abcde")


def test_an_id_with_white_space_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="id contains white space"):
        write_run(tmp_path / "out.trec", {"q": [("a b", 1.0)]})


def test_a_folder_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file cannot be written"):
        write_run(tmp_path / "gone" / "out.trec", {"q": [("a", 1.0)]})


@pytest.mark.parametrize("probability", [0.0, 1e-300, 0.25, 0.5, 1.0 - 1e-16, 1.0])
def test_log_odds_of_a_probability_are_finite_and_right(probability: float) -> None:
    found = logit(probability)
    assert math.isfinite(found)
    if 0.0 < probability < 1.0:
        assert found == pytest.approx(math.log(probability / (1 - probability)), rel=1e-9)
