"""The page's files: light, self-contained, complete in both languages, and fit for any path."""

from __future__ import annotations

import gzip
import re

import httpx
import pytest
from playwright.sync_api import Page, Response, Route, expect

from tests.service.workbench.conftest import Watch
from tests.service.workbench.pages import Workbench

HEAVIEST_START_BYTES = 111_000
HEAVIEST_GZIP_BYTES = 80_000
LONGEST_LINES = 400


def messages(sources: dict[str, str], language: str) -> dict[str, str]:
    lines = re.findall(r'^  (\w+): "(.*)",$', sources[f"messages.{language}.js"], flags=re.MULTILINE)
    assert len(lines) > 100
    assert len(dict(lines)) == len(lines)
    return dict(lines)


def values_of(sentence: str) -> set[str]:
    return {re.split(r"\|", name)[0] for name in re.findall(r"\{([^}]+)\}", sentence)}


def test_both_languages_hold_the_same_sentences_with_the_same_values(sources: dict[str, str]) -> None:
    chinese, english = messages(sources, "zh"), messages(sources, "en")
    assert list(chinese) == list(english)
    assert {key: values_of(text) for key, text in chinese.items()} == {
        key: values_of(text) for key, text in english.items()
    }


def test_every_sentence_that_is_asked_for_exists_and_every_one_is_used(sources: dict[str, str]) -> None:
    known = set(messages(sources, "zh"))
    code = "\n".join(
        text for name, text in sources.items() if name.endswith(".js") and "messages" not in name
    )
    asked = set(re.findall(r"\bt\(\s*\"(\w+)\"", code))
    asked |= set(re.findall(r"data-(?:text|label|hint|tip)=\"(\w+)\"", sources["index.html"]))
    assert asked <= known
    kinds = re.findall(r"\"(\w+)\"", code.split('@typedef {"unauthorized"')[1].split("ProblemKind")[0])
    built = {f"{kind}{part}" for kind in ["unauthorized", *kinds] for part in ("Title", "Text")}
    quoted = set(re.findall(r"\"(\w+)\"", code)) | {
        f"{key}Tip" for key in re.findall(r"mark\(\"(\w+)\"", code)
    }
    assert built <= known
    assert known <= asked | built | quoted


def test_all_files_together_weigh_at_most_80_kb_compressed(sources: dict[str, str]) -> None:
    page = [gzip.compress(text.encode()) for name, text in sources.items() if not name.endswith(".py")]
    assert sum(map(len, page)) <= HEAVIEST_GZIP_BYTES


def test_every_id_that_the_code_names_is_in_the_page(sources: dict[str, str]) -> None:
    ids = re.findall(r'\bid="([^"]+)"', sources["index.html"])
    assert len(ids) == len(set(ids))
    for name, text in sources.items():
        for wanted in re.findall(r'byId\("([^"]+)"\)', text):
            assert wanted in ids, f"{name} asks for {wanted!r}"


def test_nothing_is_inline_foreign_or_too_long(sources: dict[str, str]) -> None:
    for name, text in sources.items():
        assert text.count("\n") < LONGEST_LINES, name
        links = {link for link in re.findall(r"https?://[^\s\"'`)]+", text) if "www.w3.org/" not in link}
        assert not links, name
        for risky in (
            "innerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "console.",
        ):
            assert risky not in text, name
    page = sources["index.html"]
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script>|javascript:", page)
    assert not re.search(r'(?:src|href)="/', page)


def test_every_module_that_the_page_starts_with_is_preloaded(sources: dict[str, str]) -> None:
    """Otherwise a browser finds them one import after another, in four round trips."""
    found: set[str] = set()
    waiting = ["app.js"]
    while waiting:
        imported = re.findall(
            r'^import\b[^;]*?\bfrom "\./([\w.]+)";', sources[waiting.pop()], flags=re.MULTILINE
        )
        waiting += set(imported) - found
        found |= set(imported)
    preloaded = re.findall(r'<link rel="modulepreload" href="static/([\w.]+)">', sources["index.html"])
    assert preloaded == sorted(found)
    assert len(found) > 10


@pytest.mark.loopback
def test_the_files_are_served_under_a_policy_that_allows_nothing_inline(base_url: str) -> None:
    with httpx.Client(base_url=base_url, trust_env=False) as client:
        for path, kind in [
            ("/", "text/html"),
            ("/static/app.js", "text/javascript"),
            ("/static/styles.css", "text/css"),
            ("/static/favicon.svg", "image/svg+xml"),
        ]:
            answer = client.get(path)
            assert answer.status_code == httpx.codes.OK
            assert answer.headers["Content-Type"].startswith(kind)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy


@pytest.mark.loopback
@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_page_starts_with_few_bytes(page: Page, base_url: str, watch: Watch, language: str) -> None:
    page.add_init_script(
        f"localStorage.setItem('qwen-rerank.preferences', JSON.stringify({{ language: '{language}' }}))"
    )
    bodies: dict[str, Response] = {}
    page.on("response", lambda answer: bodies.update({answer.url: answer}))
    Workbench(page, base_url, watch.allowed_failures).open()
    page.wait_for_load_state("networkidle")
    sizes = {url: len(answer.body()) for url, answer in bodies.items()}
    assert f"{base_url}/static/messages.{language}.js" in sizes
    assert sum(sizes.values()) < HEAVIEST_START_BYTES, sizes
    assert all(url.startswith(base_url) for url in sizes)


@pytest.mark.loopback
def test_the_page_works_behind_a_path_prefix(page: Page, base_url: str, watch: Watch) -> None:
    watch.allowed_failures.add("/never")
    prefix = f"{base_url}/some/prefix"

    def forward(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace(prefix, base_url)))

    def refuse(route: Route) -> None:
        pytest.fail(f"the page asked for {route.request.url}, outside of its prefix")

    page.route(f"{base_url}/**", refuse)
    page.route(f"{prefix}/**", forward)
    bench = Workbench(page, f"{prefix}/", watch.allowed_failures)
    bench.open()
    bench.rank("red apples", ["a lamp", "red apples"])
    assert bench.card_texts() == ["red apples", "a lamp"]
    bench.tab("table")
    bench.tab("chart")
    expect(page.locator(".words")).to_be_visible()
