"""The page's modules alone, in a browser, against Python's results."""

from __future__ import annotations

import csv
import io
import itertools
import random
import re
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from playwright.sync_api import Browser

from tests.service.workbench.conftest import Watch
from tests.service.workbench.pages import Workbench

pytestmark = pytest.mark.loopback

CELLS = [
    "",
    " ",
    "plain",
    '"',
    '""',
    'say "hi"',
    "a,b",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "；|",
    "苹果",
    "🍎x",
    "=1+1",
    ",",
]


@pytest.fixture(scope="module")
def workbench(browser: Browser, base_url: str) -> Iterator[Workbench]:
    """One page for all: a module's functions have no state."""
    context = browser.new_context()
    watch = Watch()
    page = context.new_page()
    watch.attach(page)
    bench = Workbench(page, base_url, watch.allowed_failures)
    bench.open()
    yield bench
    context.close()
    assert not watch.said


# ------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        ("\ufeffa\tb\r\n", [["a", "b"]]),
        ("a\t", [["a", ""]]),
        ("a\n\nb", [["a"], [""], ["b"]]),
        ("a\rb", [["a"], ["b"]]),
        ('"one\ntwo"\r\nthree', [["one\ntwo"], ["three"]]),
        ('"one\t1"\tb', [["one\t1", "b"]]),
        ('"say ""hi"""', [['say "hi"']]),
        ('"a quotation, kept"\nb', [['"a quotation, kept"'], ["b"]]),
        ('"open\nnever closed', [['"open'], ["never closed"]]),
        ('"shut" and more\nb', [['"shut" and more'], ["b"]]),
        ('inch 5" and\n6"', [['inch 5" and'], ['6"']]),
        ('"', [['"']]),
        ('"""', [['"""']]),
    ],
)
def test_pasted_cells_are_read_as_spreadsheets_write_them(
    workbench: Workbench, text: str, rows: list[list[str]]
) -> None:
    assert workbench.module("tables.js", "m.parseCells(value)", text) == rows


def test_a_row_becomes_one_line_and_what_was_dropped_is_counted(workbench: Workbench) -> None:
    rows = [["a \r\n  b", " c "], ["", " "], ["d\n\n\ne"], []]
    taken = workbench.module("tables.js", "m.documentsFromRows(value)", rows)
    assert taken == {"documents": ["a b | c", "d e"], "numBlank": 2, "numMultiline": 2}
    assert workbench.module("tables.js", "m.documentsFromRows(value, 1).documents", rows) == ["c"]


# ------------------------------------------------------------------------------------------------ exports

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@cmd",
    "\tx",
    "\rx",
    "＝1",
    "＋1",
    "－1",
    "＠x",
    "  =1",
    "\u3000=1",
    "\ufeff=1",
]


def test_csv_reads_back_in_python_as_it_was_written(workbench: Workbench) -> None:
    rng = random.Random(3)
    texts = [cell for cell in CELLS if not cell.startswith("=")]
    rows = [[number, rng.random(), -rng.random(), rng.choice(texts)] for number in range(300)]
    sheet = {"headers": ["rank", "score", "log-odds", "te,xt"], "rows": rows}
    written: str = workbench.module("exporting.js", "m.toCsv(value)", sheet)
    assert written.startswith("\ufeff")
    head, *lines = csv.reader(io.StringIO(written.removeprefix("\ufeff"), newline=""))
    assert head == sheet["headers"]
    assert [[int(a), float(b), float(c), d] for a, b, c, d in lines] == rows


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_made_inert_in_every_format_and_a_number_is_not_touched(
    workbench: Workbench, text: str
) -> None:
    sheet = {"headers": ["n", "t"], "rows": [[-1.5, text]]}
    formats = workbench.module("exporting.js", "[m.toCsv(value), m.toTsv(value), m.toHtml(value)]", sheet)
    as_csv, as_tsv, as_html = formats
    [_, cells] = csv.reader(io.StringIO(as_csv.removeprefix("\ufeff"), newline=""))
    assert cells == ["-1.5", f"'{text}"]
    assert as_csv.splitlines()[1].startswith("-1.5,")
    assert "-1.5\t" in as_tsv
    assert f"'{text}" in as_tsv
    assert f"<td>'{text}</td>" in as_html


