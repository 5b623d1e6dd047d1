"""A calibration file: which are refused, and calibrated probabilities in every result of a reranker."""

from __future__ import annotations

import asyncio
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank_plugins import (
    ConfigurationError,
    LexicalScorer,
    PairScore,
    RerankConfig,
    Reranker,
    RerankResult,
    SpanOptions,
)
from qwen_rerank_plugins.calibration import MAX_BYTES, load_calibration
from qwen_rerank_plugins.scorers import build_scorer, model_fingerprint
from qwen_rerank_plugins.types import logistic
from tests.calibrations import OFFSET, SLOPE, content, fit, write_calibration
from tests.doubles import FakeScorer

DOCUMENTS = ["a red fox", "the blue whale sings", "blue sky. A blue whale."]


def calibrated(log_odds: float | None) -> float:
    assert log_odds is not None
    return 1 / (1 + math.exp(-(SLOPE * log_odds + OFFSET)))


def lexical(folder: Path, *fits: dict[str, Any], **settings: Any) -> Reranker:
    return Reranker(backend="lexical", calibration=write_calibration(folder, *fits), **settings)


def test_every_way_to_rank_returns_calibrated_probabilities_in_the_same_order(tmp_path: Path) -> None:
    plain, reranker = Reranker(backend="lexical"), lexical(tmp_path)
    expected = plain.rank("blue whale", DOCUMENTS)
    ways = [
        reranker.rank("blue whale", DOCUMENTS),
        asyncio.run(reranker.arank("blue whale", DOCUMENTS)),
        *reranker.rank_many(["blue whale"] * 2, [DOCUMENTS] * 2),
    ]
    for result in ways:
        assert [one.index for one in result.results] == [one.index for one in expected.results]
        assert [one.log_odds for one in result.results] == [one.log_odds for one in expected.results]
        assert [one.relevance_score for one in result.results] == pytest.approx(
            [calibrated(one.log_odds) for one in expected.results]
        )
        assert result.calibrated is True
        assert {one.calibrated for one in result.results} == {True}
    scores = [calibrated(one.log_odds) for one in expected.scores]
    assert reranker.score("blue whale", DOCUMENTS) == pytest.approx(scores)
    assert reranker.score_pairs([("blue whale", one) for one in DOCUMENTS]) == pytest.approx(scores)


def test_spans_and_their_threshold_are_calibrated(tmp_path: Path) -> None:
    """The whale's sentence has log-odds 4.67, so 0.79 after calibration where it was 0.99."""
    document = "A blue whale. Red foxes run."
    for threshold, num_spans in ((0.78, 1), (0.8, 0)):
        options = SpanOptions(threshold=threshold)
        (one,) = lexical(tmp_path).rank("blue whale", [document], spans=options).results
        assert len(one.spans) == num_spans
        for span in one.spans:
            assert span.relevance_score == pytest.approx(calibrated(span.log_odds))


def test_min_score_compares_calibrated_probabilities(tmp_path: Path) -> None:
    """The two whales have log-odds 4.5: 0.989 without, 0.777 with the calibration."""
    for threshold, indices in ((0.77, [1, 2]), (0.78, [])):
        for reranker, options in (
            (lexical(tmp_path, min_score=threshold), {}),
            (lexical(tmp_path), {"min_score": threshold}),
        ):
            result = reranker.rank("blue whale", DOCUMENTS, **options)  # type: ignore[arg-type]
            assert sorted(one.index for one in result.results) == indices


def test_an_instruction_has_its_own_fit_or_is_marked(tmp_path: Path) -> None:
    reranker = lexical(tmp_path, fit("mine", 2.0, 0.25))
    plain = Reranker(backend="lexical").rank("blue whale", DOCUMENTS)
    mine = reranker.rank("blue whale", DOCUMENTS, instruction="mine")
    assert mine.calibrated is True
    assert [one.relevance_score for one in mine.scores] == pytest.approx(
        [logistic(2.0 * (one.log_odds or 0.0) + 0.25) for one in plain.scores]
    )
    for instruction in (None, "other", "mine "):
        other = reranker.rank("blue whale", DOCUMENTS, instruction=instruction)
        assert other.calibrated is False
        assert [one.relevance_score for one in other.scores] == [one.relevance_score for one in plain.scores]


def test_the_models_default_instruction_may_be_written_out_or_left_out(tmp_path: Path) -> None:
    path = write_calibration(tmp_path, default_instruction="find answers")
    reranker = Reranker(backend="lexical", calibration=path)
    assert reranker.rank("blue", DOCUMENTS, instruction="find answers").calibrated is True
    assert reranker.rank("blue", DOCUMENTS).calibrated is True


def test_a_result_is_calibrated_only_if_all_its_scores_are() -> None:
    scores = (PairScore(0.5, calibrated=True), PairScore(0.5, calibrated=False))
    assert RerankResult("q", (), scores).calibrated is False
    assert RerankResult("q", (), scores[:1]).calibrated is True
    assert RerankResult("q", ()).calibrated is None


def test_without_the_setting_nothing_is_marked() -> None:
    result = Reranker(backend="lexical").rank("blue whale", DOCUMENTS)
    assert result.calibrated is None
    assert {one.calibrated for one in result.results} == {None}
    assert "calibration" not in Reranker(backend="lexical").info()


