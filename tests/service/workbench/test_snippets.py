"""What is copied of the input: each snippet runs as it is and ranks as the page does; a link brings the input back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.service.servers import running_service, wait_for
from tests.service.workbench.conftest import Watch
from tests.service.workbench.pages import Workbench

pytestmark = pytest.mark.loopback

PROGRAMS = ["Python", "LangChain", "LlamaIndex"]
QUERY = 'it\'s "red" apples\\n $HOME `id` {query} %s'
DOCUMENTS = [
    "a lamp",
    "JSON",
    'red apples\' """ quotes and \\ back\\slashes \\',
    "$(touch hacked) $HOME `id` !! {documents} %s 苹果 🍎👨\u200d👩 red",
    "tab\tand  two spaces # apples & more = 100 % +1",
    "\u202egnp.exe red \u2066\ufeffx\x1b[31m\x7f",
]
TIMEOUT_S = 120


def copied(bench: Workbench, kind: str) -> str:
    """Press a button of "copy as", and return what is on the clipboard."""
    bench.page.evaluate("navigator.clipboard.writeText('')")
    bench.page.locator("#copy-as").get_by_role("button", name=kind, exact=True).click()
    wait_for(lambda: bench.page.evaluate("navigator.clipboard.readText()"))
    expect(bench.note).to_contain_text("已复制")
    text: str = bench.page.evaluate("navigator.clipboard.readText()")
    return text