def test_ordinary_texts_keep_their_beginning(workbench: Workbench) -> None:
    texts = ["a=1", "1-2", "苹果", "（+）", "'quoted'", ""]
    assert workbench.module("exporting.js", "value.map(m.inert)", texts) == texts


def test_cells_for_the_clipboard_are_quoted_only_where_they_must_be(workbench: Workbench) -> None:
    rows = [[1, "a b"], [2, 'say "hi"'], [3, "two\nlines"]]
    written = workbench.module("exporting.js", "m.toTsv(value)", {"headers": ["n", "t"], "rows": rows})
    assert written == 'n\tt\r\n1\ta b\r\n2\t"say ""hi"""\r\n3\t"two\nlines"'


def test_html_for_the_clipboard_holds_markup_as_text(workbench: Workbench) -> None:
    rows = [["</td><script>alert(1)</script><img src=x onerror=alert(1)>&amp;"]]
    written = workbench.module("exporting.js", "m.toHtml(value)", {"headers": ["t"], "rows": rows})
    assert "<script" not in written
    assert "<img" not in written
    assert "&amp;amp;" in written


# ------------------------------------------------------------------------------------------------- numbers


def test_rows_are_ordered_by_log_odds_and_ties_keep_the_inputs_order(workbench: Workbench) -> None:
    scored = [
        {"index": index, "score": 1.0, "logOdds": value}
        for index, value in enumerate([20.0, 30.0, 20.0, 40.0])
    ]
    rows = workbench.module("ranking.js", "m.ranked(value, ['a', 'b', 'c', 'd'])", scored)
    assert [(row["rank"], row["index"], row["moved"], row["text"]) for row in rows] == [
        (1, 3, 3, "d"),
        (2, 1, 0, "b"),
        (3, 0, -2, "a"),
        (4, 2, -1, "c"),
    ]


def test_without_log_odds_for_every_document_probabilities_decide(workbench: Workbench) -> None:
    scored = [
        {"index": 0, "score": 0.2, "logOdds": 9.0},
        {"index": 1, "score": 0.9, "logOdds": None},
        {"index": 2, "score": 0.2, "logOdds": 10.0},
    ]
    rows = workbench.module("ranking.js", "m.ranked(value, ['a', 'b', 'c'])", scored)
    assert [row["index"] for row in rows] == [1, 0, 2]


@pytest.mark.parametrize(
    ("values", "lead", "after", "notable"),
    [
        ([0.9, 0.88, 0.86, 0.2, 0.1], 0.02, 3, True),
        ([0.9, 0.1], 0.8, 1, True),
        ([0.5, 0.49], 0.01, 1, False),
        ([0.9, 0.7, 0.5, 0.3], 0.2, 1, False),
        ([0.9, 0.9, 0.2], 0.0, 2, True),
        ([0.02, 0.01, 0.0], 0.01, 1, False),
        ([0.4, 0.4], 0.0, 1, False),
    ],
)
def test_the_lead_and_the_largest_drop_are_found(
    workbench: Workbench, values: list[float], lead: float, after: int, notable: bool
) -> None:
    shape = workbench.module("shape.js", "m.shapeOf(value)", values)
    assert shape["lead"] == pytest.approx(lead)
    assert (shape["drop"]["afterRank"], shape["drop"]["notable"]) == (after, notable)
    assert shape["drop"]["size"] == pytest.approx(max(a - b for a, b in itertools.pairwise(values)))


def test_a_drop_among_a_thousand_small_steps_is_found(workbench: Workbench) -> None:
    values = [0.95 - 0.0001 * rank for rank in range(400)] + [0.3 - 0.0001 * rank for rank in range(600)]
    drop = workbench.module("shape.js", "m.shapeOf(value)", values)["drop"]
    assert (drop["afterRank"], drop["notable"]) == (400, True)


