"""A calibration of a local model: which files are accepted, and that cached scores are uncalibrated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qwen_rerank_plugins import ConfigurationError, Reranker
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.demo import CHECKPOINT_DIR
from qwen_rerank_plugins.recipe import DEFAULT_INSTRUCTION
from qwen_rerank_plugins.scorers import model_fingerprint
from qwen_rerank_plugins.types import logistic
from tests.calibrations import OFFSET, SLOPE, write_calibration

QUERY, DOCUMENTS = "how to wash a cat", ["Wash the cat in warm water.", "The tide comes in twice a day."]


def test_the_score_cache_keeps_what_the_model_said(demo_settings: RerankConfig, tmp_path: Path) -> None:
    """Scores that one reranker cached on disk are calibrated, or not, by each reranker that reads them."""
    settings = demo_settings.replace(cache_path=str(tmp_path / "scores.sqlite"))
    path = write_calibration(
        tmp_path,
        fingerprint=model_fingerprint(settings),
        default_instruction=DEFAULT_INSTRUCTION,
    )
    with Reranker.shared(settings, calibration=path) as reranker:
        first = reranker.rank(QUERY, DOCUMENTS)
        again = reranker.rank(QUERY, DOCUMENTS, instruction=DEFAULT_INSTRUCTION)
        assert reranker.info()["default_instruction"] == DEFAULT_INSTRUCTION
    with Reranker.shared(settings) as reranker:
        plain = reranker.rank(QUERY, DOCUMENTS)
    assert plain.usage.num_cached_pairs == 2
    assert (first.calibrated, again.calibrated, plain.calibrated) == (True, True, None)
    assert [one.log_odds for one in plain.scores] == [one.log_odds for one in first.scores]
    for one in plain.scores:
        assert one.relevance_score == logistic(one.log_odds or 0.0)
    for one in first.scores:
        assert one.relevance_score == pytest.approx(logistic(SLOPE * (one.log_odds or 0.0) + OFFSET))
    assert first.scores[0].relevance_score != pytest.approx(plain.scores[0].relevance_score, abs=1e-3)


def test_a_copy_of_the_model_takes_the_file_and_another_model_does_not(
    demo_settings: RerankConfig, tmp_path: Path
) -> None:
    path = write_calibration(tmp_path, model="demo", fingerprint=model_fingerprint(demo_settings))
    copy = shutil.copytree(CHECKPOINT_DIR, tmp_path / "copy")
    settings = demo_settings.replace(model=str(copy), self_check=False, calibration=path)
    with Reranker(settings) as reranker:
        assert reranker.rank(QUERY, DOCUMENTS).calibrated is True
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"another model: .*calibration.json' was fitted for 'demo'"):
        Reranker(settings).warm_up()
