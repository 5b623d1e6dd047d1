"""Records and header of delimited text, and the delimiter that yields the header. Opens no file."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from qwen_rerank_plugins.batch.streams import LineTooLongError, TextLines, find_bad_bytes

__all__ = [
    "DELIMITERS",
    "Record",
    "column_names",
    "detect_delimiter",
    "fit_cells",
    "named_delimiter",
    "read_records",
    "regular_delimiters",
]

DELIMITERS = (",", "\t", ";", "|")
SAMPLE_ROWS = 50
MIN_REGULAR = 0.8  # of the sampled records that have as many cells as the first one
# The first line that Excel reads as a delimiter; it may be quoted, or be padded to the width of the table.
_SEP_LINE = re.compile(r'"?sep=(?P<delimiter>[^"\r\n])"?[;,|\t]*[\r\n]*', re.IGNORECASE)

Record = tuple[int, list[str], str | None]
"""The first line of a record, its cells, and its problem or None. A blank record has no cells."""


def read_records(lines: TextLines, delimiter: str) -> Iterator[Record]:
    """Yield the records of a file, the header first; a first line `sep=;` is skipped."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.start_record()
        first = lines.number + 1
        try:
            cells = next(reader, None)
        except (csv.Error, LineTooLongError) as error:
            last = f" (to line {lines.number})" if lines.number > first else ""
            yield first, [], f"not valid CSV: {error}{last}"
            continue
        if cells is None:
            return
        if first == 1 and _SEP_LINE.fullmatch(lines.record[0]):
            continue
        is_blank = not cells or (len(cells) == 1 and not cells[0].strip())
        yield first, [] if is_blank else cells, _find_bad_cell(cells, lines)


def _find_bad_cell(cells: list[str], lines: TextLines) -> str | None:
    if all(line.isascii() for line in lines.record):
        return None
    return next(filter(None, (find_bad_bytes(cell, lines.encoding) for cell in cells)), None)


def detect_delimiter(
    open_lines: Callable[[], TextLines], default: str, has_columns: Callable[[Sequence[str]], bool]
) -> tuple[str, bool]:
    """Return the delimiter, and whether it is a guess: neither the default nor named by a line `sep=;`.

    Args:
        open_lines: Opens the file.
        default: The delimiter where no other one yields the columns.
        has_columns: Whether a header has the needed columns.
    """
    if found := named_delimiter(open_lines):
        return found, False
    for delimiter in (default, *DELIMITERS):
        with open_lines() as lines:
            header = next((cells for _, cells, _ in read_records(lines, delimiter) if cells), [])
        if has_columns(header):
            return delimiter, delimiter != default
    return default, False


def named_delimiter(open_lines: Callable[[], TextLines]) -> str | None:
    """Return the delimiter that a first line such as `sep=;` names, or None."""
    with open_lines() as lines, suppress(LineTooLongError):
        found = _SEP_LINE.fullmatch(next(lines, ""))
        return found["delimiter"] if found else None
    return None


def regular_delimiters(open_lines: Callable[[], TextLines]) -> list[str]:
    """Return the delimiters that split the first records into equally many cells, the most regular first."""
    found = {}
    for delimiter in DELIMITERS:
        with open_lines() as lines:
            records = [
                cells
                for _, cells, problem in islice(read_records(lines, delimiter), SAMPLE_ROWS)
                if cells or problem
            ]
        width = len(records[0]) if records else 0
        share = sum(len(cells) == width for cells in records) / max(1, len(records))
        if width > 1 and share >= MIN_REGULAR:
            found[delimiter] = (share, width)
    return sorted(found, key=found.__getitem__, reverse=True)


def column_names(header: Sequence[str]) -> list[str]:
    """Return the names of the columns; if several are blank, they are named `column_3` by their position."""
    num_blank = sum(not name.strip() for name in header)
    return [
        name if name.strip() or num_blank == 1 else f"column_{number}"
        for number, name in enumerate(header, start=1)
    ]


def fit_cells(cells: list[str], header: Sequence[str]) -> tuple[list[str], str | None]:
    """Fit a row to its header: blank cells beyond it are dropped, and missing ones of blank names are added.

    Returns:
        The cells, and the problem if they do not fit.
    """
    width = len(header)
    missing = header[len(cells) :]
    if any(name.strip() for name in missing) or any(cell.strip() for cell in cells[width:]):
        return cells, f"the row has {len(cells)} cells; the first line has {width}"
    return [*cells[:width], *([""] * len(missing))], None
