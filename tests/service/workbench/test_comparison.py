"""Two instructions side by side: both ranks of each document, and what moved."""

from __future__ import annotations

import csv
import io

import pytest
from playwright.sync_api import BrowserContext, Locator, Route, expect

from tests.service.servers import wait_for
from tests.service.workbench.conftest import Watch
from tests.service.workbench.pages import Workbench, answer_of, hold, request_body
from tests.service.workbench.test_access import faults
from tests.service.workbench.test_snippets import copied

pytestmark = pytest.mark.loopback

QUERY = "apple"
FIRST, SECOND = "about the company", "about the fruit"
SCORES = {
    "phones": (0.9, 0.1),
    "shares": (0.8, 0.05),
    "cider": (0.3, 0.95),
    "orchards": (0.2, 0.9),
    "lamp": (0.01, 0.01),
}


def ask(bench: Workbench, first: str = FIRST, second: str = SECOND) -> None:
    """Fill in an input with two instructions."""
    bench.fill(QUERY, list(SCORES))
    bench.page.locator("#instruction-box summary").click()
    bench.instruction.fill(first)
    bench.page.locator("#compare").check()
    bench.page.locator("#second").fill(second)


def stage(bench: Workbench) -> list[str | None]:
    """Score by instruction; the list gets the instruction of each request."""
    asked: list[str | None] = []

    def answer(route: Route) -> None:
        instruction = request_body(route).get("instruction")
        asked.append(instruction)
        at = int(instruction == SECOND)
        route.fulfill(json=answer_of(route, lambda _, text: {"relevance_score": SCORES[text][at]}))

    bench.stage(answer)
    return asked


def compare(bench: Workbench) -> Locator:
    """Rank by both instructions, and return the panel that shows them."""
    ask(bench)
    bench.run_button.click()
    bench.wait_done()
    panel = bench.page.locator("#panel-compare")
    expect(panel.locator("tbody tr")).to_have_count(len(SCORES))
    return panel


def cells(panel: Locator, number: int) -> list[str]:
    return panel.locator(f"tbody td:nth-child({number})").all_text_contents()


def test_both_ranks_of_each_document_stand_side_by_side_with_what_moved(workbench: Workbench) -> None:
    asked = stage(workbench)
    panel = compare(workbench)
    assert asked == [FIRST, SECOND]
    expect(panel.locator(".words")).to_have_text(
        "5 条中有 4 条移动，变化最大的是原第 1 条：从第 1 名到第 3 名。"
    )
    expect(panel.locator("p.muted")).to_have_text([f"A {FIRST}", f"B {SECOND}"])
    assert cells(panel, 4) == list(SCORES)
    assert cells(panel, 1) == ["1 0.9000", "2 0.8000", "3 0.3000", "4 0.2000", "5 0.0100"]
    assert cells(panel, 2) == ["3 0.1000", "4 0.0500", "1 0.9500", "2 0.9000", "5 0.0100"]
    assert cells(panel, 3) == ["↓ 下降 2 位", "↓ 下降 2 位", "↑ 上升 2 位", "↑ 上升 2 位", "位置不变"]
    workbench.tab("cards")
    assert workbench.card_texts() == list(SCORES)


def test_the_comparison_is_what_the_service_answers_to_each_instruction(workbench: Workbench) -> None:
    """The lexical scorer ignores instructions."""
    panel = compare(workbench)
    expect(panel.locator(".words")).to_have_text("两条指令的顺序相同。")
    assert cells(panel, 1) == cells(panel, 2)


def test_keys_sort_by_the_second_rank_and_by_the_farthest_move(workbench: Workbench) -> None:
    stage(workbench)
    panel = compare(workbench)
    workbench.press_until("Tab", "#tab-compare", most=60)
    workbench.press_until("Tab", "th[data-key=columnB] button")
    workbench.page.keyboard.press("Enter")
    assert cells(panel, 4) == ["cider", "orchards", "phones", "shares", "lamp"]
    workbench.press_until("Tab", "th[data-key=columnMoved] button")
    workbench.page.keyboard.press("Enter")
    assert cells(panel, 4) == ["phones", "shares", "cider", "orchards", "lamp"]
    expect(panel.locator("th[data-key=columnMoved]")).to_have_attribute("aria-sort", "descending")
    workbench.page.keyboard.press("Enter")
    assert cells(panel, 4)[0] == "lamp"


def test_the_export_has_ranks_and_scores_by_both_instructions(workbench: Workbench) -> None:
    stage(workbench)
    panel = compare(workbench)
    with workbench.page.expect_download() as caught:
        panel.get_by_role("button", name="导出 CSV").click()
    rows = list(csv.reader(io.StringIO(caught.value.path().read_text("utf-8-sig"), newline="")))
    assert rows[0] == ["A 排名", "B 排名", "变化", "A 分数", "B 分数", "原位置", "文本"]
    assert rows[3] == ["3", "1", "2", "0.3", "0.95", "3", "cider"]


