"""The first stage, whose lists are reranked: BM25 by the bm25s library, or the scores of a run file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import bm25s
import numpy as np

from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.evaluation.analyzer import extract_terms
from qwen_rerank_plugins.evaluation.datasets.dataset import Dataset, Run
from qwen_rerank_plugins.evaluation.runs import order_as_trec_eval

__all__ = ["bm25_run", "run_from_scores"]

MAX_LIST = 1000
"""Maximum documents per query, the usual length of TREC runs."""


def bm25_run(dataset: Dataset, *, max_documents: int = MAX_LIST) -> Run:
    """Rank documents for every judged query by BM25 (Lucene's formula, k1 1.5, b 0.75).

    From the whole corpus, only documents that share a term with the query are returned. Of a query's candidates, all
    are returned; those that share no term come last, in an order that depends on ids alone.

    Args:
        dataset: The judged collection.
        max_documents: Maximum documents per query.
    """
    index = _Index(dataset.corpus)
    return dict(index.lists(dataset, max_documents))


def run_from_scores(dataset: Dataset, scores: Mapping[str, Mapping[str, float]]) -> Run:
    """Order the scores of a run file as trec_eval does, for the judged queries.

    Args:
        dataset: The judged collection.
        scores: Query id → document id → score.

    Raises:
        InputError: A document of a judged query is not in the corpus, or no judged query has a document.
    """
    run: dict[str, Sequence[str]] = {}
    for query_id in dataset.ids_with_text:
        unknown = next((doc for doc in scores.get(query_id, {}) if doc not in dataset.corpus), None)
        if unknown is not None:
            raise InputError(
                f"document of query {query_id!r} is not in the corpus: {unknown!r}; use a run over this corpus"
            )
        run[query_id] = order_as_trec_eval(scores.get(query_id, {}))
    if not any(run.values()):
        raise InputError("the run has no document of a judged query; use a run with the ids of these queries")
    return run


class _Index:
    """BM25 weights of a corpus."""

    def __init__(self, corpus: Mapping[str, str]) -> None:
        self._doc_ids = list(corpus)
        self._positions = {doc_id: position for position, doc_id in enumerate(self._doc_ids)}
        terms = [extract_terms(text) for text in corpus.values()]
        self._vocabulary = {term for document in terms for term in document}
        self._bm25: Any = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        if self._vocabulary:
            self._bm25.index(terms, show_progress=False)

    def lists(self, dataset: Dataset, max_documents: int) -> Iterator[tuple[str, list[str]]]:
        """Yield each judged query with its documents, best first."""
        for query_id in dataset.ids_with_text:
            scores = self._scores(dataset.queries[query_id].text)
            if query_id in dataset.candidates:
                order = self._rank_candidates(query_id, scores, dataset.candidates[query_id])
            else:
                positions = np.argsort(-scores, kind="stable")[:max_documents]
                order = [self._doc_ids[position] for position in positions if scores[position] > 0.0]
            yield query_id, order[:max_documents]

    def _scores(self, text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        terms = [term for term in extract_terms(text) if term in self._vocabulary]
        if not terms:
            return np.zeros(len(self._doc_ids), dtype=np.float32)
        return np.asarray(self._bm25.get_scores(terms), dtype=np.float32)

    def _rank_candidates(
        self, query_id: str, scores: np.ndarray[Any, np.dtype[np.float32]], candidates: Sequence[str]
    ) -> list[str]:
        def key(doc_id: str) -> tuple[float, bytes]:
            # Candidates often list the relevant ones first; ties must not keep that order.
            digest = hashlib.blake2b(f"{len(query_id)}:{query_id}{doc_id}".encode(), digest_size=8).digest()
            return -float(scores[self._positions[doc_id]]), digest

        return sorted(candidates, key=key)