def run(kind: str, snippet: str, folder: Path, **environment: str) -> list[tuple[float, str]]:
    """Run a snippet, and return scores and documents in the order of the output."""
    command = ["bash", "-s"] if kind == "curl" else [sys.executable, "-"]
    done = subprocess.run(
        command,
        input=snippet.encode(),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=folder,
        env={**os.environ, "no_proxy": "*", "PYTHONIOENCODING": "utf-8", **environment},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert list(folder.iterdir()) == []
    output = done.stdout.decode()
    if kind == "curl":
        body = json.loads(snippet.partition("<<'JSON'\n")[2].removesuffix("JSON\n"))
        return [
            (round(entry["relevance_score"], 4), body["documents"][entry["index"]])
            for entry in json.loads(output)["results"]
        ]
    lines = [line.split(" ", 1) for line in output.split("\n")[:-1]]
    return [(float(score), document) for score, document in lines]


def shown(bench: Workbench) -> list[tuple[float, str]]:
    """Scores and documents as the page ranks them, without those below its threshold."""
    cards = bench.page.locator(".card:not(.below)")
    scores = cards.locator(".score").all_text_contents()
    return list(zip(map(float, scores), cards.locator(".text").all_text_contents(), strict=True))


def fill(bench: Workbench, instruction: str = "") -> None:
    """Write texts that a shell, JSON or Python would read as something else."""
    bench.fill(QUERY, DOCUMENTS)
    bench.instruction.evaluate("(node, text) => { node.value = text; }", instruction)
    bench.instruction.dispatch_event("input")


@pytest.mark.parametrize("kind", ["curl", *PROGRAMS])
def test_a_snippet_ranks_as_the_page_does(workbench: Workbench, kind: str, tmp_path: Path) -> None:
    fill(workbench)
    workbench.run_button.click()
    workbench.wait_done()
    assert len(shown(workbench)) == len(DOCUMENTS)
    snippet = copied(workbench, kind)
    assert run(kind, snippet, tmp_path) == shown(workbench)
    assert not [sign for sign in snippet if sign in "\u200d\u202e\u2066\ufeff\x1b\x7f"]


@pytest.mark.parametrize("kind", ["curl", *PROGRAMS])
def test_a_snippet_sends_the_instruction_and_keeps_to_the_threshold(
    workbench: Workbench, kind: str, tmp_path: Path
) -> None:
    fill(workbench, instruction='Find "fruit", not $lamps')
    workbench.run_button.click()
    workbench.wait_done()
    for _ in range(3):
        workbench.tab("chart").locator(".threshold").press("ArrowUp")
    workbench.tab("cards")
    snippet = copied(workbench, kind)
    assert 'Find \\"fruit\\", not $lamps' in snippet
    kept = run(kind, snippet, tmp_path)
    assert kept == shown(workbench)
    assert 0 < len(kept) < len(DOCUMENTS)


def test_a_key_is_not_copied_and_is_read_from_the_environment(
    context: BrowserContext, watch: Watch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("my-key", encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    with running_service(api_keys_file=str(tmp_path / "keys")) as running:
        page = context.new_page()
        watch.attach(page)
        watch.allowed_failures.add("/info")
        bench = Workbench(page, running.base_url, watch.allowed_failures)
        bench.open()
        page.locator("#key").fill("my-key")
        page.locator("#key-form button[type=submit]").click()
        fill(bench)
        bench.run_button.click()
        bench.wait_done()
        for kind in ["curl", *PROGRAMS]:
            snippet = copied(bench, kind)
            assert "my-key" not in snippet
            assert run(kind, snippet, folder, QWEN_RERANK_API_KEY="my-key") == shown(bench)


def test_more_documents_than_a_request_takes_are_copied_as_a_program(
    page: Page, watch: Watch, tmp_path: Path
) -> None:
    with running_service(max_documents=10) as served:
        bench = Workbench(page, served.base_url, watch.allowed_failures)
        bench.open()
        bench.wait_until("document.getElementById('status-line').textContent.includes('cpu')")
        bench.rank("document 24", [f"document {number}" for number in range(25)])
        page.locator("#copy-as").get_by_role("button", name="curl").click()
        expect(bench.note).to_contain_text("超过单次请求的上限")
        assert run("Python", copied(bench, "Python"), tmp_path) == shown(bench)


def test_half_characters_are_copied_as_the_page_sends_them(workbench: Workbench, tmp_path: Path) -> None:
    workbench.query.fill("apples")
    workbench.documents.evaluate("node => { node.value = 'red \\ud83d apples\\nlamp'; }")
    workbench.documents.dispatch_event("input")
    assert [text for _, text in run("curl", copied(workbench, "curl"), tmp_path)] == [
        "red \ufffd apples",
        "lamp",
    ]


@pytest.mark.parametrize(("query", "field"), [("", "query"), ("q", "documents")])
def test_without_input_nothing_is_copied_and_what_is_missing_is_asked_for(
    workbench: Workbench, query: str, field: str
) -> None:
    workbench.query.fill(query)
    workbench.page.locator("#copy-as button").first.click()
    expect(workbench.note).to_contain_text("请先填写")
    expect(workbench.page.locator(f"#{field}")).to_be_focused()


# --------------------------------------------------------------------------------------------------- links


def test_a_link_brings_the_input_to_another_browser_and_no_server_sees_it(
    workbench: Workbench, context: BrowserContext, watch: Watch
) -> None:
    fill(workbench, instruction="Find fruit & veg")
    link = copied(workbench, "链接")
    assert link.startswith(f"{workbench.base_url}/#query=")
    workbench.page.evaluate("localStorage.clear()")
    other = context.new_page()
    watch.attach(other)
    requests: list[str] = []
    other.on("request", lambda request: requests.append(request.url + (request.post_data or "")))
    other.goto(link)
    bench = Workbench(other, workbench.base_url, watch.allowed_failures)
    expect(bench.query).to_have_value(QUERY)
    assert bench.documents.input_value().split("\n") == DOCUMENTS
    expect(bench.instruction).to_have_value("Find fruit & veg")
    expect(bench.instruction).to_be_visible()
    assert other.url == f"{workbench.base_url}/"
    assert requests
    assert not [sent for sent in requests if "apples" in sent or "fruit" in sent]


def test_a_link_that_is_opened_in_the_open_page_is_taken_and_can_be_undone(workbench: Workbench) -> None:
    workbench.fill("mine", ["a"])
    workbench.page.evaluate("location.hash = '#query=theirs&document=b&document=c'")
    expect(workbench.query).to_have_value("theirs")
    expect(workbench.documents).to_have_value("b\nc")
    workbench.page.locator("#undo").click()
    expect(workbench.query).to_have_value("mine")


def test_a_link_that_a_browser_might_not_open_is_refused_with_its_length(workbench: Workbench) -> None:
    start = len(f"{workbench.base_url}/#query=q&document=")
    workbench.fill("q", ["x" * (64_000 - start)])
    assert len(copied(workbench, "链接")) == 64_000
    workbench.fill("q", ["x" * (64_001 - start)])
    workbench.page.locator("#copy-as").get_by_role("button", name="链接").click()
    expect(workbench.note).to_have_text(
        "链接将有 64,001 个字符，而有的浏览器最多打开 64,000 个。请改为复制成程序。"
    )


def test_copying_needs_no_mouse_and_says_what_was_copied(workbench: Workbench) -> None:
    workbench.fill("q", ["a"])
    workbench.documents.focus()
    workbench.press_until("Tab", "#copy-as [data-kind=langchain]")
    workbench.page.keyboard.press("Enter")
    expect(workbench.note).to_contain_text("已复制")
    assert "langchain_qwen_rerank" in workbench.page.evaluate("navigator.clipboard.readText()")
    expect(workbench.page.get_by_role("group", name="复制为")).to_be_visible()
