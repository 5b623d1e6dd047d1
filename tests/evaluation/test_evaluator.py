from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwen_rerank_plugins import (
    ConfigurationError,
    EngineError,
    InputError,
    PairScore,
    RerankConfig,
    ScoreRequest,
)
from qwen_rerank_plugins.evaluation import (
    Dataset,
    Evaluation,
    Plan,
    Query,
    System,
    evaluate,
    parse_measure,
    parse_target,
    read_run,
    run_from_scores,
    summarize,
    write_run,
)
from qwen_rerank_plugins.evaluation.measures import MeasureCalculator
from tests.doubles import FakeScorer
from tests.evaluation.collections import tiny

LEXICAL = RerankConfig(backend="lexical")


def numbered(num_documents: int = 10) -> tuple[Dataset, dict[str, list[str]]]:
    """A query whose only relevant document is the first stage's last one; a document's text is its score."""
    corpus = {f"d{place}": str(place / 100) for place in range(num_documents)}
    qrels = {"q": {f"d{num_documents - 1}": 1}, "lost": {"d0": 1}}
    return Dataset("numbered", corpus, {"q": Query("x")}, qrels), {"q": list(corpus)}


def evaluated(scorer: FakeScorer, *systems: System, depths: tuple[int, ...] = (10,)) -> Evaluation:
    dataset, first = numbered()
    plan = Plan(measures=(parse_measure("RR"), parse_measure("R@1")), depths=depths)
    return evaluate(dataset, first, systems or [System("one", LEXICAL)], plan, scorer=scorer)


def means(evaluation: Evaluation, name: str = "RR") -> list[float]:
    rows = summarize(evaluation)["after"]
    return [row["figures"][name]["mean"] for row in rows]


def test_a_good_reranker_raises_the_figures_and_a_lost_query_counts_as_nothing() -> None:
    found = summarize(evaluated(FakeScorer()))
    assert found["before"]["figures"]["RR"]["mean"] == pytest.approx(0.1 / 2)
    assert found["after"][0]["figures"]["RR"]["mean"] == pytest.approx(1.0 / 2)
    assert found["after"][0]["figures"]["RR"]["difference"]["mean"] == pytest.approx(0.9 / 2)
    assert found["dataset"]["judged_queries_without_text"] == 1


def test_smaller_depths_take_their_part_of_one_scoring() -> None:
    """At depth 9 the relevant document, the tenth, keeps its place behind the reranked ones."""
    scorer = FakeScorer()
    found = evaluated(scorer, depths=(9, 10))
    assert means(found) == pytest.approx([0.1 / 2, 1.0 / 2])
    assert found.outcomes[0].run["q"] == [*(f"d{place}" for place in range(8, -1, -1)), "d9"]
    assert sum(len(requests) for requests, _ in scorer.calls) == 10


def test_every_instruction_reaches_the_scorer_and_has_its_row() -> None:
    def score(request: ScoreRequest) -> PairScore:
        value = float(request.document)
        return PairScore(value if request.instruction == "rising" else 1 - value)

    systems = [System("up", LEXICAL, "rising"), System("down", LEXICAL, "falling")]
    found = evaluated(FakeScorer(score), *systems)
    assert means(found) == pytest.approx([1.0 / 2, 0.1 / 2])
    assert [row["instruction"] for row in summarize(found)["systems"]] == ["rising", "falling"]


def test_log_odds_order_what_probabilities_cannot_tell_apart() -> None:
    scorer = FakeScorer(lambda request: PairScore(1.0, log_odds=40 + float(request.document)))
    assert means(evaluated(scorer)) == pytest.approx([1.0 / 2])


def test_ties_keep_the_order_of_the_first_stage() -> None:
    found = evaluated(FakeScorer(lambda request: PairScore(0.5)))
    assert found.outcomes[0].run == found.first_stage.run


def test_thresholds_and_switches_of_a_configuration_do_not_distort_the_figures() -> None:
    config = LEXICAL.replace(top_n=1, min_score=0.99, on_error="keep_order", enabled=False)
    assert means(evaluated(FakeScorer(), System("cut", config))) == pytest.approx([1.0 / 2])


def test_a_failing_scorer_fails_the_evaluation() -> None:
    config = LEXICAL.replace(on_error="keep_order")
    with pytest.raises(EngineError, match="broken"):
        evaluated(FakeScorer(error=EngineError("broken")), System("one", config))


