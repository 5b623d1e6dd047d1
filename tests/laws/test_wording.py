"""Unwanted phrases do not appear in code and documentation."""

from __future__ import annotations

import re

from tests.laws.sources import ROOT, tracked_files

# Written so as not to match itself.
UNWANTED = re.compile(
    r"; allowed[:]|\bto be ha[d]\b|\bwhenc[e]\b|\bset asid[e]\b|\bsets asid[e]\b", re.IGNORECASE
)
SUFFIXES = (".py", ".md", ".js", ".html", ".sh", ".toml")


def test_no_line_uses_an_unwanted_phrase() -> None:
    """An error says what to do in a sentence, not behind a semicolon; rows are rejected; names are simple."""
    found = []
    for name in tracked_files():
        if not name.endswith(SUFFIXES) or name == "CHANGELOG.md":
            continue
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1):
            if UNWANTED.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_pattern_finds_what_it_is_for() -> None:
    assert UNWANTED.search("top_n is 0; allowed" + ": at least 1")
    assert UNWANTED.search("rows are set a" + "side")
    assert not UNWANTED.search("a set of allowed: values")
