"""What is searched, what is asked, and what is known to answer it. Knows no file form, no model and no measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Dataset", "Qrels", "Query", "Run"]

Qrels = Mapping[str, Mapping[str, int]]
"""Query id → document id → grade; 0 is judged and not relevant."""

Run = Mapping[str, Sequence[str]]
"""Query id → document ids, best first."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question.

    Attributes:
        text: What is searched for.
        group: The part of the data that it belongs to, for figures by group; empty for none.
    """

    text: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A judged collection.

    Attributes:
        name: Shown beside every figure.
        corpus: Document id → text.
        queries: Query id → query; those without judgements are not evaluated.
        qrels: The judgements, in whose order queries are reported.
        candidates: Query id → the only documents that the built-in first stage may give it; for queries that
            are not here, the whole corpus.
    """

    name: str
    corpus: Mapping[str, str]
    queries: Mapping[str, Query]
    qrels: Qrels
    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def judged_ids(self) -> tuple[str, ...]:
        """The queries that figures are means over: every one with a judgement, even if its text is missing."""
        return tuple(self.qrels)

    @property
    def askable_ids(self) -> tuple[str, ...]:
        """The judged queries whose text is known."""
        return tuple(query_id for query_id in self.qrels if query_id in self.queries)

    def group_of(self, query_id: str) -> str:
        """The group of a query, or an empty string."""
        query = self.queries.get(query_id)
        return query.group if query else ""

    def groups(self) -> dict[str, int]:
        """Judged queries by group, in the order in which groups first come; empty when there is one or none."""
        counted = Counter(self.group_of(query_id) for query_id in self.qrels)
        return dict(counted) if len(counted) > 1 else {}

    def facts(self) -> dict[str, int]:
        """How much there is, and what does not fit together."""
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
        }
