"""Fitting a calibration: the arithmetic, the folds, data that cannot be fitted, and the command that writes the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from qwen_rerank_plugins import ConfigurationError, InputError, PairScore, RerankConfig, Reranker
from qwen_rerank_plugins.calibration import load_calibration
from qwen_rerank_plugins.cli.app import app
from qwen_rerank_plugins.evaluation import (
    CalibrationPlan,
    Dataset,
    Evaluation,
    Plan,
    Query,
    System,
    evaluate,
    platt,
    summarize,
)
from qwen_rerank_plugins.evaluation.platt import cross_validate, fit_platt
from qwen_rerank_plugins.evaluation.report.page import render_report
from qwen_rerank_plugins.evaluation.report.plots import draw_plots
from qwen_rerank_plugins.types import logistic
from tests.doubles import FakeScorer
from tests.evaluation.collections import write_beir

LEXICAL = RerankConfig(backend="lexical")


def judged(num_queries: int = 30, slope: float = 0.25, offset: float = -1.0) -> Dataset:
    """Queries with ten judged documents, whose text is their log-odds, relevant with the probability of a known fit."""
    rng = np.random.default_rng(0)
    corpus: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for number in range(num_queries):
        grades = {}
        for place, value in enumerate(rng.normal(0.0, 8.0, size=10).tolist()):
            corpus[f"d{number}-{place}"] = repr(value)
            grades[f"d{number}-{place}"] = 2 * int(rng.random() < logistic(slope * value + offset))
        qrels[f"q{number}"] = grades
    return Dataset("judged", corpus, {query_id: Query(query_id) for query_id in qrels}, qrels)


def by_text(default_instruction: str | None = None) -> FakeScorer:
    scorer = FakeScorer(lambda request: PairScore.from_log_odds(float(request.document)))
    scorer.info = lambda: {"model": "fake", "default_instruction": default_instruction}  # type: ignore[method-assign]
    return scorer


def fitted(
    dataset: Dataset, *systems: System, plan: CalibrationPlan | None = None, scorer: FakeScorer | None = None
) -> Evaluation:
    first = {query_id: list(grades) for query_id, grades in dataset.qrels.items()}
    chosen = Plan(calibration=plan or CalibrationPlan())
    return evaluate(dataset, first, systems or [System("one", LEXICAL)], chosen, scorer=scorer or by_text())


def summary_of(evaluation: Evaluation) -> dict[str, Any]:
    assert evaluation.calibration is not None
    return evaluation.calibration.summary()


# The arithmetic.


def test_the_fit_has_the_least_loss_over_smoothed_targets() -> None:
    """Platt's targets; a grid around the fit finds nothing better."""
    log_odds = np.array([-40.0, -7.0, -1.0, 0.5, 2.0, 3.0, 60.0])
    is_relevant = np.array([False, False, True, False, True, True, True])
    targets = np.where(is_relevant, 5 / 6, 1 / 5)

    def loss(slope: float, offset: float) -> float:
        probabilities = np.array([logistic(slope * one + offset) for one in log_odds.tolist()])
        return float(-(targets * np.log(probabilities) + (1 - targets) * np.log1p(-probabilities)).sum())

    slope, offset = fit_platt(log_odds, is_relevant)
    least = loss(slope, offset)
    for change in (1e-3, 1e-2, 0.1):
        for around in ((change, 0.0), (-change, 0.0), (0.0, change), (0.0, -change), (change, change)):
            assert loss(slope * (1 + around[0]), offset + around[1]) > least


def test_a_known_fit_is_found_again_and_separated_classes_stay_finite() -> None:
    rng = np.random.default_rng(1)
    log_odds = rng.normal(0.0, 8.0, size=20_000)
    is_relevant = rng.random(20_000) < 1 / (1 + np.exp(-(0.25 * log_odds - 1.0)))
    assert fit_platt(log_odds, is_relevant) == pytest.approx((0.25, -1.0), abs=0.05)
    slope, offset = fit_platt(np.array([-1e4, -9e3, 9e3, 1e4]), np.array([False, False, True, True]))
    assert slope > 0
    assert logistic(slope * 1e4 + offset) == pytest.approx(3 / 4, abs=0.02)


def test_the_order_of_the_pairs_changes_no_digit_that_matters() -> None:
    log_odds, is_relevant = np.arange(40.0) - 20, np.arange(40) % 3 > 0
    backwards = fit_platt(log_odds[::-1], is_relevant[::-1])
    assert fit_platt(log_odds, is_relevant) == pytest.approx(backwards, rel=1e-9)


