"""A page object of the workbench: fields, buttons and results by name, for tests in a browser."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from playwright.sync_api import Locator, Page, Route, expect

__all__ = ["RERANK", "Answer", "Workbench", "answer_of", "hold", "request_body"]

RERANK = "**/api/rerank"
TYPED_LINES = 50
PATIENCE_S = 60.0

Answer = Callable[[str, str], dict[str, Any]]
"""From a query and a document to an entry's fields beside `index`."""


class Workbench:
    """A page object.

    Args:
        page: The tab.
        base_url: Where the service is.
        allowed_failures: Ends of addresses whose failure is intended; shared with the console's watch.
    """

    def __init__(self, page: Page, base_url: str, allowed_failures: set[str]) -> None:
        self.page = page
        self.base_url = base_url
        self._allowed_failures = allowed_failures
        self.query = page.locator("#query")
        self.documents = page.locator("#documents")
        self.instruction = page.locator("#instruction")
        self.run_button = page.locator("#run")
        self.cancel_button = page.locator("#cancel")
        self.count = page.locator("#count")
        self.note = page.locator("#note")
        self.run_note = page.locator("#run-note")
        self.problem = page.locator("#problem")
        self.cards = page.locator(".card")
        self.rows = page.locator("tbody tr")

    def open(self) -> None:
        """Load the page and wait for the engine."""
        self.page.goto(self.base_url)
        expect(self.page.locator("#status")).to_have_attribute("data-state", "ready")

    def fill(self, query: str, documents: Sequence[str]) -> None:
        """Fill in a query and documents; many are set at once, because typing them takes Chromium seconds."""
        self.query.fill(query)
        text = "\n".join(documents)
        if len(documents) <= TYPED_LINES:
            self.documents.fill(text)
            return
        self.documents.evaluate("(node, text) => { node.value = text; }", text)
        self.documents.dispatch_event("input")

    def rank(self, query: str, documents: Sequence[str]) -> None:
        """Fill in, run, and wait for the result."""
        self.fill(query, documents)
        self.run_button.click()
        self.wait_done()

    def wait_done(self) -> None:
        """Wait until a result is shown."""
        expect(self.run_note).to_contain_text("完成")
        expect(self.page.locator("#results [aria-busy=true]")).to_have_count(0)

    def tab(self, name: str) -> Locator:
        """Choose a tab by the end of its id, and return its panel."""
        self.page.locator(f"#tab-{name}").click()
        panel = self.page.locator(f"#panel-{name}")
        expect(panel).to_be_visible()
        expect(panel).not_to_have_attribute("aria-busy", "true")
        return panel

    def card_texts(self) -> list[str]:
        """The documents' texts on the cards, from the top."""
        return self.page.locator(".card .text").all_text_contents()

    def column(self, number: int) -> list[str]:
        """A column of the table, from the top."""
        return self.page.locator(f"tbody td:nth-child({number})").all_text_contents()

    def stage(self, handler: Callable[[Route], None], address: str = RERANK) -> None:
        """Replace the service's answers by a function's."""
        self.page.route(address, handler)

    def stage_failure(self, status: int, *, body: str | None = None, **headers: str) -> None:
        """Make reranking fail with a status, with the service's error body unless one is given."""
        self._allowed_failures.add("/api/rerank")
        problem = json.dumps({"message": f"status {status}", "error_type": "staged", "id": "request-7"})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {"Content-Type": "application/json", "X-Request-Id": "request-7", **named}
        self.stage(lambda route: route.fulfill(status=status, headers=named, body=body or problem))

    def allow_failure(self, address_end: str) -> None:
        """Chromium may report that this address failed."""
        self._allowed_failures.add(address_end)

    def stage_scores(self, answer: Answer) -> None:
        """Score by a function."""
        self.stage(lambda route: route.fulfill(json=answer_of(route, answer)))

    def module(self, name: str, expression: str, value: Any = None) -> Any:
        """Evaluate an expression of `m`, a module of the page, and `value`."""
        script = f"async (value) => {{ const m = await import('./static/{name}'); return {expression}; }}"
        return self.page.evaluate(script, value)

    def wait_until(self, expression: str) -> None:
        """Wait until an expression is true; the page's policy forbids Playwright's own way of waiting."""
        end = time.monotonic() + PATIENCE_S
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"never came true: {expression}"
            self.page.wait_for_timeout(50)

    def press_until(self, key: str, selector: str, *, most: int = 40) -> None:
        """Press a key until an element has the focus."""
        for _ in range(most):
            if self.page.locator(selector).evaluate("node => node === document.activeElement"):
                return
            self.page.keyboard.press(key)
        raise AssertionError(f"{most} presses of {key} did not reach {selector!r}")


def answer_of(route: Route, answer: Answer) -> dict[str, Any]:
    """The service's answer to a request, with scores by a function."""
    body = request_body(route)
    [query], [documents] = body["queries"], body["documents"]
    entries = [{"index": index, **answer(query, document)} for index, document in enumerate(documents)]
    entries.sort(key=lambda entry: -entry["relevance_score"])
    results = [{**entry, "rank": rank} for rank, entry in enumerate(entries, start=1)]
    return {"model": "staged", "results": [{"query": query, "results": results}], "usage": {}}


def request_body(route: Route) -> dict[str, Any]:
    """The body of a request."""
    body = route.request.post_data_json
    assert isinstance(body, dict)
    return body


def hold(routes: list[Route]) -> Callable[[Route], None]:
    """Hold requests back, and collect them in the list."""

    def keep(route: Route) -> None:
        routes.append(route)

    return keep
