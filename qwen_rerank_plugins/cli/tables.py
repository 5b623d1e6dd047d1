"""Format results as tables for a terminal and as JSON. Text is data: never markup, never control characters."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwen_rerank_plugins.types import RankedDocument, RerankResult

if TYPE_CHECKING:
    from rich.table import Table

CELL_CHARS = 400
"""Characters of a text in a cell; the terminal's width folds them."""


MIN_TEXT_WIDTH = 2
"""Columns of a wide character, below which nothing can be folded."""


def result_object(result: RerankResult, records: Sequence[Any], *, num_blank_lines: int) -> dict[str, Any]:
    """Return a result as plain JSON types, with the file's records as documents.

    The keys are stable: query, model, status, error, num_documents, num_blank_lines, usage, results.
    """
    return {
        "query": result.query,
        "model": result.model,
        "status": result.status,
        "error": result.error,
        **({} if result.calibrated is None else {"calibrated": result.calibrated}),
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
    """Return each ranked document as plain JSON types, with its rank from 1."""
    return [
        {
            "rank": rank,
            "index": one.index,
            "relevance_score": one.relevance_score,
            "log_odds": one.log_odds,
            "truncated": one.truncated,
            "query_truncated": one.query_truncated,
            "span": None if one.span is None else list(one.span),
            "warnings": list(one.warnings),
            "document": records[one.index],
        }
        for rank, one in enumerate(result.results, start=1)
    ]


def to_json(value: Any) -> str:
    """Return JSON on one line, in ASCII, which every terminal and encoding can show."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, default=str)


def result_table(result: RerankResult, texts: Sequence[str], *, width: int) -> Table:
    """Return the table of a ranked list: rank, score, index in the input, and text, folded to fit.

    Args:
        result: The ranked list.
        texts: The texts of all documents, in input order.
        width: Columns of the terminal. The table is wider if its numbers need more.
    """
    from rich.table import Table
    from rich.text import Text

    rows = [
        (str(rank), "-" if one.relevance_score is None else f"{one.relevance_score:.4f}", str(one.index))
        for rank, one in enumerate(result.results, start=1)
    ]
    titles = ("rank", "score", "index")
    number_widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    least_width = sum(number_widths) + len(titles) + MIN_TEXT_WIDTH
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", width=max(width, least_width)
    )
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column(Text("document", overflow="crop", no_wrap=True), overflow="fold", ratio=1)
    for row, one in zip(rows, result.results, strict=True):
        table.add_row(*row, _document_cell(one, texts[one.index]))
    return table


def facts_table(facts: Mapping[str, Any]) -> Table:
    """Return a table of names and values, nested ones flattened."""
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
    """Return a table of settings: name, value and source; values that are not defaults are bold."""
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
    """Flatten nested facts to pairs of `a.b` and value, in their order."""
    flat: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            flat += flat_facts(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat


def one_line(text: str) -> str:
    """Return a text on one line, shortened, with control characters and lone surrogates replaced."""
    line = " ".join(text[: 4 * CELL_CHARS].split())[:CELL_CHARS]
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
