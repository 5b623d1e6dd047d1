"""Links into a page lead to one of its headings, and the glossary is in alphabetical order."""

from __future__ import annotations

import re

import pytest

from tests.laws.sources import ROOT, tracked_files

LINK = re.compile(r"\]\((?P<page>[^)\s#:]*)#(?P<anchor>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
FENCE = re.compile(r"^```[^\n]*\n.*?^```$", re.MULTILINE | re.DOTALL)
PAGES = [name for name in tracked_files() if name.endswith(".md")]


def without_code(page: str) -> str:
    return FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs write them."""
    headings = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", match["text"]) for match in HEADING.finditer(text)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def lost_anchors(page: str) -> list[str]:
    lost = []
    for match in LINK.finditer(without_code(page)):
        target = (ROOT / page).parent / match["page"] if match["page"] else ROOT / page
        if target.suffix == ".md" and match["anchor"] not in anchors_of(FENCE.sub("", target.read_text())):
            lost.append(match[0])
    return lost


@pytest.mark.parametrize("page", PAGES)
def test_anchors_lead_to_a_heading(page: str) -> None:
    assert lost_anchors(page) == []


def test_a_lost_anchor_is_noticed() -> None:
    assert anchors_of("# Keys, and `names`\n\n## A [link](x.md) here\n") == {"keys-and-names", "a-link-here"}


def test_the_glossary_is_in_alphabetical_order() -> None:
    terms = re.findall(r"^\*\*(.+?)\.\*\*", without_code("docs/glossary.md"), re.MULTILINE)
    assert len(terms) > 30
    assert terms == sorted(terms, key=str.lower)
