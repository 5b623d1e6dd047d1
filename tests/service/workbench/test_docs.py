"""The page of the API: its examples can be copied as commands, and opened in the workbench."""

from __future__ import annotations

import json
import shlex

import pytest
from playwright.sync_api import Page, expect

from tests.service.workbench.pages import Workbench
from tests.service.workbench.test_access import faults

pytestmark = pytest.mark.loopback


def open_docs(page: Page, base_url: str, path: str) -> None:
    """Open the page, and the description of an address."""
    page.goto(f"{base_url}/docs")
    page.locator("summary").filter(has=page.get_by_text(path, exact=True)).first.click()


def test_a_copied_command_names_the_address_that_the_page_has(page: Page, base_url: str) -> None:
    open_docs(page, base_url, "/v2/rerank")
    example = page.locator("details[open] .example").filter(has_text="Voyage")
    example.get_by_role("button", name="Copy as curl").click()
    expect(example.get_by_role("button")).to_have_text("Copied")
    words = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert words[:3] == ["curl", "-s", f"{base_url}/v2/rerank"]
    assert json.loads(words[words.index("-d") + 1])["top_k"] == 1
    expect(example.get_by_role("button")).to_have_text("Copy as curl")


def test_an_example_opens_in_the_workbench_and_runs_there(
    page: Page, base_url: str, workbench: Workbench
) -> None:
    requests: list[str] = []
    workbench.fill("mine", ["my document"])
    workbench.wait_until("(localStorage.getItem('qwen-rerank.input') ?? '').includes('my document')")
    open_docs(page, base_url, "/api/rerank")
    page.on("request", lambda request: requests.append(request.url))
    example = page.locator("details[open] .example").filter(has_text="OpenSearch")
    example.get_by_role("link", name="Open in the workbench").click()
    expect(workbench.query).to_have_value("capital of France")
    expect(workbench.documents).to_have_value(
        "title: Berlin body: lies on the Spree\nbody: Paris, capital of France"
    )
    assert page.url == f"{base_url}/"
    assert not [url for url in requests if "France" in url]
    workbench.run_button.click()
    workbench.wait_done()
    assert workbench.cards.count() == 2
    page.locator("#undo").click()
    expect(workbench.query).to_have_value("mine")


def test_a_link_without_a_query_changes_nothing(page: Page, workbench: Workbench) -> None:
    workbench.fill("mine", ["a"])
    page.goto("about:blank")
    page.goto(f"{workbench.base_url}/#document=b")
    expect(workbench.query).to_have_value("mine")
    expect(workbench.documents).to_have_value("a")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_an_open_description(page: Page, base_url: str, theme: str) -> None:
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    open_docs(page, base_url, "/score")
    expect(page.locator("details[open] .example button").first).to_be_visible()
    assert faults(page) == []
