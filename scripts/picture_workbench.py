"""Draws docs/workbench*.png: the workbench of a running service in each of its states.

    bash start.sh --model demo --jobs-folder jobs &
    .venv/bin/python scripts/picture_workbench.py [http://127.0.0.1:8501]

Needs the test tools (`bash test.sh laws` installs them), Chromium, and a font with Chinese characters.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

DOCS = Path(__file__).resolve().parent.parent / "docs"
CHROMIUM = "/usr/bin/chromium"
WIDE = (1280, 860)
PHONE = (390, 844)
NUM_COLORS = 256
EXAMPLE = 2
SECOND_INSTRUCTION = "Find passages for administrators"
JOB = "query,document\n" + "".join(f"how to descale a kettle,document number {n}\n" for n in range(40))


def rank(page: Page) -> None:
    """Rank an example, and wait for the cards."""
    page.locator("#examples button").nth(EXAMPLE).click()
    page.locator("#run").click()
    page.locator("#summary").wait_for(state="visible")
    page.evaluate("document.querySelectorAll('*').forEach((node) => { node.scrollTop = 0; })")


def compare(page: Page) -> None:
    """Rank an example by the default instruction and by another one."""
    rank(page)
    page.locator("#instruction-box summary").click()
    page.locator("#compare").check()
    page.locator("#second").fill(SECOND_INSTRUCTION)
    page.locator("#run").click()
    page.locator("#panel-compare tbody tr").first.wait_for()


def threshold(page: Page) -> None:
    """Move the threshold on the curve."""
    rank(page)
    page.locator("#tab-chart").click()
    for _ in range(5):
        page.locator(".threshold").press("ArrowUp")
    page.locator(".threshold").blur()


def batch(page: Page) -> None:
    """Upload a file, and wait for its result."""
    page.locator("#tab-batch").click()
    page.locator("#batch-file").set_input_files(
        {"name": "questions.csv", "mimeType": "text/csv", "buffer": JOB.encode()}
    )
    page.locator("#batch-send").click()
    expect(page.locator(".job").first).to_have_attribute("data-state", "done", timeout=60_000)


STATES: dict[str, tuple[Callable[[Page], None], tuple[int, int], bool]] = {
    "workbench": (rank, WIDE, False),
    "workbench-dark": (rank, WIDE, True),
    "workbench-comparison": (compare, WIDE, False),
    "workbench-threshold": (threshold, WIDE, False),
    "workbench-batch": (batch, WIDE, False),
    "workbench-phone": (compare, PHONE, False),
}
"""What is done, the window's size, and whether the page is dark, by the picture's name."""


def draw(browser: Browser, url: str, name: str) -> None:
    """Bring the page into a state, and write its picture with a palette, which saves two thirds of the bytes."""
    prepare, (width, height), is_dark = STATES[name]
    page = browser.new_page(
        viewport={"width": width, "height": height},
        locale="en-US",
        color_scheme="dark" if is_dark else "light",
        reduced_motion="reduce",
    )
    page.goto(url)
    expect(page.locator("#status")).to_have_attribute("data-state", "ready")
    if name != "workbench":
        page.locator("#demo-close").click()
    prepare(page)
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # the cards come in one after the other
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.quantize(NUM_COLORS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            DOCS / f"{name}.png", optimize=True
        )
    page.close()


def main(url: str = "http://127.0.0.1:8501") -> None:
    """Draw every state."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in STATES:
            draw(browser, url, name)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
