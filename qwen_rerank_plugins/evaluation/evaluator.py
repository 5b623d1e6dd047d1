"""The evaluation itself: a first stage, reranked by one system or several, measured before and after.

Knows no file form, no option and nothing of how figures are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.evaluation.bootstrap import Intervals, Resampling
from qwen_rerank_plugins.evaluation.datasets.dataset import Dataset, Run
from qwen_rerank_plugins.evaluation.measures import DEFAULT_MEASURES, Measure, Meter, Values, parse_measure
from qwen_rerank_plugins.evaluation.proposals import Proposal, Target, propose
from qwen_rerank_plugins.evaluation.scoring import (
    OnProgress,
    ScoredRun,
    System,
    check_comparable,
    score_run,
)
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.types import Scorer

__all__ = ["DEFAULT_DEPTH", "Evaluation", "Outcome", "Plan", "evaluate"]

DEFAULT_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how.

    Attributes:
        measures: The columns of every figure; the first one orders queries by gain and loss.
        depths: How many documents of each list are reranked; what lies behind stays where it was.
        targets: What settings are proposed for.
        resampling: How intervals are found.
    """

    measures: tuple[Measure, ...] = tuple(map(parse_measure, DEFAULT_MEASURES))
    depths: tuple[int, ...] = (DEFAULT_DEPTH,)
    targets: tuple[Target, ...] = ()
    resampling: Resampling = field(default_factory=Resampling)

    def __post_init__(self) -> None:
        if not self.measures:
            raise ConfigurationError("no measures: (); allowed: at least one")
        if not self.depths or min(self.depths) < 1:
            raise ConfigurationError(
                f"depths are not valid: {self.depths!r}; allowed: integers of at least 1"
            )
        if self.resampling.resamples < 1:
            raise ConfigurationError(
                f"resamples is not valid: {self.resampling.resamples!r}; allowed: at least 1"
            )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of figures.

    Attributes:
        name: The system's name, or the first stage's.
        depth: How deep was reranked; None for the first stage.
        run: The lists that were measured.
        values: One row a judged query, one column a measure.
        intervals: Of the means.
        differences: Of the mean differences from the first stage; None for the first stage itself.
    """

    name: str
    depth: int | None
    run: Run
    values: Values
    intervals: Intervals
    differences: Intervals | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was found out.

    Attributes:
        dataset: What was evaluated on.
        plan: What was measured.
        first_stage: Figures before reranking.
        outcomes: Figures after it, system by system, and within one by depth.
        systems: The systems by name.
        scored: Their scores, at the largest depth.
        proposals: Settings for the targets.
    """

    dataset: Dataset
    plan: Plan
    first_stage: Outcome
    outcomes: tuple[Outcome, ...]
    systems: Mapping[str, System]
    scored: Mapping[str, ScoredRun]
    proposals: tuple[Proposal, ...] = ()

    def deepest(self) -> tuple[Outcome, ...]:
        """Give each system's figures at the largest depth."""
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
    """Rerank a first stage and measure it before and after.

    Each system scores once, at the largest depth; smaller depths take their part of these scores. Models are
    loaded one after another, and once for all instructions of the same settings.

    Args:
        dataset: The judged collection.
        first: The lists, in their order.
        systems: What is compared.
        plan: What is measured.
        first_name: What to call the first stage.
        scorer: Scores in place of the ones that the systems' settings mean; for tests.
        on_progress: Hears the number of pairs scored since it was last called.

    Raises:
        ConfigurationError: A system cannot be used, or two have one name.
        RerankError: Scoring failed.
    """
    plan = plan or Plan()
    check_comparable(systems)
    meter = Meter(dataset.qrels, plan.measures)
    before = _outcome(first_name, None, first, meter, plan, None)
    scored = _score_all(dataset, first, systems, max(plan.depths), scorer, on_progress)
    outcomes = [
        _outcome(name, depth, _ids(scored_run, depth), meter, plan, before)
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
    )


def _score_all(
    dataset: Dataset,
    first: Run,
    systems: Sequence[System],
    depth: int,
    scorer: Scorer | None,
    on_progress: OnProgress | None,
) -> dict[str, ScoredRun]:
    scored: dict[str, ScoredRun] = {}
    reranker: Reranker | None = None
    try:
        for system in systems:
            config = system.config.replace(enabled=True, on_error="raise")
            if reranker is None or reranker.config != config:
                if reranker is not None:  # its memory goes before the next model needs it
                    reranker.close()
                reranker = Reranker(config, scorer=scorer)
            scored[system.name] = score_run(
                reranker, dataset, first, depth=depth, instruction=system.instruction, on_progress=on_progress
            )
    finally:
        if reranker is not None:
            reranker.close()
    return scored


def _outcome(
    name: str, depth: int | None, run: Run, meter: Meter, plan: Plan, before: Outcome | None
) -> Outcome:
    values = meter.values(run)
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
