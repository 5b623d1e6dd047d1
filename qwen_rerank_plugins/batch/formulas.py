"""CSV cells that a spreadsheet would compute: made inert, and back. Pure functions on texts.

The danger and the list of first characters: OWASP, "CSV Injection".
"""

from __future__ import annotations

import re

__all__ = ["escape_formula", "unescape_formula"]

_STARTS = (
    "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'"  # the wide forms too, which some programs take for the narrow ones
)
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_ESCAPED = re.compile("'+[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def escape_formula(cell: str) -> str:
    """Put an apostrophe before a cell that begins like a formula, after however many apostrophes; numbers pass.

    The apostrophes count so that no two cells become the same one: `unescape_formula` gives back every text.
    """
    if cell[:1] not in _STARTS or not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"


def unescape_formula(cell: str) -> str:
    """Give the cell that `escape_formula` got."""
    return cell[1:] if cell[:1] == "'" and _ESCAPED.match(cell) else cell
