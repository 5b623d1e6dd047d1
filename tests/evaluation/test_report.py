from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from qwen_rerank_plugins import RerankConfig
from qwen_rerank_plugins.evaluation import (
    Dataset,
    Plan,
    Query,
    System,
    evaluate,
    parse_target,
    write_report,
)

CHROMIUM = "/usr/bin/chromium"
MAX_BYTES = 6_000_000
EVIL = (
    "</title></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
)

# The first query gains by word overlap, and the second one loses.
FIRST = {f"q{EVIL}": ["d3", "d2", f"d1{EVIL}"], "q2": ["d3", f"d1{EVIL}", "d2"]}


def hostile() -> Dataset:
    """Two groups, and markup in every text of the data that the page shows."""
    return Dataset(
        name=EVIL,
        corpus={f"d1{EVIL}": f"red fox {EVIL}", "d2": "the blue whale sings", "d3": "blue sky %{y}"},
        queries={f"q{EVIL}": Query(f"blue whale song {EVIL}", EVIL), "q2": Query("fox sky red", "plain")},
        qrels={f"q{EVIL}": {f"d1{EVIL}": 1}, "q2": {"d3": 1}},
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every part: depths, groups, proposals, gains and losses."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    systems = [
        System(f"lexical {EVIL}", RerankConfig(backend="lexical")),
        System("b", RerankConfig(backend="lexical"), EVIL),
    ]
    dataset = hostile()
    plan = Plan(depths=(1, 10), targets=(parse_target("R@1=0.4"),))
    write_report(path, evaluate(dataset, FIRST, systems, plan))
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser; without one the tests fail, because nothing else can test the page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, report: Path) -> Iterator[tuple[Page, list[str], list[str]]]:
    """The report, opened offline, with its requests and its console messages."""
    context = chromium.new_context(offline=True)
    opened = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: said.append(f"error: {error}"))
    opened.goto(report.as_uri())
    yield opened, asked, said
    context.close()


@pytest.mark.loopback
def test_the_report_opens_without_a_network_and_draws_its_plots(
    page: tuple[Page, list[str], list[str]], report: Path
) -> None:
    opened, asked, said = page
    opened.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length > 0")
    assert (
        opened.locator(".js-plotly-plot").count() == 5
    )  # means, depths, groups, and the queries of two systems
    assert opened.locator(".js-plotly-plot .bars").count() >= 3
    assert [url for url in asked if not url.startswith(("data:", "blob:", report.as_uri()))] == []
    assert said == []


@pytest.mark.loopback
def test_text_of_the_data_never_becomes_markup(page: tuple[Page, list[str], list[str]]) -> None:
    opened, _, _ = page
    assert opened.title() == f"Reranking on {EVIL}"
    assert opened.locator("img").count() == 0
    assert opened.locator("h1").inner_text() == f"Reranking on {EVIL}"


@pytest.mark.loopback
def test_the_page_refuses_every_request_by_its_own_policy(page: tuple[Page, list[str], list[str]]) -> None:
    opened, _, said = page
    opened.evaluate("fetch('http://127.0.0.1:9/').catch(() => null)")
    assert any("Content Security Policy" in line for line in said)


@pytest.mark.loopback
def test_tables_have_captions_and_headers_and_axe_finds_nothing(
    page: tuple[Page, list[str], list[str]],
) -> None:
    opened, _, _ = page
    tables = opened.locator("table")
    assert tables.count() >= 6
    assert opened.locator("table > caption").count() == tables.count()
    assert opened.locator("tbody tr > th[scope=row]").count() == opened.locator("tbody tr").count()
    found = Axe().run(opened, options={"runOnly": ["wcag2a", "wcag2aa"]})
    serious = [one["id"] for one in found.response["violations"] if one["impact"] in {"serious", "critical"}]
    assert serious == []


def test_the_report_is_one_file_of_a_few_megabytes_with_all_figures(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert report.stat().st_size < MAX_BYTES
    for part in (
        "Proposed settings",
        "Most gained",
        "Most lost",
        "Difference from the first stage",
        "nDCG@10",
    ):
        assert part in text
