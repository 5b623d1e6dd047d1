"""A whole judged collection: a BEIR folder, a file of MTEB rows, three files, or the set that is bundled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.evaluation.datasets.dataset import Dataset, Query
from qwen_rerank_plugins.evaluation.datasets.formats import (
    read_candidates,
    read_corpus,
    read_qrels,
    read_queries,
)
from qwen_rerank_plugins.evaluation.datasets.lines import Line, read_lines

__all__ = ["BUNDLED", "load_bundled", "load_dataset", "load_files", "load_rows"]

BUNDLED = Path(__file__).resolve().parents[1] / "data"
"""The project's own judged set, English and Chinese."""

_SUFFIXES = ("", ".gz")


def load_bundled() -> Dataset:
    """Load the project's own judged set."""
    return load_dataset(BUNDLED, name="bundled")


def load_dataset(
    path: Path, *, split: str = "test", group_key: str = "group", name: str | None = None
) -> Dataset:
    """Load a collection of one piece, whatever form it has.

    Args:
        path: A folder with `corpus.jsonl`, `queries.jsonl`, judgements and perhaps `top_ranked.jsonl`, as BEIR
            and MTEB have them, or a file of rows with `query`, `positive` and `negative`. Each may be gzipped.
        split: Judgements are `qrels/SPLIT.tsv`, else `qrels.tsv`.
        group_key: Key of a query's record that names its group.
        name: Shown beside every figure; None for the file's own.

    Raises:
        InputError: Something is missing or not as it must be; the message has the file and the line.
    """
    if not path.is_dir():
        return load_rows(path, name=name)
    top_ranked = _find(path, "top_ranked.jsonl", f"top_ranked/{split}.jsonl")
    return _dataset(
        name or path.resolve().name,
        corpus=_must_find(path, "corpus.jsonl", "corpus.tsv"),
        queries=_must_find(path, "queries.jsonl", "queries.tsv"),
        qrels=_must_find(path, f"qrels/{split}.tsv", "qrels.tsv", "qrels.txt"),
        group_key=group_key,
        candidates=top_ranked,
    )


def load_files(
    *, corpus: Path, queries: Path, qrels: Path, group_key: str = "group", name: str | None = None
) -> Dataset:
    """Load a collection of three files.

    Raises:
        InputError: One of them is not as it must be; the message has the file and the line.
    """
    return _dataset(name or corpus.stem, corpus=corpus, queries=queries, qrels=qrels, group_key=group_key)


def load_rows(path: Path, *, name: str | None = None) -> Dataset:
    """Load rows with a query, its relevant texts and texts that are not, as MTEB's reranking tasks have them.

    Each query is given its own texts alone. The same text in several rows is one document.

    Raises:
        InputError: A row is not such, or calls a text relevant and not relevant.
    """
    doc_ids: dict[str, str] = {}
    queries: dict[str, Query] = {}
    qrels: dict[str, dict[str, int]] = {}
    for line in read_lines(path):
        record = line.record()
        grades = _row_grades(line, record, doc_ids)
        for query_id, text in _row_queries(line, record):
            if query_id in queries:
                line.refuse(f"query {query_id!r} comes a second time; allowed: each id once")
            queries[query_id], qrels[query_id] = Query(text), grades
    _refuse_empty(path, qrels)
    return Dataset(
        name=name or path.name,
        corpus={doc_id: text for text, doc_id in doc_ids.items()},
        queries=queries,
        qrels=qrels,
        candidates={query_id: list(grades) for query_id, grades in qrels.items()},
    )


def _dataset(
    name: str, *, corpus: Path, queries: Path, qrels: Path, group_key: str, candidates: Path | None = None
) -> Dataset:
    dataset = Dataset(
        name=name,
        corpus=read_corpus(corpus),
        queries=read_queries(queries, group_key),
        qrels=read_qrels(qrels),
        candidates=read_candidates(candidates) if candidates else {},
    )
    _refuse_empty(qrels, dataset.qrels)
    if not dataset.askable_ids:
        example = next(iter(dataset.qrels))
        raise InputError(
            f"no judged query has a text: {str(qrels)!r} names {example!r}, which is not in {queries}"
        )
    for query_id, doc_ids in dataset.candidates.items():
        unknown = next((doc_id for doc_id in doc_ids if doc_id not in dataset.corpus), None)
        if unknown is not None:
            raise InputError(f"candidate of query {query_id!r} is not in the corpus: {unknown!r}")
    return dataset


def _refuse_empty(path: Path, qrels: dict[str, dict[str, int]] | Any) -> None:
    if not qrels:
        raise InputError(f"no judgements: {str(path)!r} is empty; allowed: at least one")


def _find(folder: Path, *names: str) -> Path | None:
    paths = [folder / f"{name}{suffix}" for name in names for suffix in _SUFFIXES]
    return next((path for path in paths if path.is_file()), None)


def _must_find(folder: Path, *names: str) -> Path:
    path = _find(folder, *names)
    if path is None:
        raise InputError(
            f"file is missing: {str(folder / names[0])!r}; allowed: {' or '.join(names)}, or gzipped"
        )
    return path


def _row_queries(line: Line, record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    value = line.one_of(record, ("query",))
    texts = value if isinstance(value, list) else [value]
    base = str(record.get("_id", record.get("id", f"row-{line.number}")))
    for place, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.strip():
            line.refuse(f"'query' is not valid: {text!r}; allowed: some text, or a list of texts")
        yield (base if len(texts) == 1 else f"{base}-{place}"), text


def _row_grades(line: Line, record: dict[str, Any], doc_ids: dict[str, str]) -> dict[str, int]:
    grades: dict[str, int] = {}
    for key, grade in (("positive", 1), ("negative", 0)):
        texts = line.one_of(record, (key,))
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            line.refuse(f"{key!r} is not valid; allowed: a list of texts")
        for text in texts:
            doc_id = doc_ids.setdefault(text, f"text-{len(doc_ids) + 1}")
            if grades.setdefault(doc_id, grade) != grade:
                line.refuse(f"a text is both positive and negative: {text[:60]!r}; allowed: one of them")
    return grades
