"""From the fields to the ranking, in a real browser on the real service."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from qwen_rerank_plugins import LexicalScorer, RerankConfig, ScoreRequest
from tests.calibrations import fit, write_calibration
from tests.service.doubles import SteeredScorer
from tests.service.servers import running_service, wait_for
from tests.service.workbench.conftest import Watch
from tests.service.workbench.pages import Workbench, answer_of, hold

pytestmark = pytest.mark.loopback

QUERY = "red apples from the orchard"
DOCUMENTS = [
    "a lamp",
    "the orchard is closed",
    "red apples from the orchard are sweet",
    "red paint",
    "apples from the shop",
]
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</textarea></script><script>alert(2)</script>",
    "\u202egnp.exe evil \u2066\u2067 bidi",
    "javascript:alert(3) {{7*7}} ${7*7} <svg onload=alert(4)>",
    "\x00nul \x1b[31mred zero\u200bwidth",
    "-->]]>&lt;b&gt;&amp;",
    "x" * 100_000,
    "ͪ̊" * 200,
    "__proto__",
    "constructor",
]


def expected_order() -> list[str]:
    scores = LexicalScorer().score([ScoreRequest(QUERY, text) for text in DOCUMENTS])
    order = sorted(range(len(DOCUMENTS)), key=lambda at: -scores[at].relevance_score)
    return [DOCUMENTS[at] for at in order]


def test_documents_are_ranked_as_the_scorer_ranks_them(workbench: Workbench) -> None:
    workbench.rank(QUERY, DOCUMENTS)
    assert workbench.card_texts() == expected_order()
    first = workbench.cards.first
    expect(first).to_have_class("card first")
    expect(first).to_contain_text("原第 3 条")
    expect(first).to_contain_text("上升 2 位")
    [best] = LexicalScorer().score([ScoreRequest(QUERY, DOCUMENTS[2])])
    expect(first.locator(".score")).to_have_text(f"{best.relevance_score:.4f}")


def test_the_first_card_is_deep_blue_with_white_text(workbench: Workbench) -> None:
    workbench.rank(QUERY, DOCUMENTS)
    colours = workbench.cards.first.evaluate(
        "node => [getComputedStyle(node).backgroundColor, getComputedStyle(node.querySelector('.text')).color]"
    )
    assert colours == ["rgb(10, 58, 134)", "rgb(255, 255, 255)"]


def test_the_request_is_the_public_api_with_query_instruction_and_documents(workbench: Workbench) -> None:
    workbench.page.locator("#instruction-box summary").click()
    workbench.instruction.fill("only fruit")
    workbench.fill(QUERY, ["", " one ", "", "two"])
    with workbench.page.expect_request("**/api/rerank") as caught:
        workbench.run_button.click()
    assert caught.value.post_data_json == {
        "queries": [QUERY],
        "documents": [["one", "two"]],
        "return_documents": False,
        "instruction": "only fruit",
    }
    workbench.wait_done()


def test_the_table_sorts_by_every_column_with_the_mouse_and_the_keyboard(workbench: Workbench) -> None:
    workbench.rank(QUERY, DOCUMENTS)
    panel = workbench.tab("table")
    assert workbench.column(1) == ["1", "2", "3", "4", "5"]

    original = panel.locator("th", has_text="原位置")
    original.locator("button").click()
    expect(original).to_have_attribute("aria-sort", "ascending")
    assert workbench.column(4) == DOCUMENTS
    original.locator("button").press("Enter")
    expect(original).to_have_attribute("aria-sort", "descending")
    assert workbench.column(4) == DOCUMENTS[::-1]

    score = panel.locator("th", has_text="分数")
    score.locator("button").press("Space")
    expect(score).to_have_attribute("aria-sort", "descending")
    assert original.get_attribute("aria-sort") is None
    assert workbench.column(4) == expected_order()
    score.locator("button").click()
    assert workbench.column(1) == ["5", "4", "3", "2", "1"]

    panel.locator("th", has_text="文本").locator("button").click()
    assert workbench.column(4) == sorted(DOCUMENTS)


def test_the_table_is_copied_as_cells_and_as_html_in_the_order_shown(workbench: Workbench) -> None:
    workbench.rank(QUERY, [*DOCUMENTS, "=HYPERLINK(1)", 'say "hi"', "<b>bold</b>"])
    panel = workbench.tab("table")
    panel.locator("th", has_text="原位置").locator("button").click()
    panel.get_by_role("button", name="复制表格").click()
    expect(panel.locator(".toolbar")).to_contain_text("已复制 8 行")
    plain, html = workbench.page.evaluate(
        """async () => {
          const [item] = await navigator.clipboard.read();
          return Promise.all(["text/plain", "text/html"].map(async (type) => (await item.getType(type)).text()));
        }"""
    )
    rows = list(csv.reader(io.StringIO(plain, newline=""), delimiter="\t"))
    assert rows[0] == ["排名", "分数", "对数几率", "原位置", "文本"]
    assert [row[4] for row in rows[1:]] == [*DOCUMENTS, "'=HYPERLINK(1)", 'say "hi"', "<b>bold</b>"]
    assert [row[3] for row in rows[1:]] == [str(number) for number in range(1, 9)]
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert html.count("<tr>") == 9


def test_without_a_clipboard_api_the_older_way_copies(page: Page, workbench: Workbench) -> None:
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    workbench.open()
    workbench.rank(QUERY, DOCUMENTS)
    panel = workbench.tab("table")
    panel.get_by_role("button", name="复制表格").click()
    expect(panel.locator(".toolbar")).to_contain_text("已复制 5 行")
    workbench.query.fill("")
    workbench.query.press("Control+v")
    assert workbench.query.input_value().splitlines()[1].endswith("\tred apples from the orchard are sweet")


def test_the_exported_file_is_csv_that_excel_and_python_read(workbench: Workbench, tmp_path: Path) -> None:
    documents = [*DOCUMENTS, "=cmd|' /C calc'!A0", "苹果 🍎", 'a "quote", a comma', "＋1", "-5"]
    workbench.rank(QUERY, documents)
    panel = workbench.tab("table")
    with workbench.page.expect_download() as caught:
        panel.get_by_role("button", name="导出 CSV").click()
    path = tmp_path / "export.csv"
    caught.value.save_as(path)
    content = path.read_bytes()
    assert caught.value.suggested_filename.endswith(".csv")
    assert content.startswith(b"\xef\xbb\xbf")
    assert content.endswith(b"\r\n")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    by_index = {int(row["原位置"]): row for row in rows}
    guarded = {6: "'=cmd|' /C calc'!A0", 9: "'＋1", 10: "'-5"}
    assert [by_index[number]["文本"] for number in range(1, 11)] == [
        guarded.get(number, text) for number, text in enumerate(documents, start=1)
    ]
    scores = LexicalScorer().score([ScoreRequest(QUERY, text) for text in documents])
    for number, pair in enumerate(scores, start=1):
        assert float(by_index[number]["分数"]) == pytest.approx(pair.relevance_score, rel=1e-9)
        assert float(by_index[number]["对数几率"]) == pytest.approx(pair.log_odds, rel=1e-9)
    assert [int(row["排名"]) for row in rows] == list(range(1, 11))


def test_cancelling_ends_the_request_and_keeps_the_last_result(workbench: Workbench) -> None:
    workbench.rank(QUERY, DOCUMENTS)
    held: list[Route] = []
    workbench.allow_failure("/api/rerank")
    workbench.stage(hold(held))
    workbench.run_button.click()
    expect(workbench.page.locator("#progress-text")).to_contain_text("0 / 5 对")
    expect(workbench.run_button).to_have_attribute("aria-disabled", "true")
    with workbench.page.expect_event("requestfailed") as failed:
        workbench.cancel_button.click()
    assert failed.value.url.endswith("/api/rerank")
    expect(workbench.run_note).to_contain_text("已取消")
    expect(workbench.cancel_button).to_be_hidden()
    expect(workbench.problem).to_be_hidden()
    assert workbench.card_texts() == expected_order()
    assert len(held) == 1


def test_the_last_results_are_dim_while_a_run_is_under_way(workbench: Workbench) -> None:
    workbench.rank(QUERY, DOCUMENTS)
    text = workbench.cards.nth(1).locator(".text")
    expect(text).to_have_css("color", "rgb(23, 32, 46)")
    held: list[Route] = []
    workbench.stage(hold(held))
    workbench.run_button.click()
    expect(text).to_have_css("color", "rgb(86, 98, 117)")
    workbench.cancel_button.click()
    expect(text).to_have_css("color", "rgb(23, 32, 46)")


def test_cancelling_reaches_the_scorer(page: Page, watch: Watch) -> None:
    scorer = SteeredScorer(delay_s=60.0)
    watch.allowed_failures.add("/api/rerank")
    with running_service(scorer=scorer) as served:
        bench = Workbench(page, served.base_url, watch.allowed_failures)
        bench.open()
        bench.fill(QUERY, DOCUMENTS)
        bench.run_button.click()
        wait_for(lambda: scorer.started == 1)
        bench.cancel_button.click()
        expect(bench.run_note).to_contain_text("已取消")
        wait_for(lambda: scorer.cancelled == 1)


def test_the_demo_model_ranks_and_is_announced(page: Page, watch: Watch) -> None:
    with running_service(RerankConfig(model="demo", device="cpu")) as served:
        bench = Workbench(page, served.base_url, watch.allowed_failures)
        bench.open()
        expect(page.locator("#demo")).to_be_visible()
        bench.rank(QUERY, DOCUMENTS)
        answer = served.rank(QUERY, DOCUMENTS).json()
        best = [DOCUMENTS[entry["index"]] for entry in answer["results"]]
        assert bench.card_texts() == best


def test_escape_cancels_and_a_second_run_works(workbench: Workbench) -> None:
    held: list[Route] = []
    workbench.stage(hold(held))
    workbench.fill(QUERY, DOCUMENTS)
    workbench.query.press("Control+Enter")
    expect(workbench.cancel_button).to_be_visible()
    workbench.query.press("Escape")
    expect(workbench.run_note).to_contain_text("已取消")
    workbench.page.unroute("**/api/rerank")
    workbench.run_button.click()
    workbench.wait_done()
    assert workbench.card_texts() == expected_order()


def test_a_second_press_while_running_asks_once(workbench: Workbench) -> None:
    held: list[Route] = []
    workbench.stage(hold(held))
    workbench.fill(QUERY, DOCUMENTS)
    workbench.run_button.click()
    expect(workbench.cancel_button).to_be_visible()
    workbench.run_button.click(force=True)
    workbench.query.press("Control+Enter")
    workbench.page.wait_for_timeout(200)
    assert len(held) == 1
    workbench.cancel_button.click()
    expect(workbench.run_button).to_be_focused()


def test_a_long_list_goes_in_slices_and_shows_how_far_it_is(workbench: Workbench) -> None:
    held: list[Route] = []

    def first_then_hold(route: Route) -> None:
        if held or 'document 0"' not in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    workbench.stage(first_then_hold)
    workbench.fill("document 299", [f"document {number}" for number in range(300)])
    workbench.run_button.click()
    expect(workbench.page.locator("#progress-text")).to_contain_text("128 / 300 对")
    assert workbench.page.locator("#progress").evaluate("node => [node.value, node.max]") == [128, 300]
    while held:
        held.pop().continue_()
        workbench.page.wait_for_timeout(100)
    workbench.wait_done()
    expect(workbench.cards.first).to_contain_text("document 299")
    expect(workbench.cards.first).to_contain_text("原第 300 条")
    expect(workbench.page.locator("#summary")).to_contain_text("300 条")


def test_slices_keep_to_the_services_own_limit(page: Page, watch: Watch) -> None:
    with running_service(max_documents=10) as served:
        bench = Workbench(page, served.base_url, watch.allowed_failures)
        bench.open()
        bench.wait_until("document.getElementById('status-line').textContent.includes('cpu')")
        bench.rank("document 24", [f"document {number}" for number in range(25)])
        expect(bench.cards.first).to_contain_text("document 24")


def test_thousands_of_documents_are_shown_a_page_at_a_time(workbench: Workbench) -> None:
    workbench.rank("document 1999", [f"document {number}" for number in range(2000)])
    expect(workbench.cards.first).to_contain_text("document 1999")
    assert workbench.cards.count() <= 150
    panel = workbench.tab("table")
    assert workbench.rows.count() <= 600
    panel.locator(".paging").scroll_into_view_if_needed()
    expect(panel.locator(".paging")).not_to_contain_text("已显示 200 / 2,000 条")
    workbench.tab("chart")
    assert workbench.page.locator("svg circle.point").count() == 0
    assert workbench.page.locator("svg rect.heat").count() == 240


def test_hostile_text_is_shown_as_text(workbench: Workbench) -> None:
    clean = [text.replace("\x00", "\ufffd") for text in HOSTILE]
    workbench.stage_scores(lambda _, text: {"relevance_score": 1 / (1 + clean.index(text))})
    workbench.rank("<script>alert(5)</script>", clean)
    shown = workbench.card_texts()
    assert len(shown) == len(clean)
    for text, card in zip(clean, shown, strict=True):
        assert card == text or card == f"{text[:320]}…"
    assert workbench.page.evaluate("document.querySelectorAll('.results img, .results script').length") == 0
    workbench.cards.nth(6).get_by_role("button", name="展开全文").click()
    assert workbench.cards.nth(6).locator(".text").text_content() == clean[6]
    workbench.tab("table")
    assert workbench.column(4)[0] == clean[0]
    workbench.tab("chart")
    width = workbench.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]


def test_text_that_turns_the_writing_direction_stays_inside_its_card(workbench: Workbench) -> None:
    workbench.stage_scores(lambda _, text: {"relevance_score": 0.5})
    workbench.rank("q", ["\u202eabc", "plain"])
    isolation = workbench.cards.first.locator(".text").evaluate("node => getComputedStyle(node).unicodeBidi")
    assert isolation == "isolate"


def test_hostile_answers_are_text_too(workbench: Workbench) -> None:
    def answer(route: Route) -> None:
        value = answer_of(route, lambda _, text: {"relevance_score": 0.5})
        route.fulfill(json={**value, "model": "<img src=x onerror=alert(6)>"})

    workbench.stage(answer)
    workbench.rank("q", ["a"])
    expect(workbench.page.locator("#summary")).to_contain_text("<img src=x onerror=alert(6)>")


def test_a_best_passage_is_marked_at_the_services_characters(workbench: Workbench) -> None:
    text = "🍎🍏 " * 200 + "here it is" + " 苹果" * 200
    start = text.index("here")

    def answer(_: str, document: str) -> dict[str, object]:
        if document == "short":
            return {"relevance_score": 0.1, "truncated": True, "query_truncated": True}
        return {"relevance_score": 0.9, "log_odds": 2.2, "span": [start, start + len("here it is")]}

    workbench.stage_scores(answer)
    workbench.rank("q", ["short", text])
    expect(workbench.cards.first.locator("mark")).to_have_text("here it is")
    expect(workbench.cards.first).to_contain_text("最佳片段")
    workbench.cards.first.get_by_role("button", name="展开全文").click()
    expect(workbench.cards.first.locator("mark")).to_have_text("here it is")
    assert workbench.cards.first.locator(".text").text_content() == text
    expect(workbench.cards.nth(1).locator(".tag")).to_have_text(["已截断", "查询已截断"])


def test_a_cards_origin_selects_its_line_in_the_input(workbench: Workbench) -> None:
    workbench.rank(QUERY, ["", *DOCUMENTS[:2], "", *DOCUMENTS[2:]])
    workbench.cards.first.get_by_role("button", name="原第 3 条").click()
    expect(workbench.documents).to_be_focused()
    selected = workbench.documents.evaluate(
        "node => node.value.slice(node.selectionStart, node.selectionEnd)"
    )
    assert selected == DOCUMENTS[2]


def test_a_line_far_down_is_scrolled_to(workbench: Workbench) -> None:
    workbench.rank("document 399", [f"document {number}" for number in range(400)])
    assert workbench.documents.evaluate("node => node.scrollTop") == 0
    workbench.cards.first.get_by_role("button", name="原第 400 条").click()
    top, height, whole = workbench.documents.evaluate(
        "node => [node.scrollTop, node.clientHeight, node.scrollHeight]"
    )
    assert top + height > whole - 60


def test_changed_input_marks_the_result_as_the_last_runs(workbench: Workbench) -> None:
    workbench.rank(QUERY, DOCUMENTS)
    summary = workbench.page.locator("#summary")
    expect(summary).not_to_contain_text("输入已改变")
    workbench.query.fill(f"{QUERY}?")
    expect(summary).to_contain_text("输入已改变")
    workbench.query.fill(QUERY)
    expect(summary).not_to_contain_text("输入已改变")


def test_the_summary_says_whether_probabilities_are_calibrated(
    page: Page, watch: Watch, tmp_path: Path
) -> None:
    path = write_calibration(tmp_path, fit("find trains"))
    with running_service(RerankConfig(backend="lexical", calibration=path)) as served:
        workbench = Workbench(page, served.base_url, watch.allowed_failures)
        workbench.open()
        summary = workbench.page.locator("#summary")
        workbench.rank(QUERY, DOCUMENTS)
        expect(summary).to_contain_text("未校准")
        page.locator("#instruction-box summary").click()
        workbench.instruction.fill("find trains")
        workbench.run_button.click()
        expect(summary).to_contain_text("概率已校准")


@pytest.mark.parametrize(
    ("query", "documents", "field", "words"),
    [("", ["a"], "query", "请先填写查询"), ("q", [" ", ""], "documents", "请先填写至少一条文档")],
)
def test_what_is_missing_is_asked_for(
    workbench: Workbench, query: str, documents: list[str], field: str, words: str
) -> None:
    workbench.fill(query, documents)
    workbench.run_button.click()
    expect(workbench.run_note).to_contain_text(words)
    expect(workbench.page.locator(f"#{field}")).to_be_focused()


# ------------------------------------------------------------------------------------- what scores can tell


def bar_shares(bench: Workbench) -> list[float]:
    """How much of each card's bar is filled, from the top."""
    widths: list[float] = bench.cards.locator(".fill").evaluate_all(
        "nodes => nodes.map((node) => parseFloat(node.style.width) / 100)"
    )
    return widths