def test_a_saved_run_measures_as_the_figures_say(tmp_path: Path) -> None:
    """trec_eval computes the reported figures from the file, also with saturated probabilities."""
    dataset, _ = numbered()
    found = evaluated(FakeScorer(lambda request: PairScore(1.0 if float(request.document) > 0.04 else 0.0)))
    write_run(tmp_path / "out.trec", found.scored["one"].complete(10))
    again = run_from_scores(dataset, read_run(tmp_path / "out.trec"))
    assert again["q"] == found.outcomes[0].run["q"]
    values = MeasureCalculator(dataset.qrels, found.plan.measures).values(again)
    assert values.tolist() == found.outcomes[0].values.tolist()


def test_groups_have_figures_of_their_own() -> None:
    dataset = tiny()
    first = {"q1": ["d2", "d3", "d1"], "q2": ["d5", "d4"]}
    found = summarize(evaluate(dataset, first, [System("lexical", LEXICAL)]))
    assert [(group["group"], group["queries"]) for group in found["groups"]] == [
        ("English", 1),
        ("Chinese", 1),
    ]
    after = [group["rows"][1]["figures"]["RR@10"]["mean"] for group in found["groups"]]
    assert after == [1.0, 1.0]
    before = [group["rows"][0]["figures"]["RR@10"]["mean"] for group in found["groups"]]
    assert before == [0.5, 0.5]


def test_progress_counts_every_pair() -> None:
    dataset, first = numbered()
    heard: list[int] = []
    systems = [System("a", LEXICAL), System("b", LEXICAL, "other")]
    evaluate(dataset, first, systems, scorer=FakeScorer(), on_progress=heard.append)
    assert sum(heard) == 20


def test_the_summary_is_json_and_keeps_its_keys() -> None:
    found = summarize(evaluated(FakeScorer()))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == [
        "dataset", "first_stage", "measures", "depths", "resampling", "before", "after", "groups", "systems",
        "proposals", "calibration",
    ]  # fmt: skip


def test_systems_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="same name: 'a'"):
        evaluated(FakeScorer(), System("a", LEXICAL), System("a", LEXICAL, "other"))


@pytest.mark.parametrize("depths", [(), (0,), (10, -1)])
def test_depths_below_one_are_refused(depths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="depths are not valid"):
        Plan(depths=depths)


# Proposals


def targeted(target: str) -> list[tuple[str, str, float | None, float]]:
    """Four queries with the relevant document at places 1, 1, 2 and 4; scores fall by 0.2 from 0.9 on."""
    places = [1, 1, 2, 4]
    corpus = {f"{query}-{place}": str(1.1 - 0.2 * place) for query in range(4) for place in range(1, 5)}
    dataset = Dataset(
        "t",
        corpus,
        {str(query): Query("x") for query in range(4)},
        {str(query): {f"{query}-{place}": 1} for query, place in enumerate(places)},
    )
    first = {str(query): [f"{query}-{place}" for place in range(1, 5)] for query in range(4)}
    plan = Plan(targets=(parse_target(target),))
    found = evaluate(dataset, first, [System("s", LEXICAL)], plan, scorer=FakeScorer())
    (proposal,) = summarize(found)["proposals"]
    return [(one["name"], one["by"], one["value"], one["mean"]) for one in proposal["settings"]]


def test_the_strictest_settings_that_reach_a_target_are_proposed() -> None:
    top_n, min_score = targeted("recall@10=0.75")[:2]
    assert list(top_n) == ["top_n", "mean", 2, 0.75]
    assert min_score[:2] == ("min_score", "mean")
    assert min_score[2] == pytest.approx(0.7, abs=1e-6)
    assert min_score[3] == 0.75


def test_the_cautious_settings_are_longer_lists() -> None:
    """With two documents one query of four misses, and many resamples contain it twice."""
    top_n, min_score = targeted("recall@10=0.75")[2:]
    assert list(top_n) == ["top_n", "interval", 4, 1.0]
    assert min_score[2] == pytest.approx(0.3, abs=1e-6)


def test_a_target_beyond_reach_is_reported() -> None:
    values = [setting[2] for setting in targeted("P@5=0.9")]
    assert values == [None, None, None, None]


@pytest.mark.parametrize("text", ["R@5", "R@5=0", "R@5=1.5", "R@5=x", "=0.5", "R=0.5"])
def test_a_wrong_target_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"target|measure"):
        parse_target(text)
