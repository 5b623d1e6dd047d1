"""Evaluate systems: rerank a first stage with each of them and compute measures before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.evaluation.bootstrap import Intervals, Resampling
from qwen_rerank_plugins.evaluation.calibration import (
    CalibrationPlan,
    FittedCalibration,
    documents_to_fit,
    fit_calibration,
    group_queries,
)
from qwen_rerank_plugins.evaluation.datasets.dataset import Dataset, Run
from qwen_rerank_plugins.evaluation.measures import (
    DEFAULT_MEASURES,
    Measure,
    MeasureCalculator,
    Values,
    parse_measure,
)
from qwen_rerank_plugins.evaluation.proposals import Proposal, Target, propose
from qwen_rerank_plugins.evaluation.scoring import (
    OnProgress,
    ScoredRun,
    System,
    check_systems,
    score_run,
)
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.scorers import model_fingerprint
from qwen_rerank_plugins.types import Scorer

__all__ = ["DEFAULT_DEPTH", "Evaluation", "Outcome", "Plan", "evaluate"]

DEFAULT_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of an evaluation.

    Attributes:
        measures: The measures; the first one orders queries by gain and loss in the report.
        depths: Documents per query to rerank; documents behind the depth keep their positions.
        targets: Targets to propose settings for.
        resampling: The settings of the intervals.
        calibration: What to fit a calibration on; None for no calibration.

    Raises:
        ConfigurationError: There are no measures, or a number is less than 1.
    """

    measures: tuple[Measure, ...] = tuple(map(parse_measure, DEFAULT_MEASURES))
    depths: tuple[int, ...] = (DEFAULT_DEPTH,)
    targets: tuple[Target, ...] = ()
    resampling: Resampling = field(default_factory=Resampling)
    calibration: CalibrationPlan | None = None

    def __post_init__(self) -> None:
        if not self.measures:
            raise ConfigurationError("measures are empty: (); name at least one")
        if not self.depths or min(self.depths) < 1:
            raise ConfigurationError(
                f"depths are not valid: {self.depths!r}; use one or several integers of at least 1"
            )
        if self.resampling.resamples < 1:
            raise ConfigurationError(f"resamples is not valid: {self.resampling.resamples!r}; use at least 1")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The measures of one ranking.

    Attributes:
        name: Name of the system or the first stage.
        depth: Documents per query that were reranked; None for the first stage.
        run: The ranked lists.
        values: One row per judged query, one column per measure.
        intervals: Intervals of the means.
        differences: Intervals of the mean differences from the first stage; None for the first stage.
    """

    name: str
    depth: int | None
    run: Run
    values: Values
    intervals: Intervals
    differences: Intervals | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        dataset: The judged collection.
        plan: The settings of the evaluation.
        first_stage: The measures before reranking.
        outcomes: The measures after reranking, by system and then by depth.
        systems: The systems by name.
        scored: Their scores at the largest depth, by name.
        proposals: The proposed settings for the targets.
        calibration: The fitted calibration, if the plan has one.
    """

    dataset: Dataset
    plan: Plan
    first_stage: Outcome
    outcomes: tuple[Outcome, ...]
    systems: Mapping[str, System]
    scored: Mapping[str, ScoredRun]
    proposals: tuple[Proposal, ...] = ()
    calibration: FittedCalibration | None = None

    def deepest(self) -> tuple[Outcome, ...]:
        """Return each system's outcome at the largest depth."""
        return tuple(outcome for outcome in self.outcomes if outcome.depth == max(self.plan.depths))


