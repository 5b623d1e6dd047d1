"""A real Chromium on the real service. Any message on the page's console fails the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.service.servers import running_service
from tests.service.workbench.pages import Workbench

CHROMIUM = "/usr/bin/chromium"
VIEWPORT = {"width": 1360, "height": 900}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium; without it the tests fail, because nothing else can test the page."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    """The address of the service, which scores by shared words."""
    with running_service() as served:
        yield served.base_url


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser profile of its own: empty storage, Chinese, light."""
    fresh = browser.new_context(
        viewport={"width": VIEWPORT["width"], "height": VIEWPORT["height"]},
        locale="zh-CN",
        color_scheme="light",
        permissions=["clipboard-read", "clipboard-write"],
    )
    fresh.set_default_timeout(15_000)
    yield fresh
    fresh.close()


class Watch:
    """Unexpected console messages of a page.

    Attributes:
        allowed_failures: Ends of addresses whose failure is intended; Chromium reports those itself.
    """

    def __init__(self) -> None:
        self.allowed_failures: set[str] = set()
        self.said: list[str] = []

    def on_console(self, message: ConsoleMessage) -> None:
        url = message.location.get("url", "")
        is_failure = message.text.startswith("Failed to load resource")
        if not (is_failure and url.endswith(tuple(self.allowed_failures))):
            self.said.append(f"{message.type}: {message.text} ({url})")

    def attach(self, page: Page) -> None:
        page.on("console", self.on_console)
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))

        def on_dialog(dialog: Any) -> None:
            self.said.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("dialog", on_dialog)


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Fail a test whose page wrote to the console, raised, or opened a dialog."""
    watcher = Watch()
    yield watcher
    assert not watcher.said


@pytest.fixture
def page(context: BrowserContext, watch: Watch) -> Page:
    """An empty tab under watch."""
    fresh = context.new_page()
    watch.attach(fresh)
    return fresh


@pytest.fixture
def workbench(page: Page, base_url: str, watch: Watch) -> Workbench:
    """The page, open and ready."""
    bench = Workbench(page, base_url, watch.allowed_failures)
    bench.open()
    return bench


@pytest.fixture(scope="session")
def sources(root: Path) -> dict[str, str]:
    """Every file of the page by name."""
    folder = root / "qwen_rerank_plugins" / "service" / "ui"
    return {path.name: path.read_text("utf-8") for path in sorted(folder.iterdir()) if path.is_file()}
