"""The line on the curve that separates kept from dropped documents."""

from __future__ import annotations

import itertools
import random
import re

import httpx
import pytest
from playwright.sync_api import Locator, expect

from tests.service.workbench.pages import Workbench

pytestmark = pytest.mark.loopback

SCORES = {"a": 0.9, "b": 0.7, "c": 0.7, "d": 0.2, "e": 0.00001}


def show_curve(bench: Workbench) -> Locator:
    """Rank documents of known scores, and look at the curve."""
    bench.stage_scores(lambda _, text: {"relevance_score": SCORES[text]})
    bench.rank("q", list(SCORES))
    return bench.tab("chart")


def centre(part: Locator) -> tuple[float, float]:
    box = part.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_keys_move_the_threshold_over_every_place_that_parts_scores(workbench: Workbench) -> None:
    """B and c have the same score, so no threshold keeps only one of them."""
    panel = show_curve(workbench)
    line = panel.get_by_role("slider", name="阈值")
    words = panel.locator(".threshold-words")
    expect(words).to_contain_text("min_score=0")
    expect(words).to_contain_text("保留 5 / 5 条")
    workbench.press_until("Tab", ".threshold")
    for kept, threshold in [(4, "0.1"), (3, "0.4"), (1, "0.8"), (1, "0.8")]:
        workbench.page.keyboard.press("ArrowUp")
        expect(words.locator("code")).to_have_text(f"min_score={threshold}")
        expect(words).to_contain_text(f"保留 {kept} / 5 条")
        value = f"min_score={threshold}；保留 {kept} / 5 条"
        expect(line).to_have_attribute("aria-valuetext", value)
    workbench.page.keyboard.press("Home")
    expect(words).to_contain_text("保留 5 / 5 条")
    workbench.page.keyboard.press("End")
    expect(words).to_contain_text("保留 1 / 5 条")
    expect(line).to_be_focused()


def test_dragging_the_line_greys_cards_and_rows_below_it(workbench: Workbench) -> None:
    panel = show_curve(workbench)
    mouse = workbench.page.mouse
    mouse.move(*centre(panel.locator(".threshold")))
    mouse.down()
    x, y = centre(panel.locator("circle.point").nth(2))
    mouse.move(x, y + 20)
    mouse.up()
    mouse.move(x, y - 60)
    expect(panel.locator(".threshold-words")).to_contain_text("保留 3 / 5 条")
    cards = workbench.tab("cards").locator(".card.below")
    expect(cards.locator(".text")).to_have_text(["d", "e"])
    expect(cards.first).to_contain_text("低于阈值")
    expect(workbench.tab("table").locator("tr.below")).to_have_count(2)
    workbench.tab("chart").locator(".threshold").press("Home")
    expect(workbench.tab("cards").locator(".card.below")).to_have_count(0)


def test_a_threshold_survives_a_redraw_and_ends_with_its_results(workbench: Workbench) -> None:
    panel = show_curve(workbench)
    panel.locator(".threshold").press("End")
    workbench.page.set_viewport_size({"width": 1000, "height": 800})
    workbench.page.locator("#language").click()
    expect(panel.locator(".threshold-words")).to_contain_text("1 of 5 kept")
    workbench.page.locator("#language").click()
    workbench.rank("q", list(SCORES))
    expect(workbench.tab("chart").locator(".threshold-words")).to_contain_text("保留 5 / 5 条")
    expect(workbench.tab("cards").locator(".below")).to_have_count(0)


def test_the_copied_min_score_keeps_in_a_request_what_the_page_keeps(workbench: Workbench) -> None:
    query = "red apples from the orchard"
    documents = ["a lamp", "the orchard is closed", "red apples from the orchard", "red paint", "apples"]
    workbench.rank(query, documents)
    panel = workbench.tab("chart")
    line = panel.locator(".threshold")
    for _ in range(int(line.get_attribute("aria-valuemax") or 0)):
        line.press("ArrowUp")
        panel.get_by_role("button", name="复制").click()
        expect(panel.locator(".threshold-words [role=status]")).to_have_text("已复制")
        copied = workbench.page.evaluate("navigator.clipboard.readText()")
        min_score = float(copied.removeprefix("min_score="))
        body = {"query": query, "documents": documents, "min_score": min_score}
        found = httpx.post(f"{workbench.base_url}/v1/rerank", json=body, trust_env=False).json()["results"]
        count = re.search(r"保留 (\d) / 5", panel.locator(".threshold-words").inner_text())
        assert count is not None
        assert len(found) == int(count[1])
        assert len(found) < len(documents)


def test_every_cut_parts_the_scores_and_none_is_left_out(workbench: Workbench) -> None:
    rng = random.Random(5)
    scores = sorted(
        [rng.choice([rng.random(), 1e-7 * rng.random(), 1.0, 0.5]) for _ in range(200)], reverse=True
    )
    rows = [{"score": score} for score in scores]
    cuts = workbench.module("threshold.js", "m.cutsOf(value)", rows)
    assert cuts[0] == {"kept": 200, "minScore": 0}
    for cut in cuts:
        assert sum(score >= cut["minScore"] for score in scores) == cut["kept"]
    steps = [at for at, (a, b) in enumerate(itertools.pairwise(scores), start=1) if a > b]
    assert [cut["kept"] for cut in cuts[:0:-1]] == steps