@pytest.mark.parametrize(
    ("log_odds", "is_relevant"),
    [([1.0, 2.0], [True, True]), ([1.0, 2.0], [False, False]), ([1.0, 1.0], [True, False])],
)
def test_one_class_or_one_score_cannot_be_fitted(log_odds: list[float], is_relevant: list[bool]) -> None:
    with pytest.raises(InputError, match="all relevant, all irrelevant, or all of the same score"):
        fit_platt(np.array(log_odds), np.array(is_relevant))


def test_each_query_is_held_out_once_with_all_its_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of one query are alike: fitting on some of them would make the others look better than new queries."""
    fitted_on: list[set[int]] = []

    def spy(log_odds: Any, is_relevant: Any) -> tuple[float, float]:
        numbers, counts = np.unique(np.floor(log_odds), return_counts=True)
        assert set(counts.tolist()) == {4}
        fitted_on.append(set(numbers.astype(int).tolist()))
        return fit_platt(log_odds, is_relevant)

    monkeypatch.setattr(platt, "fit_platt", spy)
    queries = np.repeat(np.arange(12), 4)
    log_odds = queries + np.tile([0.1, 0.2, 0.3, 0.4], 12)
    cross_validate(log_odds, np.arange(48) % 4 > 1, queries, seed=3)
    held_out = [number for one in fitted_on for number in set(range(12)) - one]
    assert sorted(held_out) == list(range(12))
    assert len(fitted_on) == 5


def test_the_figures_are_those_of_their_definitions() -> None:
    """Before: 0.5 for all, of which a half is relevant, so no calibration error; Brier 0.25."""
    log_odds = np.tile([0.0, 1e-9], 20)
    is_relevant = np.tile([True, False, False, True], 10)
    found = cross_validate(log_odds, is_relevant, np.repeat(np.arange(10), 4), seed=0)
    assert found.before.brier == pytest.approx(0.25)
    assert found.before.ece == pytest.approx(0.0, abs=1e-6)
    (filled,) = [one for one in found.before.bins if one.num_pairs]
    assert (filled.low, filled.num_pairs, filled.relevant) == (0.5, 40, 0.5)
    assert filled.mean == pytest.approx(0.5)
    first, last = found.thresholds[0], found.thresholds[-1]
    assert (first.threshold, first.num_pairs, first.precision, first.recall) == (0.05, 40, 0.5, 1.0)
    assert (last.threshold, last.num_pairs, last.precision, last.recall) == (0.95, 0, None, 0.0)


# Judged data.


def test_a_miscalibrated_scorer_is_corrected_on_held_out_queries() -> None:
    (fit,) = summary_of(fitted(judged(100)))["fits"]
    assert (fit["slope"], fit["offset"]) == (pytest.approx(0.25, abs=0.04), pytest.approx(-1.0, abs=0.25))
    assert (fit["num_pairs"], fit["num_queries"]) == (1000, 100)
    before, after = fit["held_out"]["before"], fit["held_out"]["after"]
    assert after["ece"] < 0.05
    assert before["ece"] > 0.15
    assert after["brier"] < before["brier"] - 0.05


def test_the_seed_decides_the_folds_and_nothing_else() -> None:
    first, again = summary_of(fitted(judged())), summary_of(fitted(judged()))
    assert first == again
    assert first["fits"][0]["held_out"]["seed"] == 0


def test_a_grade_below_the_chosen_one_is_irrelevant() -> None:
    dataset = judged()
    for grades in dataset.qrels.values():
        grades[next(iter(grades))] = 1  # type: ignore[index]
    (low,) = summary_of(fitted(dataset))["fits"]
    (high,) = summary_of(fitted(dataset, plan=CalibrationPlan(relevant_grade=2)))["fits"]
    assert low["num_relevant"] == high["num_relevant"] + 30
    with pytest.raises(ConfigurationError, match="relevant_grade is not valid: 0"):
        CalibrationPlan(relevant_grade=0)


def test_each_instruction_of_the_queries_is_fitted_and_scored_by_itself() -> None:
    dataset = judged(60)
    queries = {
        query_id: Query(query_id, instruction="odd" if number % 2 else None)
        for number, query_id in enumerate(dataset.queries)
    }
    mixed = Dataset(dataset.name, dataset.corpus, queries, dataset.qrels)
    scorer = by_text()
    found = summary_of(fitted(mixed, scorer=scorer))
    assert [(one["instruction"], one["num_queries"]) for one in found["fits"]] == [(None, 30), ("odd", 30)]
    asked = {(request.query, request.instruction) for requests, _ in scorer.calls for request in requests}
    assert asked == {(query_id, query.instruction) for query_id, query in queries.items()}
    systems = [System("a", LEXICAL, "first"), System("b", LEXICAL, "second")]
    both = summary_of(fitted(mixed, *systems))
    assert [one["instruction"] for one in both["fits"]] == ["first", "second"]
    assert [one["num_queries"] for one in both["fits"]] == [60, 60]


def test_the_default_instruction_may_be_written_out_for_all_queries_not_for_some() -> None:
    dataset = judged()
    given = {query_id: Query(query_id, instruction="d") for query_id in dataset.queries}
    found = summary_of(fitted(Dataset("x", dataset.corpus, given, dataset.qrels), scorer=by_text("d")))
    assert (found["default_instruction"], found["fits"][0]["instruction"]) == ("d", "d")
    some = {**given, **{query_id: Query(query_id) for query_id in list(given)[:15]}}
    with pytest.raises(InputError, match="for some queries only"):
        fitted(Dataset("x", dataset.corpus, some, dataset.qrels), scorer=by_text("d"))


def test_too_few_pairs_or_one_class_is_reported_before_anything_is_scored() -> None:
    few, relevant = judged(5), judged()
    only = {query_id: dict.fromkeys(grades, 1) for query_id, grades in relevant.qrels.items()}
    for dataset, counts in (
        (few, r"\d+ relevant and \d+ irrelevant pairs of 5 queries"),
        (Dataset("x", relevant.corpus, relevant.queries, only), "300 relevant and 0 irrelevant pairs"),
    ):
        scorer = by_text()
        with pytest.raises(
            InputError, match=f"too few judged pairs to fit the default instruction: {counts}"
        ):
            fitted(dataset, scorer=scorer)
        assert scorer.calls == []


def test_unjudged_documents_of_the_first_stage_can_count_as_irrelevant() -> None:
    """Where only relevant documents are judged, as in many collections."""
    dataset = judged()
    positives = {
        query_id: {doc_id: grade for doc_id, grade in grades.items() if grade}
        for query_id, grades in dataset.qrels.items()
    }
    bare = Dataset(
        "x", dataset.corpus, dataset.queries, {key: value for key, value in positives.items() if value}
    )
    first = {query_id: list(dataset.qrels[query_id]) for query_id in bare.qrels}
    plan = Plan(calibration=CalibrationPlan(with_unjudged=True))
    found = summary_of(evaluate(bare, first, [System("one", LEXICAL)], plan, scorer=by_text()))
    expected = summary_of(
        fitted(Dataset("x", dataset.corpus, dataset.queries, {key: dataset.qrels[key] for key in first}))
    )
    for name in ("slope", "offset"):
        assert found["fits"][0][name] == pytest.approx(expected["fits"][0][name])


def test_scores_that_do_not_order_the_data_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"do not order the judged pairs of the default instruction: the slope is -0\.2"
    ):
        fitted(judged(100, slope=-0.25))


def test_scores_without_log_odds_other_models_and_services_are_refused() -> None:
    with pytest.raises(InputError, match="no log-odds"):
        fitted(judged(), scorer=FakeScorer(lambda request: PairScore(logistic(float(request.document)))))
    other = System("other", LEXICAL.replace(max_length=512))
    with pytest.raises(ConfigurationError, match="one model"):
        fitted(judged(), System("one", LEXICAL), other)
    remote = System("remote", RerankConfig(backend="remote", base_url="http://service.test"))
    with pytest.raises(ConfigurationError, match="files are not here"):
        fitted(judged(), remote)


def test_the_report_has_a_reliability_diagram_per_instruction() -> None:
    """Bins without pairs have no point; markup in an instruction stays text."""
    saturated = FakeScorer(
        lambda request: PairScore.from_log_odds(20.0 if "-" in request.document else -20.0)
    )
    evaluation = fitted(judged(slope=-0.25), System("one", LEXICAL, "<b>mine</b>"), scorer=saturated)
    summary = summarize(evaluation)
    plots = [plot for plot in draw_plots(evaluation, summary) if plot.title.startswith("Reliability")]
    assert [plot.title for plot in plots] == ["Reliability, <b>mine</b>"]
    for moment in ("before", "after"):
        bins = summary["calibration"]["fits"][0]["held_out"][moment]["bins"]
        points = [one["relevant"] for one in bins if one["num_pairs"]]
        assert 2 <= len(points) < len(bins)
        assert json.dumps(points, separators=(",", ":")) in plots[0].html.replace(" ", "")
    page = render_report(evaluation)
    assert "Reliability, &lt;b&gt;mine" in page
    assert "<b>mine" not in page


# The command.


def run(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, ["evaluate", "--backend", "lexical", "--resamples", "10", *map(str, arguments)]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve queries of two relevant and two irrelevant documents each; words tell most of them apart."""
    corpus: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    queries: dict[str, Query] = {}
    for number in range(12):
        word = f"word{number}"
        texts = (word, f"{word} and more", "nothing of it", f"{word} other" if number % 3 == 0 else "no")
        ids = [f"d{number}-{place}" for place in range(4)]
        corpus |= dict(zip(ids, texts, strict=True))
        queries[f"q{number}"] = Query(word)
        qrels[f"q{number}"] = dict(zip(ids, (2, 1, 0, 0), strict=True))
    return write_beir(tmp_path / "words", Dataset("words", corpus, queries, qrels))