@pytest.mark.parametrize("mark", [True, False])
def test_scores_that_are_marked_are_not_calibrated_again(tmp_path: Path, *, mark: bool) -> None:
    """A job's reranker gets marked scores from the service's reranker, and has the same configuration."""
    marked = PairScore(0.3, 1.0, calibrated=mark)
    config = RerankConfig(backend="lexical", calibration=write_calibration(tmp_path))
    result = Reranker(config, scorer=FakeScorer(lambda _: marked)).rank("q", ["d"])
    assert result.scores == (marked,)
    assert result.calibrated is mark


def test_a_call_with_a_score_without_log_odds_is_not_calibrated_at_all(tmp_path: Path) -> None:
    """Otherwise the order could change: by probability the first document is second, and after calibration it would be first."""
    scores = {"a": PairScore.from_log_odds(1.0), "b": PairScore(0.8)}
    config = RerankConfig(backend="lexical", calibration=write_calibration(tmp_path, fit(offset=5.0)))
    result = Reranker(config, scorer=FakeScorer(lambda request: scores[request.document])).rank(
        "q", ["a", "b"]
    )
    assert [one.relevance_score for one in result.scores] == [scores["a"].relevance_score, 0.8]
    assert result.calibrated is False
    assert [one.index for one in result.results] == [1, 0]


def test_info_names_the_fits(tmp_path: Path) -> None:
    assert lexical(tmp_path).info()["calibration"] == {"fits": [fit()]}


@pytest.mark.parametrize("make", [build_scorer, lambda config: Reranker(config).rank("q", ["d"])])
def test_a_file_of_another_model_is_refused_by_name(tmp_path: Path, make: Any) -> None:
    path = write_calibration(tmp_path, model="their/model", fingerprint="another")
    with pytest.raises(
        ConfigurationError, match=r"another model: '.*calibration.json' was fitted for 'their/model'"
    ):
        make(RerankConfig(backend="lexical", calibration=path))


def test_the_remote_backend_refuses_a_calibration_and_says_where_it_belongs() -> None:
    with pytest.raises(ConfigurationError, match=r"`calibration` is 'c.json' .*; set it at the service"):
        RerankConfig(backend="remote", base_url="http://service.test", calibration="c.json")
    with pytest.raises(ConfigurationError, match="files are not here"):
        model_fingerprint(RerankConfig(backend="remote", base_url="http://service.test"))


def _replaced(text: str) -> str:
    """The text of a file whose slope is replaced."""
    return json.dumps(content()).replace('"slope": 0.5', f'"slope": {text}')


BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "not valid JSON"),
    "cut": (json.dumps(content())[:100], "not valid JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "a list": ("[]", "the file: Input should be"),
    "another's": ('{"slope": 1.0}', "format: Field required"),
    "no format": (json.dumps({**content(), "format": "other"}), "format: Input should be"),
    "a later version": (json.dumps(content(version=2)), "version: Input should be 1"),
    "no fits": (json.dumps({**content(), "fits": []}), "fits: List should have at least 1"),
    "a fit twice": (json.dumps(content(fit(), fit())), "two fits have the same instruction"),
    "the default twice": (
        json.dumps(content(fit(), fit("d"), default_instruction="d")),
        "two fits have the same instruction",
    ),
    "a key twice": (json.dumps(content())[:-1] + ', "model": "x"}', "a key is repeated"),
    "NaN": (_replaced("NaN"), "NaN is not a number"),
    "infinite": (_replaced("Infinity"), "Infinity is not a number"),
    "overflowing": (_replaced("1e999"), r"fits.0.slope: Input should be a finite number"),
    "huge": (_replaced("1" + "0" * 400), r"fits.0.slope"),
    "longer than any": (_replaced("1" * 5000), "not valid JSON"),
    "large": (_replaced("1e7"), "fits.0.slope: Input should be less than or equal to 1000000"),
    "zero": (_replaced("0"), "fits.0.slope: Input should be greater than 0"),
    "negative": (_replaced("-0.5"), "fits.0.slope: Input should be greater than 0"),
    "a string": (_replaced('"0.5"'), "fits.0.slope: Input should be a valid number"),
    "a boolean": (_replaced("true"), "fits.0.slope: Input should be a valid number"),
    "too large": (json.dumps(content()) + " " * MAX_BYTES, "more than 8388608 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_or_foreign_file_is_refused_when_the_scorer_is_built(tmp_path: Path, name: str) -> None:
    text, reason = BAD[name]
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=reason) as caught:
        Reranker(backend="lexical", calibration=path).rank("q", ["d"])
    assert "bad.json" in str(caught.value)
    assert len(str(caught.value)) < 1000
    with pytest.raises(ConfigurationError, match=reason):
        Reranker(backend="lexical", calibration=path, scorer=LexicalScorer())


def test_bytes_that_are_not_utf8_folders_pipes_and_missing_files_are_refused(tmp_path: Path) -> None:
    """A pipe without a writer must not be waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b'{"model": "\xe9"}')
    reasons = {
        "latin": "utf-8",
        "pipe": "not a regular file",
        "": "not a regular file",
        "none": "No such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(ConfigurationError, match=reason):
            load_calibration(tmp_path / name)
