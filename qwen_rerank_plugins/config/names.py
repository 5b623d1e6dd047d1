"""Find the known name that a mistyped one most likely meant. Knows nothing of settings."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Give the known name that is most like `name`, upper and lower case being the same.

    Args:
        name: The name that was not found.
        known: At least one name to choose from; of equally near ones the first in the alphabet is given.
    """
    candidates = sorted(known)
    folded = name.casefold()
    return max(candidates, key=lambda one: difflib.SequenceMatcher(None, folded, one.casefold()).ratio())
