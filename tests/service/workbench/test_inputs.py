"""Entering documents in the page, and keeping them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from qwen_rerank_plugins.service.api import files
from tests.service.workbench.pages import Workbench

pytestmark = pytest.mark.loopback


def paste(bench: Workbench, text: str) -> None:
    """Put text on the real clipboard and press the keys."""
    bench.page.evaluate("(text) => navigator.clipboard.writeText(text)", text)
    bench.documents.press("Control+v")


def drop(page: Page, selector: str, name: str, content: bytes) -> None:
    """Drop a file on an element."""
    transfer = page.evaluate_handle(
        """([name, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(bytes)], name));
          return transfer;
        }""",
        [name, list(content)],
    )
    page.dispatch_event(selector, "dragover", {"dataTransfer": transfer})
    page.dispatch_event(selector, "drop", {"dataTransfer": transfer})


# ------------------------------------------------------------------------------------------------- pasting


def test_a_cell_of_several_lines_stays_one_document(workbench: Workbench) -> None:
    workbench.documents.focus()
    paste(workbench, '\ufeffplain\r\n"first line\nsecond ""line"""\r\n\r\n苹果\tAPPLE\r\n')
    expect(workbench.documents).to_have_value('plain\nfirst line second "line"\n苹果 | APPLE')
    expect(workbench.count).to_have_text("3 条")
    expect(workbench.note).to_have_text("已粘贴 3 条；1 条的单元格内换行已改为空格；略去 1 个空行")


def test_pasted_cells_stand_on_lines_of_their_own_and_can_be_undone(workbench: Workbench) -> None:
    workbench.documents.fill("before\nafter")
    workbench.documents.evaluate("node => node.setSelectionRange(3, 3)")
    paste(workbench, "one\r\ntwo\r\n")
    expect(workbench.documents).to_have_value("bef\none\ntwo\nore\nafter")
    workbench.documents.press("Control+z")
    expect(workbench.documents).to_have_value("before\nafter")


def test_pasting_a_piece_of_a_line_is_left_to_the_browser(workbench: Workbench) -> None:
    workbench.documents.fill("ab")
    workbench.documents.evaluate("node => node.setSelectionRange(1, 1)")
    paste(workbench, '"quoted"')
    expect(workbench.documents).to_have_value('a"quoted"b')


def test_a_large_paste_is_whole(workbench: Workbench) -> None:
    lines = [f"document number {number} of many" for number in range(20_000)]
    workbench.documents.focus()
    paste(workbench, "\r\n".join(lines))
    expect(workbench.count).to_have_text("20,000 条")
    assert workbench.documents.input_value() == "\n".join(lines)
    workbench.page.locator("#undo").click()
    expect(workbench.documents).to_have_value("")


def test_the_count_follows_what_is_typed(workbench: Workbench) -> None:
    expect(workbench.count).to_have_text("0 条")
    workbench.documents.fill("a\n\n \nb\n")
    expect(workbench.count).to_have_text("2 条 · 忽略 2 个空行")


# --------------------------------------------------------------------------------------------------- files


def test_a_dropped_text_file_gives_a_document_a_line(workbench: Workbench) -> None:
    drop(workbench.page, "#documents", "notes.txt", "苹果，很甜\r\n\r\n梨, 多汁\r\n".encode())
    expect(workbench.documents).to_have_value("苹果，很甜\n梨, 多汁")
    expect(workbench.note).to_have_text("已从 notes.txt 导入 2 条（UTF-8）；略去 1 个空行")


def test_a_guessed_encoding_is_shown_before_the_documents_are_taken(workbench: Workbench) -> None:
    drop(workbench.page, "#documents", "notes.txt", "苹果，很甜\r\n\r\n梨, 多汁\r\n".encode("gb18030"))
    expect(workbench.page.locator("#column-doubt")).to_contain_text("猜测")
    encoding = workbench.page.locator("#column-encoding")
    expect(encoding).to_have_value("gb18030")
    preview = workbench.page.locator("#column-preview li")
    expect(preview).to_have_text(["苹果，很甜", "梨, 多汁"])
    encoding.select_option("big5")
    expect(preview).not_to_have_text(["苹果，很甜", "梨, 多汁"])
    expect(encoding).to_have_value("big5")
    encoding.select_option("gb18030")
    expect(preview).to_have_text(["苹果，很甜", "梨, 多汁"])
    expect(workbench.page.locator("#column-doubt")).to_have_text("")
    workbench.page.locator("#column-import").click()
    expect(workbench.documents).to_have_value("苹果，很甜\n梨, 多汁")
    expect(workbench.note).to_have_text("已从 notes.txt 导入 2 条（GB18030）；略去 1 个空行")