def test_the_second_instruction_may_be_the_default_but_not_the_first(workbench: Workbench) -> None:
    asked = stage(workbench)
    ask(workbench, first=SECOND, second=f" {SECOND} ")
    workbench.page.locator("#instruction-box summary").click()
    workbench.run_button.click()
    expect(workbench.run_note).to_have_text("请填写与第一条不同的另一条指令。")
    expect(workbench.page.locator("#second")).to_be_focused()
    assert asked == []
    workbench.page.locator("#second").fill("")
    workbench.run_button.click()
    workbench.wait_done()
    expect(workbench.page.locator("#panel-compare p.muted")).to_have_text([f"A {SECOND}", "B 默认"])
    assert asked == [SECOND, None]


def test_without_a_second_instruction_there_is_one_request_and_no_comparison(workbench: Workbench) -> None:
    asked = stage(workbench)
    compare(workbench)
    workbench.page.locator("#compare").uncheck()
    expect(workbench.page.locator("#second")).to_be_hidden()
    expect(workbench.page.locator("#summary")).to_contain_text("输入已改变")
    workbench.run_button.click()
    expect(workbench.page.locator("#panel-cards")).to_be_visible()
    expect(workbench.page.locator("#tab-compare")).to_be_hidden()
    assert asked == [FIRST, SECOND, FIRST]


def test_a_second_comparison_leaves_the_view_that_is_looked_at(workbench: Workbench) -> None:
    asked = stage(workbench)
    compare(workbench)
    workbench.tab("chart")
    workbench.run_button.click()
    wait_for(lambda: workbench.cancel_button.is_hidden() and len(asked) == 4)
    expect(workbench.page.locator("#panel-chart")).to_be_visible()


def test_progress_counts_both_rankings_and_cancelling_keeps_the_last_result(workbench: Workbench) -> None:
    held: list[Route] = []

    def all_but_the_last(route: Route) -> None:
        body = request_body(route)
        if body["instruction"] == SECOND and len(body["documents"][0]) < 128:
            hold(held)(route)
        else:
            route.continue_()

    workbench.allow_failure("/api/rerank")
    workbench.stage(all_but_the_last)
    ask(workbench)
    workbench.fill(QUERY, [f"document {number}" for number in range(130)])
    workbench.run_button.click()
    expect(workbench.page.locator("#progress-text")).to_contain_text("258 / 260 对")
    workbench.cancel_button.click()
    expect(workbench.run_note).to_contain_text("已取消")
    expect(workbench.page.locator("#tab-compare")).to_be_hidden()
    assert workbench.cards.count() == 0


def test_both_instructions_outlive_a_reload_and_travel_in_a_link(
    workbench: Workbench, context: BrowserContext, watch: Watch
) -> None:
    ask(workbench, first="")
    workbench.wait_until(f"(localStorage.getItem('qwen-rerank.input') ?? '').includes('{SECOND}')")
    workbench.page.reload()
    expect(workbench.page.locator("#second")).to_have_value(SECOND)
    expect(workbench.page.locator("#second")).to_be_visible()
    link = copied(workbench, "链接")
    workbench.page.evaluate("localStorage.clear()")
    other = context.new_page()
    watch.attach(other)
    other.goto(link)
    expect(other.locator("#second")).to_have_value(SECOND)
    expect(other.locator("#instruction")).to_have_value("")
    expect(other.locator("#compare")).to_be_checked()
    other.locator("#clear").click()
    expect(other.locator("#compare")).not_to_be_checked()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_a_comparison_wide_and_on_a_phone(
    workbench: Workbench, theme: str
) -> None:
    stage(workbench)
    workbench.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    panel = compare(workbench)
    assert faults(workbench.page) == []
    workbench.page.set_viewport_size({"width": 360, "height": 800})
    assert workbench.page.evaluate("document.documentElement.scrollWidth") <= 360
    widths = panel.evaluate(
        "node => [node.querySelector('td:last-child').clientWidth, node.querySelector('.table-box').clientWidth]"
    )
    assert widths[0] >= 0.95 * widths[1]
    expect(panel.get_by_role("table").get_by_role("columnheader")).to_have_count(4)
    assert faults(workbench.page) == []
    workbench.page.locator("#language").click()
    expect(panel.locator(".words")).to_contain_text(
        "4 of 5 documents moved; document 1 moved farthest, from rank 1 to rank 3."
    )
    workbench.page.evaluate("document.getElementById('tab-batch').hidden = false")
    right = "document.getElementById('tab-batch').getBoundingClientRect().right"
    assert 0 < workbench.page.evaluate(right) <= 360
    assert faults(workbench.page) == []