def test_the_command_writes_a_file_that_the_setting_takes(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("earlier", encoding="utf-8")
    result = run("--dataset", folder, "--calibrate", path, "--relevant-grade", 2)
    assert result.exit_code == 0, result.stderr
    assert f"written: {path}" in result.stderr
    for part in (
        "48 pairs, 12 of them relevant (grade",
        "Brier score",
        "expected calibration error",
        "recall",
    ):
        assert part in result.stdout
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.json", "words"]
    (fit,) = load_calibration(path, fingerprint="lexical").fits
    ranked = Reranker(backend="lexical", calibration=path).rank("word1", ["word1 and more"]).results[0]
    assert ranked.relevance_score == pytest.approx(logistic(fit.slope * (ranked.log_odds or 0) + fit.offset))
    again = run("--dataset", folder, "--calibrate", path, "--relevant-grade", 2, "--format", "json")
    assert json.loads(again.stdout)["calibration"] == json.loads(path.read_text(encoding="utf-8"))


def test_a_configured_calibration_is_not_in_the_way_of_a_new_one(folder: Path, tmp_path: Path) -> None:
    """It may belong to the previous model, or not exist yet."""
    path = tmp_path / "out.json"
    assert run("--dataset", folder, "--calibration", path, "--calibrate", path).exit_code == 0
    refused = run("--dataset", folder, "--calibration", tmp_path / "none.json")
    assert (refused.exit_code, "none.json" in refused.stderr) == (2, True)


@pytest.mark.parametrize("place", ["", "missing/out.json"])
def test_a_place_that_cannot_be_written_is_refused_before_scoring(
    folder: Path, tmp_path: Path, place: str
) -> None:
    result = run("--dataset", folder / "none", "--calibrate", tmp_path / place)
    assert (result.exit_code, "cannot be written" in result.stderr) == (2, True)


def test_an_instruction_in_the_queries_file_is_read(tmp_path: Path) -> None:
    from qwen_rerank_plugins.evaluation import load_files, load_rows

    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    corpus, qrels = write("c.jsonl", '{"_id": "d", "text": "t"}\n'), write("qrels.tsv", "a\td\t1\nb\td\t1\n")
    queries = (
        '{"_id": "a", "text": "q", "instruction": "mine"}\n{"_id": "b", "text": "q", "instruction": " "}\n'
    )
    dataset = load_files(corpus=corpus, queries=write("q.jsonl", queries), qrels=qrels)
    assert [query.instruction for query in dataset.queries.values()] == ["mine", None]
    rows = write(
        "rows.jsonl", '{"query": "q", "instruction": "mine", "positive": ["p"], "negative": ["n"]}\n'
    )
    assert [query.instruction for query in load_rows(rows).queries.values()] == ["mine"]
    with pytest.raises(InputError, match="'instruction' must be a string, not int"):
        load_files(corpus=corpus, queries=write("q.jsonl", queries.replace('"mine"', "7")), qrels=qrels)