def test_an_uncertain_delimiter_is_chosen_by_keyboard(workbench: Workbench) -> None:
    drop(workbench.page, "#documents", "t.csv", b"1,5;an apple\n2,5;a pear\n")
    delimiter = workbench.page.locator("#column-delimiter")
    expect(delimiter).to_be_focused()
    expect(workbench.page.locator("#column-doubt")).to_contain_text("逗号 , / 分号 ;")
    expect(workbench.page.locator("#column-preview li")).to_have_text(["5;an apple", "5;a pear"])
    for _ in range(2):
        delimiter.press("ArrowDown")
    expect(delimiter).to_have_value(";")
    expect(delimiter).to_be_focused()
    expect(workbench.page.locator("#column-preview li")).to_have_text(["an apple", "a pear"])
    workbench.press_until("Tab", "#column-import")
    workbench.page.keyboard.press("Enter")
    expect(workbench.documents).to_have_value("an apple\na pear")


def test_a_file_of_one_column_can_be_taken_without_a_delimiter(workbench: Workbench) -> None:
    drop(workbench.page, "#documents", "t.csv", b"red, sweet\ngreen, sour\n")
    workbench.page.locator("#column-delimiter").select_option("none")
    expect(workbench.page.locator("#column-preview li")).to_have_text(["red, sweet", "green, sour"])
    workbench.page.locator("#column-import").click()
    expect(workbench.documents).to_have_value("red, sweet\ngreen, sour")


def test_json_lines_are_taken_by_a_key_and_bad_lines_are_reported(workbench: Workbench) -> None:
    lines = '{"n": 1, "text": "苹果"}\n{"n": 2}\n{"n": 3, "text": "梨"}\noops\n'
    drop(workbench.page, "#documents", "t.jsonl", lines.encode())
    expect(workbench.page.locator("#column")).to_have_value("1")
    expect(workbench.page.locator("#column-header")).to_be_disabled()
    expect(workbench.page.locator("#column-delimiter")).to_be_hidden()
    workbench.page.locator("#column-import").click()
    expect(workbench.documents).to_have_value("苹果\n梨")
    expect(workbench.note).to_contain_text("1 行无法读取，首个在第 4 行")


def test_only_the_beginning_of_a_long_file_is_taken_and_the_note_says_so(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_ROWS", 3)
    drop(workbench.page, "#documents", "long.txt", b"a\nb\nc\nd\n")
    expect(workbench.documents).to_have_value("a\nb\nc")
    expect(workbench.note).to_contain_text("只读取了文件的开头部分")


def test_a_failed_reading_is_reported_and_leaves_the_choice_open(workbench: Workbench) -> None:
    drop(workbench.page, "#documents", "t.csv", b"id,text\n1,an apple\n")
    expect(workbench.page.locator("#column")).to_be_focused()
    workbench.allow_failure("/api/read-file?name=t.csv&encoding=utf-16")
    workbench.page.locator("#column-encoding").select_option("utf-16")
    expect(workbench.note).to_contain_text("无法读取 t.csv")
    workbench.page.locator("#column-encoding").select_option("utf-8")
    workbench.page.locator("#column-import").click()
    expect(workbench.documents).to_have_value("an apple")


def test_a_table_asks_which_column_and_takes_it(workbench: Workbench) -> None:
    table = 'id,内容,来源\r\n1,"苹果很甜，\n产自陕西",a.md\r\n2,"他说 ""好""",b.md\r\n'
    drop(workbench.page, "#documents", "table.csv", table.encode("utf-8-sig"))
    column = workbench.page.locator("#column")
    expect(column).to_be_focused()
    expect(column).to_have_value("1")
    expect(workbench.page.locator("#column-header")).to_be_checked()
    expect(workbench.page.locator("#column-preview li")).to_have_text(["苹果很甜， 产自陕西", '他说 "好"'])
    workbench.page.locator("#column-import").click()
    expect(workbench.documents).to_have_value('苹果很甜， 产自陕西\n他说 "好"')
    expect(workbench.documents).to_be_focused()
    expect(workbench.page.locator("#column-choice")).to_be_hidden()


def test_all_columns_can_be_joined_and_the_head_kept(workbench: Workbench) -> None:
    drop(workbench.page, "#documents", "t.tsv", b"name\ttext\nx\ta longer sentence here\n")
    workbench.page.locator("#column").select_option("all")
    workbench.page.locator("#column-header").uncheck()
    expect(workbench.page.locator("#column")).to_have_value("all")
    workbench.page.locator("#column-import").click()
    expect(workbench.documents).to_have_value("name | text\nx | a longer sentence here")


def test_a_file_is_added_to_what_is_there(workbench: Workbench, tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    path.write_text('"two, quoted"\nthree\n', encoding="utf-16")
    workbench.documents.fill("one\n")
    workbench.page.locator("#file").set_input_files(path)
    expect(workbench.documents).to_have_value("one\ntwo, quoted\nthree")
    expect(workbench.note).to_contain_text("UTF-16")
    workbench.page.locator("#undo").click()
    expect(workbench.documents).to_have_value("one\n")


def test_leaving_the_choice_of_a_column_changes_nothing(workbench: Workbench) -> None:
    drop(workbench.page, "#documents", "t.csv", b"a,b\n1,2\n")
    workbench.page.locator("#column-cancel").click()
    expect(workbench.page.locator("#column-choice")).to_be_hidden()
    expect(workbench.documents).to_have_value("")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("book.xlsx", b"PK\x03\x04rest", "book.xlsx 是 Excel 工作簿"),
        ("picture.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00", "picture.csv 不是文本文件"),
        ("empty.txt", b"\r\n  \r\n", "empty.txt 里没有文档"),
    ],
)
def test_a_file_that_cannot_be_used_is_reported_with_what_to_do(
    workbench: Workbench, name: str, content: bytes, words: str
) -> None:
    workbench.allow_failure(f"/api/read-file?name={name}")
    drop(workbench.page, "#documents", name, content)
    expect(workbench.note).to_contain_text(words)
    expect(workbench.documents).to_have_value("")


