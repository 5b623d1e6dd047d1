"""Draws docs/workbench.png: the workbench of a running service, with its third example ranked.

    bash start.sh --model demo &
    .venv/bin/python scripts/picture_workbench.py [http://127.0.0.1:8501]

Needs the test tools (`bash test.sh laws` installs them) and Chromium.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

TARGET = Path(__file__).resolve().parent.parent / "docs" / "workbench.png"
CHROMIUM = "/usr/bin/chromium"
EXAMPLE = 2
SIZE = {"width": 1280, "height": 860}


def main(url: str = "http://127.0.0.1:8501") -> None:
    """Rank an example in the page, and keep what it looks like."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": SIZE["width"], "height": SIZE["height"]}, locale="en-US", color_scheme="light"
        )
        page.goto(url)
        page.locator("#examples button").nth(EXAMPLE).click()
        page.locator("#run").click()
        page.locator("#summary").wait_for(state="visible")
        page.locator("#status").scroll_into_view_if_needed()
        page.wait_for_timeout(500)  # the cards come in one after the other
        page.screenshot(path=str(TARGET))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
