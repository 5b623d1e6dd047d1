"""Tables in terminals of any width: numbers stay whole, texts are folded and complete."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from qwen_rerank_plugins import PairScore, RankedDocument, RerankResult
from qwen_rerank_plugins.cli.tables import result_table

TEXTS = {
    "words": "the blue whale sings in the deep sea " * 2,
    "one long word": "Donaudampfschifffahrtsgesellschaftskapitän" * 4,
    "cjk": "蓝鲸在深海里唱歌，" * 8,
    "nothing": "",
}


def _printed(num_documents: int, text: str, width: int) -> list[str]:
    scores = [1 - rank / (2 * num_documents) for rank in range(num_documents)]
    result = RerankResult(
        query="q",
        results=tuple(
            RankedDocument(num_documents - 1 - rank, text, PairScore(score, truncated=rank == 1))
            for rank, score in enumerate(scores)
        ),
        scores=tuple(map(PairScore, scores)),
    )
    out = io.StringIO()
    table = result_table(result, [text] * num_documents, width=width)
    Console(file=out, width=width).print(table, crop=False)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 40, 20])
@pytest.mark.parametrize(("num_documents", "name"), [*((12, name) for name in TEXTS), (1000, "words")])
def test_numbers_are_whole_and_texts_are_folded(num_documents: int, name: str, width: int) -> None:
    """Every document starts a line with rank, score and index, and its whole text is in its column."""
    text = TEXTS[name]
    header, *lines = _printed(num_documents, text, width)
    assert header.split()[:3] == ["rank", "score", "index"]
    assert max(map(cell_len, lines)) <= width
    rows: list[tuple[list[str], str]] = []
    for line in lines:
        numbers, rest = line[:17].split(), line[17:].strip()
        if numbers:
            rows.append((numbers, rest))
        else:
            rows[-1] = (rows[-1][0], rows[-1][1] + rest)
    expected = [
        [str(rank + 1), f"{1 - rank / (2 * num_documents):.4f}", str(num_documents - 1 - rank)]
        for rank in range(num_documents)
    ]
    assert [numbers for numbers, _ in rows] == expected
    for rank, (_, shown) in enumerate(rows):
        mark = "[truncated]" if rank == 1 else ""
        assert shown.replace(" ", "") == (mark + text).replace(" ", "")


@pytest.mark.parametrize("width", [1, 10, 19])
def test_numbers_are_whole_even_where_the_terminal_is_too_narrow(width: int) -> None:
    header, first, *_ = _printed(1000, "text", width)
    assert header.split()[:3] == ["rank", "score", "index"]
    assert first.split()[:3] == ["1", "1.0000", "999"]
