"""The tab for whole files: uploading, watching, downloading and removing jobs in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Download, Locator, Page, Route, expect

from tests.service.doubles import SteeredScorer
from tests.service.jobs.uploads import Client, csv_file, entries, pairs, rows_of
from tests.service.servers import RunningService, running_service, wait_for
from tests.service.workbench.conftest import Watch
from tests.service.workbench.pages import Workbench, hold

pytestmark = pytest.mark.loopback

ROWS = pairs(30)


@pytest.fixture
def scorer() -> SteeredScorer:
    return SteeredScorer()


@pytest.fixture
def service(tmp_path: Path, scorer: SteeredScorer) -> Iterator[RunningService]:
    with running_service(
        scorer=scorer, jobs_folder=str(tmp_path / "jobs"), jobs_max_upload_bytes=100_000
    ) as running:
        yield running


@pytest.fixture
def bench(page: Page, service: RunningService, watch: Watch) -> Workbench:
    opened = Workbench(page, service.base_url, watch.allowed_failures)
    opened.open()
    opened.tab("batch")
    return opened


def given(name: str, content: bytes) -> Any:
    return {"name": name, "mimeType": "text/csv", "buffer": content}


def upload(bench: Workbench, name: str = "pairs.csv", content: bytes | None = None) -> Locator:
    """Choose a file, send it, and return its entry."""
    bench.page.locator("#batch-file").set_input_files(given(name, content or csv_file(ROWS)))
    expect(bench.page.locator("#batch-choose")).to_contain_text(name)
    bench.page.locator("#batch-send").click()
    entry = bench.page.locator(".job", has_text=name)
    expect(entry).to_be_visible()
    return entry


def fetched(entry: Locator, part: str) -> tuple[str, bytes]:
    with entry.page.expect_download() as waiting:
        entry.locator(f"[data-part={part}]").click()
    download: Download = waiting.value
    return download.suggested_filename, Path(download.path()).read_bytes()


def faults(page: Page) -> list[str]:
    page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [f"{one['id']}: {node['target']}" for one in found for node in one["nodes"]]


def test_there_is_no_such_tab_where_no_upload_is_taken(workbench: Workbench) -> None:
    expect(workbench.page.locator("#status-hint")).to_contain_text("v")
    expect(workbench.page.locator("#tab-batch")).to_be_hidden()
    workbench.page.locator("#tab-cards").focus()
    workbench.page.keyboard.press("End")
    expect(workbench.page.locator("#tab-chart")).to_be_focused()


def test_a_file_goes_up_and_its_result_comes_down(bench: Workbench) -> None:
    entry = upload(bench, "我的 pairs.csv")
    expect(entry).to_have_attribute("data-state", "done", timeout=20_000)
    expect(entry).to_contain_text("完成")
    expect(entry).to_contain_text("30 行")
    expect(entry.locator("progress")).to_be_hidden()
    expect(entry.locator("[data-part=rejected]")).to_be_hidden()
    name, content = fetched(entry, "result")
    assert name == "我的 pairs.ranked.csv"
    assert len(rows_of(content)) == len(ROWS)
    expect(bench.page.locator("#batch-choose")).to_have_text("选择文件，或拖到这里")


def test_a_guess_is_shown_with_three_texts_and_encoding_and_delimiter_can_be_named(bench: Workbench) -> None:
    rows = [{"query": "怎么洗猫", "document": text} for text in ("用温水轻轻地洗", "今天股市下跌", "cats")]
    content = csv_file(rows).decode().replace(",", ";").encode("gb18030")
    entry = upload(bench, "gbk.csv", content)
    expect(entry).to_have_attribute("data-state", "done", timeout=20_000)
    expect(entry).to_contain_text('推测的格式："gb18030"')
    expect(entry).to_contain_text('";"。文本读作：怎么洗猫 · 用温水轻轻地洗 · 今天股市下跌。')
    bench.page.locator(".batch-more summary").click()
    bench.page.locator("#batch-encoding").fill(" gbk ")
    bench.page.locator("#batch-delimiter").select_option(label="制表符")
    named = upload(bench, "named.csv", csv_file(rows).decode().replace(",", "\t").encode("gb18030"))
    expect(named).to_have_attribute("data-state", "done", timeout=20_000)
    expect(named).not_to_contain_text("推测的格式")


def test_rows_with_warnings_are_counted_and_json_is_taken(bench: Workbench) -> None:
    entry = upload(bench, "pairs.json", b'[{"query": "q", "document":\n "cut \\ud83d"}]')
    expect(entry).to_have_attribute("data-state", "done", timeout=20_000)
    expect(entry).to_contain_text("1 行有警告")
    expect(entry).not_to_contain_text("推测的格式")


def test_options_are_sent_and_rejected_rows_can_be_downloaded(
    bench: Workbench, service: RunningService
) -> None:
    page = bench.page
    rows = [{"q": row["query"], "d": row["document"]} for row in ROWS] + [{"q": " ", "d": "x"}]
    page.locator("#batch-query").fill("q")
    page.locator("#batch-document").fill("d")
    page.locator(".batch-more summary").click()
    page.locator("#batch-top").fill("2")
    page.locator("#batch-score").fill("0.01")
    page.locator("#batch-bad").select_option("reject")
    page.locator("#batch-format").select_option("jsonl")
    page.locator("#batch-instruction").fill("find it")
    entry = upload(bench, content=csv_file(rows))
    expect(entry).to_have_attribute("data-state", "done", timeout=20_000)
    expect(entry).to_contain_text("1 行被剔除")
    assert fetched(entry, "result")[0] == "pairs.ranked.jsonl"
    name, content = fetched(entry, "rejected")
    assert (name, content.count(b"\n")) == ("pairs.rejected.jsonl", 1)
    (job,) = Client(service.base_url).jobs()
    assert job["options"] == {
        "query_column": "q",
        "document_column": "d",
        "top_n": "2",
        "min_score": "0.01",
        "on_bad_row": "reject",
        "instruction": "find it",
    }


def test_a_job_shows_how_far_it_is_and_is_cancelled_by_two_presses(
    bench: Workbench, scorer: SteeredScorer, tmp_path: Path
) -> None:
    scorer.delay_s = 0.4
    entry = upload(bench, content=csv_file(pairs(1500)))
    waiting = upload(bench, "later.csv")
    expect(waiting).to_contain_text("前面还有 1 个")
    expect(entry).to_have_attribute("data-state", "running")
    expect(entry).to_contain_text("对", timeout=20_000)
    bench.wait_until("document.querySelector('.job[data-state=running] progress').value > 0")
    button = entry.get_by_role("button")
    expect(button).to_have_text("取消任务")
    button.click()
    expect(button).to_have_text("确定？再按一次")
    button.evaluate("node => node.blur()")
    expect(button).to_have_text("取消任务")
    # The next job may start, and change the note, before anybody looks: all that was said is recorded.
    bench.page.locator("#batch-note").evaluate(
        "note => { window.said = []; new MutationObserver(() => window.said.push(note.textContent))"
        ".observe(note, {childList: true}); }"
    )
    button.click()
    button.click()
    expect(entry).to_have_count(0)
    bench.wait_until("window.said.some((sentence) => sentence.includes('已删除 pairs.csv'))")
    scorer.delay_s = 0.0
    expect(waiting).to_have_attribute("data-state", "done", timeout=20_000)
    expect(bench.page.locator("#batch-note")).to_have_text("later.csv：完成")
    wait_for(lambda: len(entries(tmp_path / "jobs")) == 1)


def test_what_went_wrong_stands_with_the_job(bench: Workbench) -> None:
    entry = upload(bench, content=csv_file([*ROWS, {"query": " ", "document": "x"}]))
    expect(entry).to_have_attribute("data-state", "failed", timeout=20_000)
    expect(entry.locator(".job-problem")).to_contain_text("line 32")
    expect(entry.locator("[data-part=result]")).to_be_hidden()


def test_a_file_that_cannot_be_sent_is_reported_before_sending(bench: Workbench) -> None:
    page, note = bench.page, bench.page.locator("#batch-note")
    page.locator("#batch-send").click()
    expect(note).to_have_text("请先选择文件。")
    expect(page.locator("#batch-choose")).to_be_focused()
    page.locator("#batch-file").set_input_files(given("table.xlsx", b"PK"))
    expect(note).to_have_text("table.xlsx 不是 CSV、JSONL 或 Parquet 文件。")
    page.locator("#batch-file").set_input_files(given("large.csv", b"x" * 100_001))
    expect(note).to_contain_text("large.csv 超过")


def test_an_error_of_the_service_is_shown_unchanged(bench: Workbench) -> None:
    bench.allow_failure("on_bad_row=stop")
    bench.page.locator("#batch-file").set_input_files(given("packed.csv", b"\x1f\x8b\x08"))
    bench.page.locator("#batch-send").click()
    expect(bench.page.locator("#batch-note")).to_contain_text("the upload is not csv")
    assert bench.page.locator(".job").count() == 0


def test_a_dropped_file_is_taken_and_the_page_stays(bench: Workbench) -> None:
    expect(bench.page.locator(".batch-zone")).to_be_attached()
    bench.page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["query,document\\na,b\\n"], "dropped.csv"));
            const zone = document.querySelector(".batch-zone");
            for (const kind of ["dragover", "drop"]) {
                zone.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
            }
        }"""
    )
    expect(bench.page.locator("#batch-choose")).to_contain_text("dropped.csv")
    assert bench.documents.input_value() == ""