def test_cards_name_their_rank(workbench: Workbench) -> None:
    workbench.rank(QUERY, DOCUMENTS)
    expect(workbench.cards.locator(".rank")).to_have_text([f"第 {rank} 名" for rank in range(1, 6)])
    workbench.page.locator("#language").click()
    expect(workbench.cards.locator(".rank").first).to_have_text("Rank #1")


def test_where_probabilities_saturate_bars_and_curve_show_log_odds(workbench: Workbench) -> None:
    log_odds = {"a": 20.0, "b": 14.0, "c": 9.0, "d": 2.0}
    workbench.stage_scores(
        lambda _, text: {"relevance_score": 1.0 if log_odds[text] > 8 else 0.88, "log_odds": log_odds[text]}
    )
    workbench.rank("q", list(log_odds))
    low, high = 2.0 - 0.06 * 18, 20.0 + 0.06 * 18
    expected = [(value - low) / (high - low) for value in log_odds.values()]
    assert bar_shares(workbench) == pytest.approx(expected, abs=1e-6)
    expect(workbench.page.locator("#panel-cards")).to_contain_text("条形按对数几率绘制")
    panel = workbench.tab("chart")
    expect(panel.locator("#scale")).to_have_value("logOdds")
    expect(panel.locator(".words")).to_contain_text("第 1 名领先第 2 名 6.00")


