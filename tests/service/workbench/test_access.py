"""Accessibility: keyboard, screen reader, narrow windows, dark mode, both languages."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.service.servers import wait_for
from tests.service.workbench.conftest import Watch
from tests.service.workbench.pages import RERANK, Workbench, answer_of, hold

pytestmark = pytest.mark.loopback

LONG = "A long document. " * 60 + "The end."
DOCUMENTS = ["red apples", "a lamp", "apples", LONG, "red", "苹果"]


def show_everything(bench: Workbench) -> None:
    """A result with every kind of mark in it."""

    def answer(_: str, text: str) -> dict[str, Any]:
        place = DOCUMENTS.index(text)
        score = [0.99, 0.4, 0.9, 0.85, 0.3, 0.0][place]
        marks = {"truncated": place == 1, "query_truncated": place == 1}
        return {
            "relevance_score": score,
            "log_odds": 10 * score - 5,
            "span": [300, 360] if place == 3 else None,
            **marks,
        }

    bench.stage_scores(answer)
    bench.rank("red apples", DOCUMENTS)


def faults(page: Page) -> list[str]:
    """The serious and critical violations that axe reports."""
    page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [
        f"{fault['id']}: {node['target']} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in {"serious", "critical"}
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_axe_finds_no_serious_fault_in_any_tab(workbench: Workbench, theme: str, language: str) -> None:
    show_everything(workbench)
    workbench.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    if language == "en":
        workbench.page.locator("#language").click()
    for tab in ("cards", "table", "chart"):
        workbench.tab(tab)
        assert faults(workbench.page) == []
    workbench.page.locator(".threshold").press("PageUp")
    for tab in ("chart", "cards", "table"):
        workbench.tab(tab)
        assert faults(workbench.page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_results_that_are_dim(workbench: Workbench, theme: str) -> None:
    workbench.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    show_everything(workbench)
    text = workbench.cards.nth(1).locator(".text")
    colour = text.evaluate("node => getComputedStyle(node).color")
    workbench.page.unroute(RERANK)
    workbench.stage(hold([]))
    workbench.run_button.click()
    expect(text).not_to_have_css("color", colour)
    for tab in ("cards", "table", "chart"):
        workbench.tab(tab)
        assert faults(workbench.page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_where_something_is_asked_or_wrong(
    workbench: Workbench, theme: str
) -> None:
    page = workbench.page
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    assert faults(page) == []
    workbench.stage_failure(401, Retry_After="30")
    workbench.fill("q", ["a"])
    workbench.run_button.click()
    expect(workbench.problem).to_be_visible()
    page.evaluate("document.getElementById('demo').hidden = false")
    page.locator("#instruction-box summary").click()
    page.locator("#file").set_input_files(
        {"name": "t.csv", "mimeType": "text/csv", "buffer": b"1,5;some text\n2,5;more text\n"}
    )
    expect(page.locator("#column-choice")).to_be_visible()
    expect(page.locator("#column-doubt")).to_be_visible()
    assert faults(page) == []


def test_axe_itself_sees_a_fault(workbench: Workbench) -> None:
    workbench.page.evaluate("document.querySelector('#query').setAttribute('aria-label', '')")
    workbench.page.evaluate("document.querySelector('label[for=query]').remove()")
    workbench.page.evaluate("document.querySelector('#query').removeAttribute('placeholder')")
    assert any(fault.startswith("label") for fault in faults(workbench.page))


# ------------------------------------------------------------------------------------------------ keyboard


def test_everything_can_be_done_without_a_mouse(workbench: Workbench) -> None:
    page, keys = workbench.page, workbench.page.keyboard
    workbench.press_until("Tab", "#query")
    keys.type("red apples")
    workbench.press_until("Tab", "#documents")
    for line in ("a lamp", "red apples", "apples"):
        keys.type(line)
        keys.press("Enter")
    workbench.press_until("Tab", "#run")
    keys.press("Enter")
    workbench.wait_done()
    expect(workbench.run_button).to_be_focused()
    assert workbench.card_texts()[0] == "red apples"

    workbench.press_until("Tab", "#tab-cards")
    keys.press("ArrowRight")
    expect(page.locator("#tab-table")).to_be_focused()
    expect(page.locator("#panel-table")).to_be_visible()
    expect(page.locator("#panel-cards")).to_be_hidden()
    workbench.press_until("Tab", "th[data-key=columnIndex] button")
    keys.press("Enter")
    assert workbench.column(4) == ["a lamp", "red apples", "apples"]

    workbench.press_until("Shift+Tab", "#tab-table")
    keys.press("End")
    expect(page.locator("#tab-chart")).to_be_focused()
    workbench.press_until("Tab", ".inspector")
    expect(page.locator(".tooltip")).to_contain_text("#1")
    keys.press("ArrowRight")
    expect(page.locator(".tooltip")).to_contain_text("#2")
    expect(page.locator(".tooltip")).to_contain_text("apples")
    keys.press("End")
    expect(page.locator(".inspector")).to_have_attribute("aria-valuenow", "3")
    keys.press("ArrowRight")
    expect(page.locator(".inspector")).to_have_attribute("aria-valuenow", "3")
    keys.press("Escape")
    expect(page.locator(".tooltip")).to_be_hidden()
    workbench.press_until("Shift+Tab", "#tab-chart")
    keys.press("ArrowRight")
    expect(page.locator("#tab-cards")).to_be_focused()


def test_the_first_tab_stop_leads_to_the_results(workbench: Workbench) -> None:
    workbench.page.keyboard.press("Tab")
    expect(workbench.page.locator(".skip")).to_be_focused()
    workbench.page.keyboard.press("Enter")
    expect(workbench.page.locator("#results")).to_be_focused()


@pytest.mark.parametrize("combination", ["Control+Enter", "Meta+Enter"])
def test_the_shortcut_runs_from_any_field(workbench: Workbench, combination: str) -> None:
    workbench.fill("apples", ["a lamp", "apples"])
    workbench.documents.press(combination)
    workbench.wait_done()
    assert workbench.documents.input_value() == "a lamp\napples"


def test_enter_while_an_input_method_composes_does_not_run(workbench: Workbench) -> None:
    workbench.fill("apples", ["a"])
    asked: list[Route] = []
    workbench.stage(hold(asked))
    workbench.query.evaluate(
        "node => node.dispatchEvent(new KeyboardEvent('keydown',"
        " { key: 'Enter', ctrlKey: true, isComposing: true, bubbles: true }))"
    )
    workbench.page.wait_for_timeout(100)
    assert asked == []


# --------------------------------------------------------------------------------------------------- curve


def test_the_curve_says_in_words_what_it_shows(workbench: Workbench) -> None:
    show_everything(workbench)
    panel = workbench.tab("chart")
    words = "第 1 名领先第 2 名 0.09；第 3 名之后分数明显下降（0.85 → 0.40）。"
    expect(panel.locator(".words")).to_have_text(words)
    curve = panel.get_by_role("img", name="分数随排名的变化")
    expect(curve).to_be_visible()
    expect(curve.locator("desc")).to_have_text(words)
    expect(panel.locator(".drop text")).to_have_text("断层 −0.45")
    heights = panel.locator("circle.point").evaluate_all(
        "nodes => nodes.map((n) => Number(n.getAttribute('cy')))"
    )
    assert heights == sorted(heights)
    assert len(heights) == len(DOCUMENTS)
    heat = panel.locator("rect.heat").evaluate_all(
        "nodes => nodes.map((n) => Number(n.getAttribute('fill-opacity')))"
    )
    assert heat == pytest.approx(
        [0.06 + 0.94 * score for score in (0.99, 0.4, 0.9, 0.85, 0.3, 0.0)], abs=0.006
    )


def test_a_point_shows_its_document_under_the_pointer(workbench: Workbench) -> None:
    show_everything(workbench)
    panel = workbench.tab("chart")
    box = panel.locator("circle.point").nth(1).bounding_box()
    assert box is not None
    workbench.page.mouse.move(box["x"] + 3, box["y"] + 40)
    tooltip = panel.locator(".tooltip")
    expect(tooltip).to_contain_text("#2")
    expect(tooltip).to_contain_text("0.9000")
    expect(tooltip).to_contain_text("原第 3 条")
    strip = panel.locator("rect.heat").nth(4).bounding_box()
    assert strip is not None
    workbench.page.mouse.move(strip["x"] + 5, strip["y"] + 5)
    expect(tooltip).to_contain_text("原第 5 条")
    workbench.page.mouse.move(5, 5)
    expect(tooltip).to_be_hidden()


def test_log_odds_are_the_other_scale(workbench: Workbench) -> None:
    show_everything(workbench)
    panel = workbench.tab("chart")
    panel.locator("#scale").select_option("logOdds")
    expect(panel.locator(".words")).to_contain_text("第 1 名领先第 2 名 0.90")
    expect(panel.locator("#scale")).to_be_focused()


def test_one_document_and_equal_scores_have_their_own_words(workbench: Workbench) -> None:
    workbench.stage(lambda route: route.fulfill(json=answer_of(route, lambda *_: {"relevance_score": 0.5})))
    workbench.rank("q", ["a"])
    expect(workbench.tab("chart").locator(".words")).to_have_text("只有一条文档，分数 0.5000。")
    workbench.rank("q", ["a", "b", "c"])
    expect(workbench.tab("chart").locator(".words")).to_have_text("所有分数相同。")


def test_the_curve_follows_the_windows_width(workbench: Workbench) -> None:
    show_everything(workbench)
    panel = workbench.tab("chart")
    curve = panel.locator(".plot svg")
    wide = float(curve.get_attribute("width") or 0)
    workbench.page.set_viewport_size({"width": 950, "height": 800})
    workbench.wait_until(f"Number(document.querySelector('.plot svg').getAttribute('width')) < {wide - 100}")


# ------------------------------------------------------------------------------ languages, width, themes


def test_the_language_is_switched_and_remembered(workbench: Workbench) -> None:
    page = workbench.page
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    show_everything(workbench)
    page.locator("#language").click()
    expect(workbench.run_button).to_contain_text("Rerank")
    expect(page.locator("#status-line")).to_contain_text("Engine ready")
    expect(workbench.cards.first).to_contain_text("was no. 1")
    expect(workbench.count).to_have_text("6 documents")
    expect(page).to_have_title("Qwen Rerank workbench")
    assert page.locator("html").get_attribute("lang") == "en"
    page.reload()
    expect(workbench.run_button).to_contain_text("Rerank")
    text = page.locator("main").inner_text()
    assert not [word for word in ("重排序", "文档", "查询", "结果") if word in text]


def test_an_english_browser_gets_english(browser: Browser, base_url: str, watch: Watch) -> None:
    context = browser.new_context(locale="en-GB")
    try:
        page = context.new_page()
        watch.attach(page)
        bench = Workbench(page, base_url, watch.allowed_failures)
        bench.open()
        expect(bench.run_button).to_contain_text("Rerank")
        expect(bench.count).to_have_text("0 documents")
        bench.documents.fill("one")
        expect(bench.count).to_have_text("1 document")
    finally:
        context.close()


@pytest.mark.parametrize("width", [320, 390, 760])
def test_in_a_narrow_window_there_is_one_column_and_nothing_sticks_out(
    workbench: Workbench, width: int
) -> None:
    workbench.page.set_viewport_size({"width": width, "height": 800})
    show_everything(workbench)
    for tab in ("cards", "table", "chart"):
        workbench.tab(tab)
        inner, left, right = workbench.page.evaluate(
            """() => [document.documentElement.scrollWidth,
                      document.querySelector(".inputs").getBoundingClientRect(),
                      document.querySelector(".results").getBoundingClientRect()]
                     .map((box) => box.width === undefined ? box : [box.left, box.width, box.top, box.bottom])"""
        )
        assert inner <= width
        assert left[0] == pytest.approx(right[0], abs=5)
        assert right[2] >= left[3] - 1
    assert faults(workbench.page) == []


def test_on_a_phone_the_tables_text_has_the_whole_width_and_it_stays_a_table(workbench: Workbench) -> None:
    workbench.page.set_viewport_size({"width": 390, "height": 800})
    show_everything(workbench)
    panel = workbench.tab("table")
    widths = panel.evaluate(
        "node => [node.querySelector('td:last-child').clientWidth, node.querySelector('.table-box').clientWidth]"
    )
    assert widths[0] >= 0.95 * widths[1]
    table = panel.get_by_role("table")
    expect(table.get_by_role("columnheader")).to_have_count(4)
    expect(table.get_by_role("row")).to_have_count(len(DOCUMENTS) + 1)
    expect(table.get_by_role("row").nth(1).get_by_role("cell")).to_have_count(4)
    panel.locator("th[data-key=columnIndex] button").click()
    assert workbench.column(3) == [str(number) for number in range(1, len(DOCUMENTS) + 1)]


@pytest.mark.parametrize("number", [2, 60])
def test_after_a_run_in_a_narrow_window_the_results_are_in_view(workbench: Workbench, number: int) -> None:
    """Few results are less than a screen, and many are drawn after the page has begun to scroll."""
    workbench.page.set_viewport_size({"width": 390, "height": 700})
    workbench.rank("red apples", [f"document {index}" for index in range(number)])
    expect(workbench.page.locator("#tab-cards")).to_be_in_viewport()
    top = "document.getElementById('results').getBoundingClientRect().top"
    wait_for(lambda: 0 <= workbench.page.evaluate(top) < 20, timeout_s=5)


def test_the_theme_follows_the_machine_until_one_is_chosen(workbench: Workbench) -> None:
    page = workbench.page
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(243, 245, 249)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == "rgb(14, 19, 26)"
    expect(page.locator("#theme")).to_have_text("切换到浅色")
    page.locator("#theme").click()
    assert page.evaluate(ground) == "rgb(243, 245, 249)"
    page.reload()
    assert page.evaluate(ground) == "rgb(243, 245, 249)"
    expect(page.locator("#theme")).to_have_text("切换到深色")


def test_with_reduced_motion_nothing_moves(workbench: Workbench) -> None:
    workbench.page.emulate_media(reduced_motion="reduce")
    workbench.page.evaluate("document.getElementById('status').dataset.state = 'loading'")
    still = workbench.page.evaluate(
        "[...document.querySelectorAll('*')].every((node) => { const s = getComputedStyle(node);"
        " return s.animationName === 'none' && s.transitionDuration === '0s'; })"
    )
    assert still