def evaluate(
    dataset: Dataset,
    first: Run,
    systems: Sequence[System],
    plan: Plan | None = None,
    *,
    first_name: str = "first stage",
    scorer: Scorer | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Rerank a first stage with each system and compute measures before and after.

    Each system scores once, at the largest depth; smaller depths use a part of these scores. Models are loaded one after
    another, and once for all instructions of the same settings.

    Args:
        dataset: The judged collection.
        first: The lists of the first stage.
        systems: The systems to compare.
        plan: The settings of the evaluation; None for the defaults.
        first_name: The name of the first stage.
        scorer: Replaces the scorers of the systems' settings; for tests.
        on_progress: Called with the number of pairs scored since the last call.

    Raises:
        ConfigurationError: A system's settings are not valid, or two systems have the same name.
        RerankError: Scoring failed.
    """
    plan = plan or Plan()
    check_systems(systems)
    calculator = MeasureCalculator(dataset.qrels, plan.measures)
    before = _outcome(first_name, None, first, calculator, plan, None)
    runs: list[tuple[Run, int | None]] = [(first, max(plan.depths))]
    if plan.calibration is not None:
        fingerprint = _fingerprint(systems)
        to_fit = documents_to_fit(dataset, first, max(plan.depths), plan.calibration)
        groups = group_queries(dataset, systems, to_fit, plan.calibration)
        runs.append((to_fit, None))
    scored, *judged = _score_all(dataset, runs, systems, scorer, on_progress)
    calibration = None
    if plan.calibration is not None:
        calibration = fit_calibration(
            dataset, groups, judged[0], plan.calibration, fingerprint=fingerprint, seed=plan.resampling.seed
        )
    outcomes = [
        _outcome(name, depth, _ids(scored_run, depth), calculator, plan, before)
        for name, scored_run in scored.items()
        for depth in sorted(plan.depths)
    ]
    return Evaluation(
        dataset=dataset,
        plan=plan,
        first_stage=before,
        outcomes=tuple(outcomes),
        systems={system.name: system for system in systems},
        scored=scored,
        proposals=tuple(_proposals(dataset, scored, plan)),
        calibration=calibration,
    )


def _fingerprint(systems: Sequence[System]) -> str:
    """Return the fingerprint of the systems' model, of which a calibration is."""
    config = systems[0].config
    if any(system.config != config for system in systems):
        raise ConfigurationError("a calibration is of one model; remove the other configurations")
    return model_fingerprint(config)


def _score_all(
    dataset: Dataset,
    runs: Sequence[tuple[Run, int | None]],
    systems: Sequence[System],
    scorer: Scorer | None,
    on_progress: OnProgress | None,
) -> list[dict[str, ScoredRun]]:
    """Score the first documents of several runs with each system; returns the systems' scores of each run."""
    scored: list[dict[str, ScoredRun]] = [{} for _ in runs]
    reranker: Reranker | None = None
    try:
        for system in systems:
            config = system.config.replace(enabled=True, on_error="raise")
            if reranker is None or reranker.config != config:
                if reranker is not None:  # frees memory for the next model
                    reranker.close()
                reranker = Reranker(config, scorer=scorer)
            for own, (run, depth) in zip(scored, runs, strict=True):
                own[system.name] = score_run(
                    reranker, system, dataset, run, depth=depth, on_progress=on_progress
                )
    finally:
        if reranker is not None:
            reranker.close()
    return scored


def _outcome(
    name: str, depth: int | None, run: Run, calculator: MeasureCalculator, plan: Plan, before: Outcome | None
) -> Outcome:
    values = calculator.values(run)
    intervals = plan.resampling.intervals
    differences = None if before is None else intervals(values - before.values)
    return Outcome(name, depth, run, values, intervals(values), differences)


def _ids(scored: ScoredRun, depth: int) -> dict[str, list[str]]:
    return {query_id: [doc_id for doc_id, _ in pairs] for query_id, pairs in scored.complete(depth).items()}


def _proposals(dataset: Dataset, scored: Mapping[str, ScoredRun], plan: Plan) -> list[Proposal]:
    proposals: list[Proposal] = []
    for name, scored_run in scored.items():
        pairs = {
            query_id: [(doc_id, score.relevance_score) for doc_id, score in ranked]
            for query_id, ranked in scored_run.reranked(max(plan.depths)).items()
        }
        proposals += [propose(name, target, dataset.qrels, pairs, plan.resampling) for target in plan.targets]
    return proposals