def test_a_file_that_is_too_large_is_reported(workbench: Workbench, tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    path.write_bytes(b"line\n" * (9 * 2**20 // 5))
    workbench.page.locator("#file").set_input_files(path)
    expect(workbench.note).to_contain_text("huge.txt 超过 8 MB")


def test_a_file_dropped_beside_the_field_does_not_leave_the_page(workbench: Workbench) -> None:
    drop(workbench.page, "#results", "notes.txt", b"a line")
    expect(workbench.documents).to_have_value("")
    assert workbench.page.url.rstrip("/") == workbench.base_url


# ------------------------------------------------------------------------------------------------- keeping


def test_the_input_outlives_a_reload_and_clearing_forgets_it(workbench: Workbench) -> None:
    workbench.page.locator("#instruction-box summary").click()
    workbench.instruction.fill("only fruit")
    workbench.fill("苹果", ["一", "二"])
    stored = "localStorage.getItem('qwen-rerank.input') ?? ''"
    workbench.wait_until(f"({stored}).includes('二')")
    workbench.page.reload()
    expect(workbench.query).to_have_value("苹果")
    expect(workbench.documents).to_have_value("一\n二")
    expect(workbench.instruction).to_have_value("only fruit")
    expect(workbench.instruction).to_be_visible()
    expect(workbench.count).to_have_text("2 条")

    workbench.page.locator("#clear").click()
    expect(workbench.query).to_have_value("")
    expect(workbench.query).to_be_focused()
    workbench.wait_until(f"!({stored}).includes('苹果')")
    workbench.page.reload()
    expect(workbench.query).to_have_value("")
    expect(workbench.documents).to_have_value("")


def test_a_reload_right_after_typing_loses_nothing(workbench: Workbench) -> None:
    workbench.query.fill("typed just now")
    workbench.page.reload()
    expect(workbench.query).to_have_value("typed just now")


def test_clearing_can_be_undone(workbench: Workbench) -> None:
    workbench.fill("q", ["a", "b"])
    workbench.page.locator("#clear").click()
    workbench.page.locator("#undo").click()
    expect(workbench.query).to_have_value("q")
    expect(workbench.documents).to_have_value("a\nb")


def test_inputs_too_large_to_store_are_reported_and_still_work(workbench: Workbench) -> None:
    # A browser keeps about 5 million characters an origin; leave room for a few thousand.
    workbench.page.evaluate(
        "for (let size = 1 << 22; size > 2048; size >>= 1) {"
        " try { localStorage.setItem(`filler-${size}`, 'x'.repeat(size)); } catch { /* too much */ } }"
    )
    workbench.documents.fill("an apple a day " * 1000)
    expect(workbench.note).to_have_text("内容太大，刷新页面后不会保留。")
    workbench.documents.fill("small")
    expect(workbench.note).to_have_text("")


@pytest.mark.parametrize("stored", ["{", "null", "[]", '"text"', '{"query": 5, "documents": null}'])
def test_damaged_storage_is_no_obstacle(workbench: Workbench, stored: str) -> None:
    workbench.page.evaluate(
        "(text) => { for (const n of ['input', 'preferences']) localStorage.setItem(`qwen-rerank.${n}`, text); }",
        stored,
    )
    workbench.open()
    expect(workbench.query).to_have_value("")
    workbench.rank("a", ["a", "b"])


def test_without_storage_the_page_works(page: Page, workbench: Workbench) -> None:
    page.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    workbench.open()
    workbench.rank("a", ["a", "b"])


def test_every_example_fills_the_fields_and_runs(workbench: Workbench) -> None:
    chips = workbench.page.locator("#examples button")
    names = chips.all_text_contents()
    assert len(names) >= 3
    for name in names:
        workbench.page.get_by_role("button", name=name, exact=True).click()
        assert workbench.query.input_value()
        workbench.run_button.click()
        workbench.wait_done()
        assert workbench.cards.count() == len(workbench.documents.input_value().splitlines())


def test_an_example_does_not_lose_what_was_there(workbench: Workbench) -> None:
    workbench.fill("mine", ["a"])
    workbench.page.locator("#examples button").first.click()
    workbench.page.locator("#undo").click()
    expect(workbench.query).to_have_value("mine")


# ------------------------------------------------------------------------------------------------ numbers


NUMBERS = """() => {
  const box = document.getElementById("documents").getBoundingClientRect();
  const lines = [...document.querySelectorAll("#line-list > *")];
  return lines.map((line) => [line.className, line.getBoundingClientRect().top - box.top,
                              line.getBoundingClientRect().height]);
}"""
LINE_HEIGHT = 21.0
FIRST_LINE_TOP = 8.0


def test_every_document_has_a_number_and_a_wrapped_line_has_one(workbench: Workbench) -> None:
    wrapped = "a line that wraps " * 12
    workbench.documents.fill("\n".join(["short", "", wrapped, "苹果，很甜", "x" * 300]))
    workbench.documents.evaluate("node => { node.scrollTop = 0; }")
    workbench.wait_until(f"({NUMBERS})()[0][1] === {FIRST_LINE_TOP}")
    classes, _, heights = zip(*workbench.page.evaluate(NUMBERS), strict=True)
    assert classes == ("filled", "", "filled", "filled", "filled")
    assert heights[:2] == (LINE_HEIGHT, LINE_HEIGHT)
    assert heights[2] > 2 * LINE_HEIGHT
    assert heights[4] > 2 * LINE_HEIGHT
    text_height = workbench.documents.evaluate("node => node.scrollHeight") - 2 * (FIRST_LINE_TOP - 1)
    assert sum(heights) == text_height


def test_numbers_stay_beside_their_lines_when_the_field_scrolls_or_narrows(workbench: Workbench) -> None:
    workbench.documents.fill("\n".join(f"document {number} " * 5 for number in range(100)))
    workbench.documents.evaluate("node => { node.scrollTop = 500; }")
    workbench.wait_until(f"({NUMBERS})()[0][1] === {FIRST_LINE_TOP} - 500")
    workbench.documents.evaluate("node => { node.scrollTop = 0; }")
    workbench.page.set_viewport_size({"width": 390, "height": 800})
    # Without a border and with the scrollbar, which makes the text narrower.
    workbench.wait_until(
        f"({NUMBERS})().reduce((sum, line) => sum + line[2], 0) + 14"
        " === document.getElementById('documents').scrollHeight"
    )


@pytest.mark.parametrize("seed", range(3))
def test_after_any_edits_the_numbered_lines_are_the_fields(workbench: Workbench, seed: int) -> None:
    """Only the lines that changed are built again, so edits at both ends and within are tried."""
    rng = random.Random(seed)
    lines = [str(number) for number in range(30)]
    for _ in range(40):
        start = rng.randrange(len(lines) + 1)
        lines[start : start + rng.randrange(4)] = rng.choices(["", "a", "b", " "], k=rng.randrange(4))
        workbench.documents.fill("\n".join(lines))
        shown = workbench.page.locator("#line-list > *").evaluate_all(
            "nodes => nodes.map((node) => node.textContent.slice(0, -1))"
        )
        assert "\n".join(shown) == workbench.documents.input_value()


def test_a_field_of_more_lines_than_are_numbered_has_no_numbers(workbench: Workbench) -> None:
    workbench.fill("q", ["a"] * 10_001)
    assert workbench.page.locator("#line-list > *").count() == 0
    workbench.fill("q", ["a", "b"])
    assert workbench.page.locator("#line-list > *").count() == 2
