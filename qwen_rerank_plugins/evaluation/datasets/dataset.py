"""The judged collection: corpus, queries and judgements. Reads no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qwen_rerank_plugins.recipe import replace_surrogates

__all__ = ["Dataset", "Qrels", "Query", "Run"]

Qrels = Mapping[str, Mapping[str, int]]
"""Query id → document id → grade; 0 means judged as not relevant."""

Run = Mapping[str, Sequence[str]]
"""Query id → document ids, best first."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query.

    Attributes:
        text: The text.
        group: The group of the query, for measures by group; empty for none.
        instruction: What relevance means for this query; None for the system's instruction.
    """

    text: str
    group: str = ""
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A judged collection.

    Attributes:
        name: The name in tables and files.
        corpus: Document id → text.
        queries: Query id → query; queries without judgements are not evaluated.
        qrels: The judgements; their order is that of the reported queries.
        candidates: Query id → documents that BM25 ranks for it; other queries search the whole corpus.
    """

    name: str
    corpus: Mapping[str, str]
    queries: Mapping[str, Query]
    qrels: Qrels
    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def judged_ids(self) -> tuple[str, ...]:
        """The queries that are averaged over: all with judgements, even if their text is missing."""
        return tuple(self.qrels)

    @property
    def ids_with_text(self) -> tuple[str, ...]:
        """The judged queries that have a text."""
        return tuple(query_id for query_id in self.qrels if query_id in self.queries)

    def group_of(self, query_id: str) -> str:
        """Return the group of a query, or an empty string."""
        query = self.queries.get(query_id)
        return query.group if query else ""

    def groups(self) -> dict[str, int]:
        """Return group → number of judged queries, in order of first appearance; empty if there are fewer than two groups."""
        counted = Counter(self.group_of(query_id) for query_id in self.qrels)
        return dict(counted) if len(counted) > 1 else {}

    def facts(self) -> dict[str, int]:
        """Return counts of the collection and of its inconsistencies."""
        texts = [*self.corpus.values(), *(query.text for query in self.queries.values())]
        judged = [(doc_id, grade) for grades in self.qrels.values() for doc_id, grade in grades.items()]
        return {
            "documents": len(self.corpus),
            "queries": len(self.queries),
            "judged_queries": len(self.qrels),
            "judgements": len(judged),
            "queries_without_judgements": sum(query_id not in self.qrels for query_id in self.queries),
            "judged_queries_without_text": sum(query_id not in self.queries for query_id in self.qrels),
            "judged_queries_without_a_relevant_document": sum(
                max(grades.values(), default=0) <= 0 for grades in self.qrels.values()
            ),
            "judgements_of_unknown_documents": sum(doc_id not in self.corpus for doc_id, _ in judged),
            "texts_with_lone_surrogates": sum(text != replace_surrogates(text) for text in texts),
        }