def test_probabilities_that_differ_are_shown_as_they_are(workbench: Workbench) -> None:
    scores = {"a": 0.99, "b": 0.7, "c": 0.0001}
    workbench.stage_scores(lambda _, text: {"relevance_score": scores[text], "log_odds": 10 * scores[text]})
    workbench.rank("q", list(scores))
    assert bar_shares(workbench) == pytest.approx(list(scores.values()))
    expect(workbench.page.locator("#panel-cards")).not_to_contain_text("条形按对数几率绘制")
    expect(workbench.tab("chart").locator("#scale")).to_have_value("probability")


def test_practically_equal_scores_are_called_tied(workbench: Workbench) -> None:
    """Each card is compared with the card above, so that no chain of small steps hides a large one."""
    log_odds = {"a": 3.0, "b": 2.95, "c": 2.8, "d": 2.71}
    workbench.stage_scores(
        lambda _, text: {"relevance_score": 0.9 + log_odds[text] / 100, "log_odds": log_odds[text]}
    )
    workbench.rank("q", list(log_odds))
    expect(workbench.cards.nth(1)).to_contain_text("与第 1 名几乎相同")
    expect(workbench.cards.nth(3)).to_contain_text("与第 3 名几乎相同")
    for card in (0, 2):
        expect(workbench.cards.nth(card)).not_to_contain_text("几乎相同")
    expect(workbench.tab("chart").locator(".words")).to_contain_text("第 1 名与第 2 名几乎相同")
