"""Results as tables for people and JSON for programs. Text goes out as data: never as markup, never as control codes."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwen_rerank_plugins.types import RankedDocument, RerankResult

if TYPE_CHECKING:
    from rich.table import Table

ROW_CHARS = 400
"""Characters of a document that can come into a table's one line, before the terminal's width cuts it."""


def result_object(result: RerankResult, records: Sequence[Any], *, num_blank_lines: int) -> dict[str, Any]:
    """Give a result as plain JSON types; the documents are the file's own records.

    The keys are a promise: query, model, status, error, num_documents, num_blank_lines, usage, results.
    """
    return {
        "query": result.query,
        "model": result.model,
        "status": result.status,
        "error": result.error,
        "num_documents": len(records),
        "num_blank_lines": num_blank_lines,
        "usage": {
            "num_pairs": result.usage.num_pairs,
            "num_tokens": result.usage.num_tokens,
            "num_cached_pairs": result.usage.num_cached_pairs,
        },
        "results": row_objects(result, records),
    }


def row_objects(result: RerankResult, records: Sequence[Any]) -> list[dict[str, Any]]:
    """Give each ranked document as plain JSON types, with its rank from 1."""
    return [
        {
            "rank": rank,
            "index": one.index,
            "relevance_score": one.relevance_score,
            "log_odds": one.log_odds,
            "truncated": one.truncated,
            "query_truncated": one.query_truncated,
            "span": None if one.span is None else list(one.span),
            "document": records[one.index],
        }
        for rank, one in enumerate(result.results, start=1)
    ]


def to_json(value: Any) -> str:
    """Write JSON in one line of ASCII, which every terminal, pipe and encoding carries."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, default=str)


def result_table(result: RerankResult, texts: Sequence[str]) -> Table:
    """Lay out a ranked list: rank, score, index in the input, one line of text."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("index", justify="right")
    table.add_column("document", no_wrap=True, overflow="ellipsis", ratio=1)
    for rank, one in enumerate(result.results, start=1):
        score = "-" if one.relevance_score is None else f"{one.relevance_score:.4f}"
        table.add_row(str(rank), score, str(one.index), _document_cell(one, texts[one.index]))
    return table


def facts_table(facts: Mapping[str, Any]) -> Table:
    """Lay out names and values in two columns, whatever they are."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in flat_facts(facts):
        table.add_row(
            Text(name), Text(one_line(value if isinstance(value, str) else json.dumps(value, default=str)))
        )
    return table


def settings_table(settings: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lay out settings: name, value, where it came from; those that are not the default stand out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("setting", "value", "source"):
        table.add_column(title, overflow="fold")
    for name, setting in settings.items():
        style = "dim" if setting["source"] == "default" else "bold"
        value = Text(one_line(json.dumps(setting["value"], ensure_ascii=False, default=str)))
        table.add_row(Text(name), value, Text(setting["source"]), style=style)
    return table


def flat_facts(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested facts into `a.b` → value, in their order."""
    flat: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            flat += flat_facts(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat


def one_line(text: str) -> str:
    """Bring a text into one line that is safe for a terminal: no control codes, no lone surrogates."""
    line = " ".join(text[: 4 * ROW_CHARS].split())[:ROW_CHARS]
    return "".join("\ufffd" if unicodedata.category(char) in {"Cc", "Cs"} else char for char in line)


def _document_cell(one: RankedDocument, text: str) -> Any:
    from rich.text import Text

    start, end = one.span or (0, len(text))
    cell = Text()
    if one.span is not None:
        cell.append(f"[passage {start}-{end}] ", style="cyan")
    if one.truncated:
        cell.append("[truncated] ", style="yellow")
    return cell.append(one_line(text[start:end]))
