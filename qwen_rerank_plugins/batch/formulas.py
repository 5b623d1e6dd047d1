"""Escape and unescape CSV cells that a spreadsheet would compute (OWASP, "CSV Injection")."""

from __future__ import annotations

import re

__all__ = ["escape_formula", "unescape_formula"]

_STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'"  # with the full-width forms, which some programs accept too
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_ESCAPED = re.compile("'+[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def escape_formula(cell: str) -> str:
    """Prefix a cell that begins like a formula with an apostrophe; plain numbers are unchanged.

    Apostrophes before the formula are skipped, so that distinct cells stay distinct and `unescape_formula` restores
    every cell.
    """
    if cell[:1] not in _STARTS or not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"


def unescape_formula(cell: str) -> str:
    """Return the original cell of `escape_formula`."""
    return cell[1:] if cell[:1] == "'" and _ESCAPED.match(cell) else cell
