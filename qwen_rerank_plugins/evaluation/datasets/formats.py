"""Read corpora, queries, judgements and runs from TREC, BEIR and MTEB files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.evaluation.datasets.dataset import Query
from qwen_rerank_plugins.evaluation.datasets.lines import Line, read_lines
from qwen_rerank_plugins.recipe import replace_surrogates

__all__ = ["read_candidates", "read_corpus", "read_instruction", "read_qrels", "read_queries", "read_run"]

_IDS = ("_id", "id", "docid", "doc_id")
_QUERY_IDS = ("_id", "id", "query-id", "query_id", "qid")
_TSV_SUFFIXES = {".tsv", ".txt"}
_TREC_QREL_COLUMNS = 4
_BEIR_QREL_COLUMNS = 3
_RUN_COLUMNS = 6


def read_corpus(path: Path, *, encoding: str | None = None) -> dict[str, str]:
    """Read documents: JSONL with id, text and optional title, or TSV with id and text.

    Raises:
        InputError: A line is not valid, or an id is repeated.
    """
    corpus: dict[str, str] = {}
    for line, doc_id, record in _records_with_ids(path, _IDS, encoding):
        if doc_id in corpus:
            line.fail(f"document {doc_id!r} is repeated; ids must be unique")
        title, text = _text(line, record, "title", ""), _text(line, record, "text")
        corpus[doc_id] = f"{title} {text}".strip()
    return corpus


def read_queries(path: Path, group_key: str = "group", *, encoding: str | None = None) -> dict[str, Query]:
    """Read queries: JSONL or TSV with id and text, in JSONL optionally with a group and an instruction.

    Args:
        path: The file.
        group_key: Key of the record, or of its `metadata`, with the query's group.
        encoding: The encoding; None to detect it.

    Raises:
        InputError: A line is not valid, a text is blank, or an id is repeated.
    """
    queries: dict[str, Query] = {}
    for line, query_id, record in _records_with_ids(path, _QUERY_IDS, encoding):
        if query_id in queries:
            line.fail(f"query {query_id!r} is repeated; ids must be unique")
        text = _text(line, record, "text")
        if not text.strip():
            line.fail(f"query {query_id!r} is blank; a query needs a visible character")
        queries[query_id] = Query(text, _group(record, group_key), read_instruction(line, record))
    return queries


def read_instruction(line: Line, record: dict[str, Any]) -> str | None:
    """Return the instruction of a query's record; None if it has none, or a blank one.

    Raises:
        InputError: It is not a string.
    """
    text = _text(line, record, "instruction", "")
    return text if text.strip() else None


def read_qrels(path: Path, *, encoding: str | None = None) -> dict[str, dict[str, int]]:
    """Read judgements: TREC's four columns, or BEIR's three with or without a header.

    Negative grades, which some TREC tracks use for spam, count as 0.

    Raises:
        InputError: A line has other columns, a grade is not an integer, or a pair is judged twice.
    """
    qrels: dict[str, dict[str, int]] = {}
    for position, line in enumerate(read_lines(path, encoding, is_json=False)):
        text = line.text.rstrip("\t")  # empty columns of a spreadsheet
        cells = text.split("\t") if "\t" in text else text.split()
        if position == 0 and cells[-1].strip().lower() in {"score", "relevance", "rel", "grade"}:
            continue
        if len(cells) not in {_TREC_QREL_COLUMNS, _BEIR_QREL_COLUMNS}:
            line.fail(f"{len(cells)} columns; expected query, 0, document, grade or query, document, grade")
        query_id, doc_id, grade = cells[0].strip(), cells[-2].strip(), _grade(line, cells[-1])
        if doc_id in qrels.setdefault(query_id, {}):
            line.fail(f"query {query_id!r} and document {doc_id!r} are judged twice; remove one judgement")
        qrels[query_id][doc_id] = grade
    return qrels


def read_run(path: Path, *, encoding: str | None = None) -> dict[str, dict[str, float]]:
    """Read a TREC run: query, Q0, document, rank, score, tag. The rank is ignored, as in trec_eval.

    Raises:
        InputError: A line has other columns, a score is not finite, or a query's document is repeated.
    """
    run: dict[str, dict[str, float]] = {}
    for line in read_lines(path, encoding, is_json=False):
        cells = line.text.split()
        if len(cells) != _RUN_COLUMNS:
            line.fail(f"{len(cells)} columns; expected query, Q0, document, rank, score, tag")
        query_id, _, doc_id, _, score, _ = cells
        if doc_id in run.setdefault(query_id, {}):
            line.fail(f"document {doc_id!r} is repeated for query {query_id!r}; list it once")
        run[query_id][doc_id] = _score(line, score)
    return run


def read_candidates(path: Path, *, encoding: str | None = None) -> dict[str, list[str]]:
    """Read each query's candidates: one object per line, with `query-id` and a list `corpus-ids`.

    Raises:
        InputError: A line is not valid, or a query or one of its documents is repeated.
    """
    candidates: dict[str, list[str]] = {}
    for line in read_lines(path, encoding):
        record = line.record()
        query_id = str(line.first_of(record, ("query-id", "query_id", "_id")))
        doc_ids = line.first_of(record, ("corpus-ids", "corpus_ids"))
        if (
            not isinstance(doc_ids, list)
            or query_id in candidates
            or len(set(map(str, doc_ids))) < len(doc_ids)
        ):
            line.fail(
                f"candidates of query {query_id!r} are not valid; write one list of distinct ids per query"
            )
        candidates[query_id] = [str(doc_id) for doc_id in doc_ids]
    return candidates


def _records_with_ids(
    path: Path, keys: tuple[str, ...], encoding: str | None
) -> Iterator[tuple[Line, str, dict[str, Any]]]:
    is_tsv = Path(path.name.removesuffix(".gz")).suffix.lower() in _TSV_SUFFIXES
    for line in read_lines(path, encoding, is_json=not is_tsv):
        if is_tsv:
            found, tab, text = line.text.partition("\t")
            if not tab:
                line.fail("no tab; separate id and text by a tab")
            yield line, found.strip(), {"text": text.rstrip("\t")}
        else:
            record = line.record()
            identity = line.first_of(record, keys)
            if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
                line.fail(f"the id is not valid: {identity!r}; use a string or an integer")
            yield line, replace_surrogates(str(identity)), record


def _text(line: Line, record: dict[str, Any], key: str, default: str | None = None) -> str:
    value = line.first_of(record, (key,)) if default is None else (record.get(key) or default)
    if not isinstance(value, str):
        line.fail(f"{key!r} must be a string, not {type(value).__name__}")
    return value


def _group(record: dict[str, Any], key: str) -> str:
    metadata = record.get("metadata")
    value = record.get(key, metadata.get(key) if isinstance(metadata, dict) else None)
    return replace_surrogates(str(value)) if isinstance(value, str | int) else ""


def _grade(line: Line, cell: str) -> int:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not value.is_integer():
        line.fail(f"the grade is not valid: {cell.strip()!r}; use an integer")
    return max(0, int(value))


def _score(line: Line, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        line.fail(f"the score is not valid: {cell!r}; use a finite number")
    return value
