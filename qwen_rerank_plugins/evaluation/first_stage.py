"""The list that is reranked: BM25 by the bm25s library, or a run that was read. Knows no reranker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import bm25s
import numpy as np

from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.evaluation.datasets.dataset import Dataset, Run
from qwen_rerank_plugins.evaluation.runs import order_as_trec_eval
from qwen_rerank_plugins.evaluation.terms import terms_of

__all__ = ["bm25_run", "run_of_scores"]

MAX_LIST = 1000
"""Documents that BM25 gives a query at most, as is the custom for runs."""


def bm25_run(dataset: Dataset, *, max_documents: int = MAX_LIST) -> Run:
    """Search the corpus for every judged query by BM25 (Lucene's formula, k1 1.5, b 0.75).

    Of the whole corpus, only documents that share a term with the query are given. Of a query's own candidates,
    all are: those that share nothing come last, in an order that depends on nothing but ids.
    """
    index = _Index(dataset.corpus)
    return dict(index.lists(dataset, max_documents))


def run_of_scores(dataset: Dataset, scores: Mapping[str, Mapping[str, float]]) -> Run:
    """Order a run that was read as trec_eval does, and keep the judged queries.

    Raises:
        InputError: A document of a judged query is not in the corpus, so that it has no text.
    """
    run: dict[str, Sequence[str]] = {}
    for query_id in dataset.askable_ids:
        unknown = next((doc for doc in scores.get(query_id, {}) if doc not in dataset.corpus), None)
        if unknown is not None:
            raise InputError(
                f"document of query {query_id!r} is in the run and not in the corpus: {unknown!r}"
            )
        run[query_id] = order_as_trec_eval(scores.get(query_id, {}))
    if not any(run.values()):
        raise InputError("the run has no document of a judged query; allowed: at least one")
    return run


class _Index:
    """BM25 weights of a corpus."""

    def __init__(self, corpus: Mapping[str, str]) -> None:
        self._doc_ids = list(corpus)
        self._places = {doc_id: place for place, doc_id in enumerate(self._doc_ids)}
        terms = [terms_of(text) for text in corpus.values()]
        self._known = {term for document in terms for term in document}
        self._bm25: Any = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        if self._known:
            self._bm25.index(terms, show_progress=False)

    def lists(self, dataset: Dataset, max_documents: int) -> Iterator[tuple[str, list[str]]]:
        """Give each judged query's documents, best first."""
        for query_id in dataset.askable_ids:
            scores = self._scores(dataset.queries[query_id].text)
            if query_id in dataset.candidates:
                order = self._ordered(query_id, scores, dataset.candidates[query_id])
            else:
                places = np.argsort(-scores, kind="stable")[:max_documents]
                order = [self._doc_ids[place] for place in places if scores[place] > 0.0]
            yield query_id, order[:max_documents]

    def _scores(self, text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        terms = [term for term in terms_of(text) if term in self._known]
        if not terms:
            return np.zeros(len(self._doc_ids), dtype=np.float32)
        return np.asarray(self._bm25.get_scores(terms), dtype=np.float32)

    def _ordered(
        self, query_id: str, scores: np.ndarray[Any, np.dtype[np.float32]], candidates: Sequence[str]
    ) -> list[str]:
        def key(doc_id: str) -> tuple[float, bytes]:
            # Candidates often come with the relevant ones first: their order must not leak into a tie.
            drawn = hashlib.blake2b(f"{len(query_id)}:{query_id}{doc_id}".encode(), digest_size=8).digest()
            return -float(scores[self._places[doc_id]]), drawn

        return sorted(candidates, key=key)