def test_everything_is_done_by_keyboard(bench: Workbench) -> None:
    page, keys = bench.page, bench.page.keyboard
    page.locator("#batch-file").set_input_files(given("keys.csv", csv_file(ROWS)))
    bench.press_until("Tab", "#batch-choose")
    bench.press_until("Tab", "#batch-query")
    keys.press("Control+Enter")
    entry = page.locator(".job", has_text="keys.csv")
    expect(entry).to_have_attribute("data-state", "done", timeout=20_000)
    assert bench.run_note.text_content() == ""
    bench.press_until("Tab", ".job [data-part=result]")
    with page.expect_download():
        keys.press("Enter")
    bench.press_until("Tab", ".job button")
    keys.press("Enter")
    keys.press("Enter")
    expect(entry).to_have_count(0)
    expect(page.locator(".jobs-title")).to_be_focused()


def test_the_key_goes_along_and_others_jobs_are_not_shown(
    context: BrowserContext, watch: Watch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("my-key\nother-key", encoding="utf-8")
    options: dict[str, Any] = {"api_keys_file": str(tmp_path / "keys"), "jobs_folder": str(tmp_path / "jobs")}
    with running_service(**options) as running:
        Client(running.base_url, "other-key").upload(csv_file(ROWS), name="theirs.csv")
        page = context.new_page()
        watch.attach(page)
        watch.allowed_failures.add("/info")
        bench = Workbench(page, running.base_url, watch.allowed_failures)
        bench.open()
        expect(page.locator("#tab-batch")).to_be_hidden()
        page.locator("#key").fill("my-key")
        page.locator("#key-form button[type=submit]").click()
        bench.tab("batch")
        entry = upload(bench, "mine.csv")
        expect(entry).to_have_attribute("data-state", "done", timeout=20_000)
        name, content = fetched(entry, "result")
        assert (name, len(rows_of(content))) == ("mine.ranked.csv", len(ROWS))
        assert page.locator(".job").count() == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_fault_and_the_other_language_loses_nothing(
    bench: Workbench, scorer: SteeredScorer, theme: Any
) -> None:
    page = bench.page
    page.emulate_media(color_scheme=theme)
    page.locator(".batch-more summary").click()
    page.locator("#batch-top").fill("3")
    expect(upload(bench, "done.csv")).to_have_attribute("data-state", "done", timeout=20_000)
    expect(upload(bench, "bad.csv", csv_file([{"a": "b"}]))).to_have_attribute("data-state", "failed")
    scorer.delay_s = 60.0
    running = upload(bench, "running.csv")
    expect(running).to_have_attribute("data-state", "running")
    upload(bench, "waiting.csv")
    assert faults(page) == []
    page.locator("#language").click()
    expect(running).to_contain_text("running")
    expect(page.locator("#batch-send")).to_have_text("Upload and rank")
    expect(page.locator("#batch-top")).to_have_value("3")
    assert faults(page) == []
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("width", [1360, 390])
def test_the_batch_form_stands_in_the_place_of_the_rankings(bench: Workbench, width: int) -> None:
    """In a narrow window it stands below its tab instead."""
    page = bench.page
    page.set_viewport_size({"width": width, "height": 900})
    columns = {1360: ".inputs form.batch", 390: "#panel-batch form.batch"}
    expect(page.locator(columns[width])).to_be_visible()
    expect(page.locator("#panel-batch .jobs-title")).to_be_in_viewport()
    for part in (bench.query, bench.documents, bench.run_button):
        expect(part).to_be_hidden()
    page.locator("#batch-query").fill("kept")
    bench.tab("cards")
    expect(page.locator("form.batch")).to_be_hidden()
    for part in (bench.query, bench.documents, bench.run_button):
        expect(part).to_be_visible()
    bench.tab("batch")
    other = 1360 + 390 - width
    page.set_viewport_size({"width": other, "height": 900})
    expect(page.locator(columns[other])).to_be_visible()
    expect(page.locator("#batch-query")).to_have_value("kept")
    assert faults(page) == []


def test_the_shortcut_ranks_nothing_while_the_batch_form_stands_there(bench: Workbench) -> None:
    bench.tab("cards")
    bench.fill("q", ["a"])
    bench.tab("batch")
    asked: list[Route] = []
    bench.stage(hold(asked))
    bench.page.locator("#tab-batch").press("Control+Enter")
    bench.page.wait_for_timeout(200)
    assert asked == []


def test_a_ranking_that_was_started_before_is_shown(bench: Workbench) -> None:
    bench.tab("cards")
    held: list[Route] = []
    bench.stage(hold(held))
    bench.fill("red apples", ["a lamp", "red apples"])
    bench.run_button.click()
    expect(bench.cancel_button).to_be_visible()
    bench.tab("batch")
    held.pop().continue_()
    expect(bench.page.locator("#panel-cards")).to_be_visible()
    expect(bench.cards).to_have_count(2)
    assert bench.card_texts() == ["red apples", "a lamp"]
