"""Relevant sentences are marked in the cards after the ranking, and nothing depends on them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.service.workbench.pages import RERANK, Workbench, answer_of, request_body

FILLER = "Trains run to the coast at ten and return at four in the afternoon, every day but Sunday. "
WHALE = f"🚂🚃 {FILLER}🐋 The blue whale sings. {FILLER}"
FOX = f"A red fox. {FILLER * 6}A blue whale again. {FILLER}"


def spans_asked(workbench: Workbench) -> list[dict[str, Any]]:
    """The requests for spans, from now on; the service answers them."""
    asked: list[dict[str, Any]] = []

    def watch(route: Route) -> None:
        body = request_body(route)
        if "relevant_spans" in body:
            asked.append(body)
        route.continue_()

    workbench.page.route(RERANK, watch)
    return asked


def test_the_relevant_sentences_are_marked_with_their_scores(workbench: Workbench) -> None:
    asked = spans_asked(workbench)
    workbench.rank("blue whale sings", [WHALE, "the blue whale sings", FOX])
    expect(workbench.page.locator(".card mark")).to_have_text(
        ["🐋 The blue whale sings.", "A blue whale again."]
    )
    card = workbench.cards.filter(has_text="🐋")
    assert "单独得分 0." in str(card.locator("mark").get_attribute("title"))
    assert card.locator(".text").text_content() == WHALE.strip()
    assert [sorted(body["documents"][0]) for body in asked] == [sorted([WHALE.strip(), FOX.strip()])]


def test_a_folded_text_is_shown_around_its_best_sentence(workbench: Workbench) -> None:
    workbench.rank("blue whale", [FOX, "x"])
    card = workbench.cards.filter(has_text="whale")
    expect(card.locator("mark")).to_have_text("A blue whale again.")
    assert str(card.locator(".text").text_content()).startswith("…")
    card.get_by_role("button", name="展开全文").click()
    expect(card.locator(".text")).to_have_text(FOX.strip())
    expect(card.locator("mark")).to_have_text("A blue whale again.")
    card.get_by_role("button", name="收起").click()
    expect(card.locator("mark")).to_have_text("A blue whale again.")


def test_cards_that_are_built_again_are_marked_without_another_request(workbench: Workbench) -> None:
    asked = spans_asked(workbench)
    workbench.rank("blue whale sings", [WHALE])
    expect(workbench.page.locator(".card mark")).to_have_count(1)
    workbench.page.locator("#language").click()
    expect(workbench.page.locator(".card .rank")).to_have_text("Rank #1")
    expect(workbench.page.locator(".card mark")).to_have_attribute("title", re.compile(r"Scores 0\."))
    assert len(asked) == 1


def test_short_documents_are_not_asked_about(workbench: Workbench) -> None:
    asked = spans_asked(workbench)
    workbench.rank("blue whale", ["the blue whale sings. Yes.", "a red fox"])
    workbench.tab("table")
    workbench.tab("cards")
    assert asked == []


@pytest.mark.parametrize("answer", ["failure", "nothing", "nonsense"])
def test_a_ranking_is_complete_without_them(workbench: Workbench, answer: str) -> None:
    """The service refuses the request, does not know the field, or answers with something else."""
    answered: list[str] = []

    def handle(route: Route) -> None:
        if "relevant_spans" not in request_body(route):
            route.fulfill(json=answer_of(route, lambda _, text: {"relevance_score": 0.5}))
            return
        answered.append(answer)
        if answer == "failure":
            route.fulfill(status=429, json={"message": "busy"})
        elif answer == "nothing":
            route.fulfill(json=answer_of(route, lambda _, text: {"relevance_score": 0.5}))
        else:
            route.fulfill(json={"results": [{"results": [{"index": 9, "relevant_spans": 3}]}]})

    workbench.allow_failure("/api/rerank")
    workbench.stage(handle)
    workbench.rank("blue whale sings", [WHALE, FOX])
    workbench.wait_until("document.querySelectorAll('.card').length === 2")
    while not answered:
        workbench.page.wait_for_timeout(20)
    workbench.page.wait_for_timeout(100)
    expect(workbench.page.locator(".card mark")).to_have_count(0)
    expect(workbench.problem).to_be_hidden()
    expect(workbench.run_note).to_contain_text("完成")


def test_hostile_offsets_mark_nothing_outside_the_text(workbench: Workbench) -> None:
    spans = [
        {"start": 5, "end": 10**9, "score": 0.9},
        {"start": 0, "end": 3, "score": 0.8},
        {"start": 2, "end": 7, "score": 0.7},
    ]

    def handle(route: Route) -> None:
        asks = "relevant_spans" in request_body(route)
        route.fulfill(
            json=answer_of(
                route, lambda _, text: {"relevance_score": 0.5, **({"relevant_spans": spans} if asks else {})}
            )
        )

    workbench.stage(handle)
    workbench.rank("q", [WHALE])
    expect(workbench.page.locator(".card mark")).to_have_count(3)
    assert workbench.page.locator(".card .text").text_content() == WHALE.strip()