def test_one_document_has_no_lead_and_no_drop(workbench: Workbench) -> None:
    assert workbench.module("shape.js", "m.shapeOf([0.5])") == {"lead": None, "drop": None}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.7), (0.001, 0.0042), (1, 5000), (5, 5)])
def test_ticks_are_few_round_and_inside(workbench: Workbench, low: float, high: float) -> None:
    marks = workbench.module("shape.js", "m.ticks(value[0], value[1])", [low, high])
    assert len(marks) <= 7
    assert marks == sorted(set(marks))
    assert all(low - 1e-9 <= mark <= high + 1e-9 for mark in marks)
    assert len(marks) >= (3 if high > low else 1)


# --------------------------------------------------------------------------------------------------- text


def test_offsets_of_characters_are_pythons(workbench: Workbench) -> None:
    rng = random.Random(11)
    texts = ["".join(rng.choices("a苹🍎𝒳é\u202e\n", k=12)) for _ in range(50)]
    cases: list[tuple[str, int]] = [(text, cut) for text in texts for cut in range(14)]
    got = workbench.module("text.js", "value.map(([text, cut]) => m.utf16Offset(text, cut))", cases)
    assert got == [len(text[:cut].encode("utf-16-le")) // 2 for text, cut in cases]


def test_an_excerpt_never_splits_a_character(workbench: Workbench) -> None:
    calls = "value.map((cut) => m.shortened('🍎'.repeat(40), cut))"
    for text in workbench.module("text.js", calls, list(range(1, 40))):
        assert re.fullmatch("🍎*…", text)


def test_documents_are_lines_and_blank_ones_are_counted(workbench: Workbench) -> None:
    got = workbench.module("text.js", "m.documentsOf(value)", "\ufeffone\n\n  \ntwo \n three\n\n\n")
    assert got == {"documents": ["one", "two", "three"], "numBlank": 2}
    assert workbench.module("text.js", "m.documentsOf(value)", " \n \n") == {"documents": [], "numBlank": 0}


def test_half_characters_are_replaced_and_whole_ones_stay(workbench: Workbench) -> None:
    script = "[m.wellFormed('a\\ud83cb'), m.wellFormed('\\udf4e\\ud83c'), m.wellFormed('ok🍎')]"
    assert workbench.module("text.js", script) == ["a\ufffdb", "\ufffd\ufffd", "ok🍎"]


# ------------------------------------------------------------------------------------------------ requests


def test_slices_hold_every_document_once_within_the_limits(workbench: Workbench) -> None:
    documents = ["x" * length for length in [1] * 300 + [390_000, 20_000, 500_000, 3]]
    slices = workbench.module("api.js", "m.slicesOf(value)", documents)
    assert [text for part in slices for text in part["documents"]] == documents
    starts = [sum(len(part["documents"]) for part in slices[:at]) for at in range(len(slices))]
    assert [part["start"] for part in slices] == starts
    for part in slices:
        assert len(part["documents"]) <= 128
        assert len(part["documents"]) == 1 or sum(map(len, part["documents"])) <= 400_000


def test_slices_fit_the_limits_of_the_service(workbench: Workbench) -> None:
    limits = {"max_documents": 3, "max_body_bytes": 600}
    call = "m.slicesOf(value.documents, value.limits)"
    documents = ["x" * length for length in [1, 1, 1, 1, 60, 60, 200, 1]]
    slices = workbench.module("api.js", call, {"documents": documents, "limits": limits})
    assert [len(part["documents"]) for part in slices] == [3, 2, 1, 1, 1]


def test_retry_after_is_read_as_seconds_and_as_a_date(workbench: Workbench) -> None:
    now_s = 1_750_000_000
    values = ["7", "0.4", formatdate(now_s + 90, usegmt=True), formatdate(now_s - 5, usegmt=True), "soon", ""]
    call = f"value.map((text) => m.retryAfterSeconds(text, {now_s * 1000}))"
    assert workbench.module("api.js", call, values) == [7, 1, 90, 0, None, None]
