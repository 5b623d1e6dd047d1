"""Score the documents of a first stage with a reranker. Uses no judgements and no measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.evaluation.datasets.dataset import Dataset, Query, Run
from qwen_rerank_plugins.evaluation.runs import ScoredList, logit
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.types import PairScore

__all__ = ["OnProgress", "ScoredRun", "System", "score_run"]

OnProgress = Callable[[int], None]
"""Called with the number of pairs that were scored since the last call."""

CALL_PAIRS = 512
"""Pairs per call to the reranker: enough to fill batches, and for several calls to a service."""


@dataclass(frozen=True, slots=True)
class System:
    """A reranker configuration to evaluate.

    Attributes:
        name: The name in tables and files.
        config: The settings; `top_n`, `min_score`, `enabled` and `on_error` are ignored.
        instruction: The instruction; None for that of the query, the configuration or the family.
    """

    name: str
    config: RerankConfig
    instruction: str | None = None

    def instruction_of(self, query: Query) -> str | None:
        """Return the instruction for a query; None for the family's."""
        choices = (self.instruction, query.instruction, self.config.instruction)
        return next((one for one in choices if one is not None), None)


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """A first stage with the scores of a reranker.

    Attributes:
        first: Query id → all documents, in the order of the first stage.
        scores: Query id → scores of the first documents, as far as they were scored.
        model: The scorer's model name.
        default_instruction: What the model uses for a request without an instruction, as far as known.
    """

    first: Run
    scores: Mapping[str, Sequence[PairScore]]
    model: str = ""
    default_instruction: str | None = None

    def num_pairs(self) -> int:
        """Return the number of scored pairs."""
        return sum(map(len, self.scores.values()))

    def num_tokens(self) -> int:
        """Return the tokens of these pairs without prefix sharing."""
        return sum(score.num_tokens for scores in self.scores.values() for score in scores)

    def num_truncated(self) -> int:
        """Return the number of pairs whose query or document was truncated."""
        return sum(one.truncated or one.query_truncated for scores in self.scores.values() for one in scores)

    def reranked(self, depth: int) -> dict[str, list[tuple[str, PairScore]]]:
        """Rank the first `depth` documents of every list, best first; ties keep the first stage's order."""
        lists: dict[str, list[tuple[str, PairScore]]] = {}
        for query_id, doc_ids in self.first.items():
            scores = self.scores.get(query_id, ())[:depth]
            pairs = list(zip(doc_ids[: len(scores)], scores, strict=True))
            lists[query_id] = sorted(pairs, key=lambda pair: -effective_log_odds(pair[1]))
        return lists

    def complete(self, depth: int) -> dict[str, ScoredList]:
        """Rank the first `depth` documents and append the others in their order, with lower scores."""
        lists: dict[str, ScoredList] = {}
        for query_id, pairs in self.reranked(depth).items():
            ranked = [(doc_id, effective_log_odds(score)) for doc_id, score in pairs]
            floor = ranked[-1][1] if ranked else 0.0
            rest = self.first[query_id][len(ranked) :]
            lists[query_id] = [*ranked, *((doc, floor - offset) for offset, doc in enumerate(rest, start=1))]
        return lists


def effective_log_odds(score: PairScore) -> float:
    """Return a score's log-odds, or the logit of its probability if a service returned none."""
    return logit(score.relevance_score) if score.log_odds is None else score.log_odds


def score_run(
    reranker: Reranker,
    system: System,
    dataset: Dataset,
    first: Run,
    *,
    depth: int | None,
    on_progress: OnProgress | None = None,
) -> ScoredRun:
    """Score the first `depth` documents of every list.

    Args:
        reranker: Scores the pairs.
        system: Chooses each query's instruction.
        dataset: The texts of queries and documents.
        first: The lists.
        depth: Documents per query to score; None for all.
        on_progress: Called after each call to the reranker.

    Raises:
        RerankError: Scoring failed.
    """
    scores: dict[str, Sequence[PairScore]] = {}
    instructions = {
        query_id: system.instruction_of(dataset.queries[query_id])
        for query_id, doc_ids in first.items()
        if doc_ids
    }
    for query_ids in _calls(first, depth, instructions):
        results = reranker.rank_many(
            [dataset.queries[query_id].text for query_id in query_ids],
            [[dataset.corpus[doc_id] for doc_id in first[query_id][:depth]] for query_id in query_ids],
            top_n=None,
            min_score=None,
            instruction=instructions[query_ids[0]],
        )
        for query_id, result in zip(query_ids, results, strict=True):
            scores[query_id] = result.scores
        if on_progress is not None:
            on_progress(sum(len(result.scores) for result in results))
    return ScoredRun(first, scores, reranker.model, reranker.info().get("default_instruction"))


def check_systems(systems: Sequence[System]) -> None:
    """Check that there are systems and that their names are distinct.

    Raises:
        ConfigurationError: There are none, or two have the same name.
    """
    names = [system.name for system in systems]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ConfigurationError(f"two systems have the same name: {repeated!r}; rename one of them")
    if not systems:
        raise ConfigurationError("there are no systems to evaluate; pass at least one")


def _calls(first: Run, depth: int | None, instructions: Mapping[str, str | None]) -> Iterator[list[str]]:
    """Group the queries that have documents into calls of about `CALL_PAIRS` pairs and one instruction."""
    groups: dict[str | None, list[str]] = {}
    for query_id, instruction in instructions.items():
        group = groups.setdefault(instruction, [])
        group.append(query_id)
        if sum(len(first[one][:depth]) for one in group) >= CALL_PAIRS:
            yield groups.pop(instruction)
    yield from groups.values()
