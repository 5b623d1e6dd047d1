"""Load a judged collection: a BEIR folder, a file of MTEB rows, three files, or the bundled set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.evaluation.datasets.dataset import Dataset, Qrels, Query
from qwen_rerank_plugins.evaluation.datasets.formats import (
    read_candidates,
    read_corpus,
    read_instruction,
    read_qrels,
    read_queries,
)
from qwen_rerank_plugins.evaluation.datasets.lines import Line, read_lines

__all__ = ["BUNDLED", "load_bundled", "load_dataset", "load_files", "load_rows"]

BUNDLED = Path(__file__).resolve().parents[1] / "data"
"""The bundled judged set, in English and Chinese."""

_SUFFIXES = ("", ".gz")


def load_bundled() -> Dataset:
    """Load the bundled judged set."""
    return load_dataset(BUNDLED, name="bundled")


def load_dataset(
    path: Path,
    *,
    split: str = "test",
    group_key: str = "group",
    name: str | None = None,
    encoding: str | None = None,
) -> Dataset:
    """Load a collection from a folder or a file.

    Args:
        path: A folder with `corpus.jsonl`, `queries.jsonl`, judgements and optionally `top_ranked.jsonl`, as in BEIR and
            MTEB, or a file of rows with `query`, `positive` and `negative`. Any file may be compressed with gzip.
        split: The split of the judgements: `qrels/SPLIT.tsv`, or else `qrels.tsv`.
        group_key: Key of a query's record with its group.
        name: The name of the collection; None for that of the folder or file.
        encoding: The encoding of the files; None to detect each one's.

    Raises:
        InputError: A file is missing or not valid; the message names the file and the line.
    """
    if not path.is_dir():
        return load_rows(path, name=name, encoding=encoding)
    top_ranked = _find(path, "top_ranked.jsonl", f"top_ranked/{split}.jsonl")
    return _dataset(
        name or path.resolve().name,
        corpus=_require(path, "corpus.jsonl", "corpus.tsv"),
        queries=_require(path, "queries.jsonl", "queries.tsv"),
        qrels=_require(path, f"qrels/{split}.tsv", "qrels.tsv", "qrels.txt"),
        group_key=group_key,
        candidates=top_ranked,
        encoding=encoding,
    )


def load_files(
    *,
    corpus: Path,
    queries: Path,
    qrels: Path,
    group_key: str = "group",
    name: str | None = None,
    encoding: str | None = None,
) -> Dataset:
    """Load a collection from three files.

    Args:
        corpus: The documents.
        queries: The queries.
        qrels: The judgements.
        group_key: Key of a query's record with its group.
        name: The name of the collection; None for that of the corpus file.
        encoding: The encoding of the files; None to detect each one's.

    Raises:
        InputError: A file is not valid; the message names the file and the line.
    """
    return _dataset(
        name or corpus.stem,
        corpus=corpus,
        queries=queries,
        qrels=qrels,
        group_key=group_key,
        encoding=encoding,
    )


def load_rows(path: Path, *, name: str | None = None, encoding: str | None = None) -> Dataset:
    """Load rows with a query, its relevant texts and other texts, as in MTEB's reranking tasks.

    Each query ranks the texts of its own row, by the row's `instruction` if it has one. Equal texts in several rows are one document.

    Args:
        path: The file.
        name: The name of the collection; None for that of the file.
        encoding: The encoding of the files; None to detect each one's.

    Raises:
        InputError: A row is not valid, or lists a text as both positive and negative.
    """
    doc_ids: dict[str, str] = {}
    queries: dict[str, Query] = {}
    qrels: dict[str, dict[str, int]] = {}
    for line in read_lines(path, encoding):
        record = line.record()
        grades = _row_grades(line, record, doc_ids)
        for query_id, text in _row_queries(line, record):
            if query_id in queries:
                line.fail(f"query {query_id!r} is repeated; ids must be unique")
            queries[query_id] = Query(text, instruction=read_instruction(line, record))
            qrels[query_id] = grades
    _check_not_empty(path, qrels)
    return Dataset(
        name=name or path.name,
        corpus={doc_id: text for text, doc_id in doc_ids.items()},
        queries=queries,
        qrels=qrels,
        candidates={query_id: list(grades) for query_id, grades in qrels.items()},
    )


def _dataset(
    name: str,
    *,
    corpus: Path,
    queries: Path,
    qrels: Path,
    group_key: str,
    candidates: Path | None = None,
    encoding: str | None = None,
) -> Dataset:
    dataset = Dataset(
        name=name,
        corpus=read_corpus(corpus, encoding=encoding),
        queries=read_queries(queries, group_key, encoding=encoding),
        qrels=read_qrels(qrels, encoding=encoding),
        candidates=read_candidates(candidates, encoding=encoding) if candidates else {},
    )
    _check_not_empty(qrels, dataset.qrels)
    if not dataset.ids_with_text:
        example = next(iter(dataset.qrels))
        raise InputError(
            f"no judged query has a text: {str(qrels)!r} names {example!r}, which is not in {queries}; use files of one "
            "collection"
        )
    for query_id, doc_ids in dataset.candidates.items():
        unknown = next((doc_id for doc_id in doc_ids if doc_id not in dataset.corpus), None)
        if unknown is not None:
            raise InputError(
                f"candidate of query {query_id!r} is not in the corpus: {unknown!r}; use files of one collection"
            )
    return dataset


def _check_not_empty(path: Path, qrels: Qrels) -> None:
    if not qrels:
        raise InputError(f"no judgements: {str(path)!r} is empty; add at least one")


def _find(folder: Path, *names: str) -> Path | None:
    paths = [folder / f"{name}{suffix}" for name in names for suffix in _SUFFIXES]
    return next((path for path in paths if path.is_file()), None)


def _require(folder: Path, *names: str) -> Path:
    path = _find(folder, *names)
    if path is None:
        raise InputError(
            f"file not found: {str(folder / names[0])!r}; add {' or '.join(names)}, plain or with .gz"
        )
    return path


def _row_queries(line: Line, record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    value = line.first_of(record, ("query",))
    texts = value if isinstance(value, list) else [value]
    base = str(record.get("_id", record.get("id", f"row-{line.number}")))
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.strip():
            line.fail(
                f"'query' is not valid: {text!r}; use a string with a visible character, or a list of such strings"
            )
        yield (base if len(texts) == 1 else f"{base}-{number}"), text


def _row_grades(line: Line, record: dict[str, Any], doc_ids: dict[str, str]) -> dict[str, int]:
    grades: dict[str, int] = {}
    for key, grade in (("positive", 1), ("negative", 0)):
        texts = line.first_of(record, (key,))
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            line.fail(f"{key!r} is not valid; use a list of strings")
        for text in texts:
            doc_id = doc_ids.setdefault(text, f"text-{len(doc_ids) + 1}")
            if grades.setdefault(doc_id, grade) != grade:
                line.fail(f"a text is both positive and negative: {text[:60]!r}; remove one of them")
    return grades
