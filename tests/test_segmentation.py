"""Offsets are exact for any text; the rules are shown by examples, one sentence or passage per element."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_rerank_plugins.segmentation import MAX_SPAN_CHARS, segment

Unit = Literal["sentence", "passage"]
UNITS = get_args(Unit)

PIECES = st.sampled_from(
    [
        *(
            "Dr",
            "a",
            "3.14",
            "B. ",
            "z. B. ",
            "die 2. ",
            ".",
            "...",
            "! ",
            "? ",
            "。",
            "！",
            "…",
            "．",
            "他说",
            "と",
        ),
        *('"', "“", "”", "»", " »", "(", ") ", "- x", "| a ", "#", "```", "~~~\n", "}", "    x", "\t"),
        *("\r\n", "\n", "\r", "\n\n", "\u2029", "\x85", "\x0b", " ", "\u00a0", "\u3000", "\x1c"),
        *("😀", "👍🏽", "👩\u200d🚀", "e\u0301", "\ud83d", "\ude00", "\0", "\ufeff", "\u200b"),
    ]
)
TEXTS = st.text(max_size=60) | st.lists(PIECES, max_size=30).map("".join)


def texts_of(text: str, unit: Unit = "sentence") -> list[str]:
    return [text[start:end] for start, end in segment(text, unit)]


@given(TEXTS, st.sampled_from(UNITS), st.sampled_from([1, 1, 1, 40, 700]))
@example("a" * 100_000, "sentence", 1)
@example("e" + "\u0301" * 5000, "sentence", 1)
@example(" " * 3000 + "a" + " " * 3000, "sentence", 1)
@example("." * 3001, "passage", 1)
def test_spans_are_in_order_stripped_short_and_cover_all_visible_characters(
    part: str, unit: Unit, repeat: int
) -> None:
    text = part * repeat
    spans = segment(text, unit)
    for start, end in spans:
        assert 0 <= start < end <= len(text)
        assert end - start <= MAX_SPAN_CHARS
        assert text[start:end] == text[start:end].strip()
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    gaps = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    assert not "".join(gaps).strip()


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith paid $3.14 (i.e. too much) in St. Louis.", "He left."],
        ["J. K. Rowling lives in the U.S. Virgin Islands.", "So do I.", "You too?"],
        ['"Really?" she asked.', "Yes!", "No?!", "(He agreed.)", "Then... nothing.", "The end..."],
        ["See Fig. 3 and no. 5 in vol. 2.", "He said no.", "It is art.", "The end."],
        ["See example.com/a.b for v2.0.", "It costs 3.5.", "Or 4."],
        ["Am 3. Oktober war der 2. Weltkrieg z. B. in Prof. Meiers Vortrag dran.", "Das war „gut.“", "Ja."],
        ["M. Dupont est là.", "Il dit\u00a0: «\u00a0Oui.\u00a0»", "Et après\u202f?", "¿Qué?", "¡Sí!"],
        ["Он живёт на ул. Ленина.", "Год 1990.", "Да."],
        ["यह पहला वाक्य है।", "यह दूसरा है।"],
        ["هل هذا سؤال؟", "نعم۔"],
        ["Next one.", "Great! 😀"],
    ],
)
def test_sentences_of_languages_with_spaces(sentences: list[str]) -> None:
    assert texts_of(" ".join(sentences)) == sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["他说：“你好。”", "然后走了。", "今天3.5度！", "真的吗？！", "好……吧。"],
        ['他说:"你好。"', "走了。", '"再见。"'],
        ["そうですか。", "「はい。」と言った。", "次の文。", "３．５倍です。"],
        ["Python很好用.", "真的!", "见example.com。"],
    ],
)
def test_sentences_of_languages_without_spaces(sentences: list[str]) -> None:
    assert texts_of("".join(sentences)) == sentences


def test_lists_tables_headings_and_short_lines_are_cut_at_line_ends() -> None:
    lines = [
        *("# Care", "What it needs:", "- water, once a week", "2. light", "(c) no frost", "一、光照"),
        *("| day | litres |\n|---|---|", "| Monday | 2 |", "name\tprice", "lily\t3"),
    ]
    assert texts_of("\r\n".join(lines).replace("|\n|", "|\r\n|")) == [
        line.replace("|\n|", "|\r\n|") for line in lines
    ]


@pytest.mark.parametrize(
    "line", ["# A heading that is longer than any short line of a text", "| a | " * 10, "name\tprice" * 5]
)
def test_a_line_after_a_heading_or_a_table_row_is_a_span_of_its_own(line: str) -> None:
    assert texts_of(f"{line}\nand prose") == [line.strip(), "and prose"]


def test_wrapped_lines_and_code_stay_together() -> None:
    wrapped = "This line was wrapped by an editor at a column,\nand goes on here."
    chinese = "这一行在编辑器里面被自动折成了很多行显示出来，\n然后继续。"
    code = "def f(x):\n    if x.y:\n        return 1\n}"
    fenced = "```python\na = b. C\nd\n```"
    assert texts_of(f"{wrapped} Next.") == [wrapped, "Next."]
    assert texts_of(f"{chinese}\n\n{code}\n\n{fenced}") == [chinese, code, fenced]


def test_a_passage_is_a_paragraph_or_a_window_of_a_long_one() -> None:
    short = ["First. Second.\n- item", "Another paragraph."]
    assert texts_of("\n \r\n".join(short), "passage") == short
    sentences = [f"Sentence number {number} says little." for number in range(100)]
    windows = texts_of(" ".join(sentences), "passage")
    assert " ".join(windows) == " ".join(sentences)
    assert len(windows) == 4
    assert all(window.endswith("little.") for window in windows)


@pytest.mark.parametrize("unit", UNITS)
def test_a_sentence_that_is_too_long_is_cut_between_words_and_never_inside_a_character(unit: Unit) -> None:
    words = texts_of("a single word " * 20_000, unit)  # 1,000 is no multiple of its length
    assert {word for text in words for word in text.split(" ")} == {"a", "single", "word"}
    character = "👩🏽\u200d🚀"
    assert {text.replace(character, "") for text in texts_of(f"a{character * 5000}", unit)} == {"a", ""}


@pytest.mark.parametrize("text", ["", " ", "\n\r\n\t\u3000", "\x1c"])
def test_a_blank_text_has_no_spans(text: str) -> None:
    assert [segment(text, unit) for unit in UNITS] == [[], []]


@pytest.mark.parametrize("text", ["😀😀 😀", "?!", "---", "\0"])
def test_a_text_without_words_is_one_span(text: str) -> None:
    assert segment(text, "sentence") == [(0, len(text))]


@pytest.mark.parametrize(
    "part", [".", ". ", '。"', "a\n", " ", "a.b?\"'“", "x. (((", "e\u0301", "1. ", "```\n"]
)
def test_hostile_texts_take_time_in_proportion_to_their_length(part: str) -> None:
    """Quadratic time would exceed the test's timeout; linear time is less than a second."""
    text = part * (300_000 // len(part))
    assert sum(end - start for start, end in segment(text, "sentence")) <= len(text)
