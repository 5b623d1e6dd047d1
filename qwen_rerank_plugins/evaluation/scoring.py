"""The documents of a first stage, scored by a reranker. Knows no judgement and no measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.evaluation.datasets.dataset import Dataset, Run
from qwen_rerank_plugins.evaluation.runs import ScoredList, logit
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.types import PairScore

__all__ = ["OnProgress", "ScoredRun", "System", "score_run"]

OnProgress = Callable[[int], None]
"""Hears the number of pairs that were scored since the last call."""

PAIRS_OF_A_CALL = 512
"""Pairs handed to the reranker at once: enough to fill batches and several calls to a service."""


@dataclass(frozen=True, slots=True)
class System:
    """A way to rerank.

    Attributes:
        name: Shown beside its figures.
        config: The settings; `top_n`, `min_score`, `enabled` and `on_error` have no influence.
        instruction: What relevance means; None for the configuration's, else the family's.
    """

    name: str
    config: RerankConfig
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """A first stage with scores.

    Attributes:
        first: Query id → all documents, as the first stage has them.
        scores: Query id → scores of the first so many of them.
        model: The name that the scorer goes by.
    """

    first: Run
    scores: Mapping[str, Sequence[PairScore]]
    model: str = ""

    def num_pairs(self) -> int:
        """How many pairs were scored."""
        return sum(map(len, self.scores.values()))

    def num_tokens(self) -> int:
        """Tokens of these pairs as the plain recipe would count them."""
        return sum(score.num_tokens for scores in self.scores.values() for score in scores)

    def num_truncated(self) -> int:
        """How many of the pairs were cut, at the query or at the document."""
        return sum(one.truncated or one.query_truncated for scores in self.scores.values() for one in scores)

    def reranked(self, depth: int) -> dict[str, list[tuple[str, PairScore]]]:
        """Rank the first `depth` documents of every list, best first; ties keep the first stage's order."""
        lists: dict[str, list[tuple[str, PairScore]]] = {}
        for query_id, doc_ids in self.first.items():
            scores = self.scores.get(query_id, ())[:depth]
            pairs = list(zip(doc_ids[: len(scores)], scores, strict=True))
            lists[query_id] = sorted(pairs, key=lambda pair: -log_odds_of(pair[1]))
        return lists

    def complete(self, depth: int) -> dict[str, ScoredList]:
        """Rank to a depth, and leave what lies behind it where it was, with scores that fall below."""
        lists: dict[str, ScoredList] = {}
        for query_id, pairs in self.reranked(depth).items():
            ranked = [(doc_id, log_odds_of(score)) for doc_id, score in pairs]
            floor = ranked[-1][1] if ranked else 0.0
            rest = self.first[query_id][len(ranked) :]
            lists[query_id] = [*ranked, *((doc, floor - place) for place, doc in enumerate(rest, start=1))]
        return lists


def log_odds_of(score: PairScore) -> float:
    """Give a score's log-odds; of a foreign server's, the logit of the probability."""
    return logit(score.relevance_score) if score.log_odds is None else score.log_odds


def score_run(
    reranker: Reranker,
    dataset: Dataset,
    first: Run,
    *,
    depth: int,
    instruction: str | None = None,
    on_progress: OnProgress | None = None,
) -> ScoredRun:
    """Score the first `depth` documents of every list.

    Raises:
        RerankError: Scoring failed.
    """
    scores: dict[str, Sequence[PairScore]] = {}
    for query_ids in _calls(first, depth):
        results = reranker.rank_many(
            [dataset.queries[query_id].text for query_id in query_ids],
            [[dataset.corpus[doc_id] for doc_id in first[query_id][:depth]] for query_id in query_ids],
            top_n=None,
            min_score=None,
            instruction=instruction,
        )
        for query_id, result in zip(query_ids, results, strict=True):
            scores[query_id] = result.scores
        if on_progress is not None:
            on_progress(sum(len(result.scores) for result in results))
    return ScoredRun(first, scores, reranker.model)


def check_comparable(systems: Sequence[System]) -> None:
    """Refuse systems that share a name, or none at all.

    Raises:
        ConfigurationError: They do.
    """
    names = [system.name for system in systems]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"two systems have the same name: {twice!r}; allowed: each name once")
    if not systems:
        raise ConfigurationError("nothing to evaluate: no systems; allowed: at least one")


def _calls(first: Run, depth: int) -> Iterator[list[str]]:
    """Group the queries that have documents into calls of about the same number of pairs."""
    group: list[str] = []
    pairs = 0
    for query_id, doc_ids in first.items():
        if not doc_ids:
            continue
        group.append(query_id)
        pairs += min(depth, len(doc_ids))
        if pairs >= PAIRS_OF_A_CALL:
            yield group
            group, pairs = [], 0
    if group:
        yield group
