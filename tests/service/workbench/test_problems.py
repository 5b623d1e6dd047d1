"""Errors are reported in words, with what to do, and without losing any input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.service.servers import RunningService, running_service
from tests.service.workbench.conftest import Watch
from tests.service.workbench.pages import Workbench, answer_of, hold, request_body

pytestmark = pytest.mark.loopback

KEY = "correct-horse-battery"


def run(bench: Workbench) -> None:
    bench.fill("q", ["one", "two"])
    bench.run_button.click()


@pytest.mark.parametrize(
    ("status", "title", "advice"),
    [
        (400, "服务不接受这些内容", "请检查查询、指令和文档"),
        (404, "找不到重排序接口", "路径前缀"),
        (413, "内容太大", "缩短最长的文档"),
        (422, "服务不接受这些内容", "可能过长"),
        (500, "服务内部出错", "状态 500"),
        (502, "服务内部出错", "状态 502"),
        (503, "模型还没有就绪", "引擎就绪"),
        (504, "等待超时", "减少文档"),
    ],
)
def test_a_failed_request_is_reported_with_what_to_do(
    workbench: Workbench, status: int, title: str, advice: str
) -> None:
    workbench.stage_failure(status)
    run(workbench)
    expect(workbench.problem).to_contain_text(title)
    expect(workbench.problem).to_contain_text(advice)
    expect(workbench.problem).to_contain_text(f"服务说明：status {status}")
    expect(workbench.problem).to_contain_text("请求编号：request-7")
    expect(workbench.page.get_by_role("alert")).to_contain_text(title)
    expect(workbench.page.locator("#progress-box")).to_be_hidden()
    assert workbench.documents.input_value() == "one\ntwo"


def test_the_words_follow_the_language(workbench: Workbench) -> None:
    workbench.stage_failure(413)
    run(workbench)
    expect(workbench.problem).to_contain_text("内容太大")
    workbench.page.locator("#language").click()
    expect(workbench.problem).to_contain_text("Too much text")
    expect(workbench.problem.get_by_role("button", name="Try again")).to_be_visible()


def test_a_busy_service_is_asked_again_only_after_the_seconds_it_wants(workbench: Workbench) -> None:
    workbench.stage_failure(429, Retry_After="2")
    run(workbench)
    expect(workbench.problem).to_contain_text("请在 2 秒后重试")
    retry = workbench.page.locator("#retry")
    expect(retry).to_be_disabled()
    expect(retry).to_have_text("1 秒后可重试")
    workbench.page.unroute("**/api/rerank")
    expect(retry).to_be_enabled()
    retry.click()
    workbench.wait_done()
    expect(workbench.problem).to_be_hidden()


@pytest.mark.parametrize("reason", ["connectionrefused", "connectionreset", "internetdisconnected"])
def test_an_unreachable_service_is_reported(workbench: Workbench, reason: str) -> None:
    workbench.allow_failure("/api/rerank")
    workbench.stage(lambda route: route.abort(reason))
    run(workbench)
    expect(workbench.problem).to_contain_text("连接不上服务")
    workbench.page.unroute("**/api/rerank")
    workbench.page.locator("#retry").click()
    workbench.wait_done()


@pytest.mark.parametrize("body", ["<!doctype html><title>Sign in</title>", "", "{", "NaN"])
def test_an_answer_that_is_not_json_is_reported(workbench: Workbench, body: str) -> None:
    workbench.stage(lambda route: route.fulfill(status=200, body=body))
    run(workbench)
    expect(workbench.problem).to_contain_text("收到的不是服务的回答")


def test_an_error_page_of_a_proxy_is_not_shown_as_markup(workbench: Workbench) -> None:
    workbench.stage_failure(
        502, body="<h1>Bad gateway</h1><script>alert(1)</script>", Content_Type="text/html"
    )
    run(workbench)
    expect(workbench.problem).to_contain_text("状态 502")
    assert "Bad gateway" not in (workbench.problem.text_content() or "")


def damaged(change: str) -> Any:
    """Return an answer for two documents with one error."""
    entries: dict[str, Any] = {
        "short": [{"index": 0, "relevance_score": 0.5}],
        "twice": [{"index": 0, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0.5}],
        "foreign": [{"index": 0, "relevance_score": 0.5}, {"index": 2, "relevance_score": 0.5}],
        "text": [{"index": 0, "relevance_score": "0.5"}, {"index": 1, "relevance_score": 0.5}],
        "none": [{"index": 0, "relevance_score": None}, {"index": 1, "relevance_score": 0.5}],
        "nulls": [None, None],
    }
    if change == "array":
        return [1, 2]
    return {"model": "m", "results": [{"query": "q", "results": entries[change]}]}


@pytest.mark.parametrize("change", ["short", "twice", "foreign", "text", "none", "nulls", "array"])
def test_an_answer_that_does_not_fit_the_documents_is_not_used(workbench: Workbench, change: str) -> None:
    workbench.stage(lambda route: route.fulfill(json=damaged(change)))
    run(workbench)
    expect(workbench.problem).to_contain_text("服务的回答不完整")
    assert workbench.cards.count() == 0


def test_a_request_that_takes_too_long_ends(workbench: Workbench) -> None:
    held: list[Route] = []
    workbench.stage(hold(held))
    call = (
        "m.scoreAll({query: 'q', instruction: '', documents: ['a']}, {timeoutMs: 200})"
        ".catch((error) => error.kind)"
    )
    assert workbench.module("api.js", f"await {call}") == "timeout"


def test_a_slice_that_fails_fails_the_run_and_stops_the_others(workbench: Workbench) -> None:
    workbench.allow_failure("/api/rerank")
    held: list[Route] = []

    def fail_second(route: Route) -> None:
        [documents] = request_body(route)["documents"]
        if "document 128" in documents:
            route.fulfill(status=500, body="{}")
        else:
            held.append(route)

    workbench.stage(fail_second)
    workbench.fill("q", [f"document {number}" for number in range(500)])
    with workbench.page.expect_event("requestfailed"):
        workbench.run_button.click()
    expect(workbench.problem).to_contain_text("服务内部出错")
    workbench.page.wait_for_timeout(200)
    assert len(held) == 1


def test_a_problem_is_closed_by_its_button_and_by_the_next_run(workbench: Workbench) -> None:
    workbench.stage_failure(500)
    run(workbench)
    workbench.problem.get_by_role("button", name="关闭").click()
    expect(workbench.problem).to_be_hidden()
    workbench.run_button.click()
    expect(workbench.problem).to_be_visible()
    workbench.page.unroute("**/api/rerank")
    workbench.run_button.click()
    expect(workbench.problem).to_be_hidden()
    workbench.wait_done()


def test_a_failed_run_keeps_the_last_result(workbench: Workbench) -> None:
    workbench.rank("one", ["two", "one"])
    workbench.stage_failure(500)
    workbench.run_button.click()
    expect(workbench.problem).to_be_visible()
    assert workbench.card_texts() == ["one", "two"]


# -------------------------------------------------------------------------------------------------- status


def test_the_engines_model_and_device_are_shown(workbench: Workbench) -> None:
    expect(workbench.page.locator("#status-line")).to_have_text("引擎就绪 · lexical · cpu")
    expect(workbench.page.locator("#demo")).to_be_hidden()


def test_a_demo_model_is_announced(page: Page, base_url: str, watch: Watch) -> None:
    bench = Workbench(page, base_url, watch.allowed_failures)

    def as_demo(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "is_demo": True, "model_id": "demo"})

    bench.stage(as_demo, "**/info")
    bench.open()
    expect(page.locator("#demo")).to_be_visible()
    expect(page.locator("#demo")).to_contain_text("请勿用它做任何重要的排序")
    expect(page.locator("#status-line")).to_have_text("引擎就绪 · demo · cpu")


def test_the_words_about_the_demo_stay_closed_in_this_tab_only(
    page: Page, base_url: str, watch: Watch
) -> None:
    bench = Workbench(page, base_url, watch.allowed_failures)

    def as_demo(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "is_demo": True})

    page.context.route("**/info", as_demo)
    bench.open()
    expect(page.locator("#demo")).to_be_visible()
    bench.press_until("Tab", "#demo-close")
    page.keyboard.press("Enter")
    expect(page.locator("#demo")).to_be_hidden()
    expect(bench.query).to_be_focused()
    with page.expect_response("**/info"):
        bench.open()
    expect(page.locator("#status-line")).to_contain_text("cpu")
    expect(page.locator("#demo")).to_be_hidden()
    other = page.context.new_page()
    watch.attach(other)
    Workbench(other, base_url, watch.allowed_failures).open()
    expect(other.locator("#demo")).to_be_visible()


def test_loading_turns_to_ready_by_itself(page: Page, base_url: str, watch: Watch) -> None:
    watch.allowed_failures.add("/ready")
    bench = Workbench(page, base_url, watch.allowed_failures)
    loading = json.dumps({"message": "the model is loading"})
    bench.stage(lambda route: route.fulfill(status=503, body=loading), "**/ready")
    page.goto(base_url)
    expect(page.locator("#status-line")).to_have_text("模型加载中…")
    expect(page.locator("#status-hint")).to_have_text("服务说明：the model is loading")
    page.unroute("**/ready")
    expect(page.locator("#status-line")).to_contain_text("引擎就绪")


def test_a_lost_service_shows_and_comes_back(workbench: Workbench) -> None:
    workbench.allow_failure("/ready")
    workbench.page.route("**/ready", lambda route: route.abort())
    workbench.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(workbench.page.locator("#status-line")).to_have_text("连接不上服务")
    workbench.page.unroute("**/ready")
    expect(workbench.page.locator("#status-line")).to_contain_text("引擎就绪")


# ---------------------------------------------------------------------------------------------------- keys


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[RunningService]:
    """A service that asks for a key."""
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n", encoding="utf-8")
    keys.chmod(0o600)
    with running_service(api_keys_file=str(keys)) as served:
        yield served


def test_a_key_is_asked_for_sent_and_kept_in_this_tab_only(
    page: Page, locked: RunningService, watch: Watch
) -> None:
    watch.allowed_failures |= {"/info", "/api/rerank"}
    bench = Workbench(page, locked.base_url, watch.allowed_failures)
    bench.open()
    expect(page.locator("#status-hint")).to_have_text("需要密钥才能读取模型信息")
    expect(page.locator("#key-form")).to_be_visible()

    run(bench)
    expect(bench.problem).to_contain_text("需要有效的密钥")
    expect(page.locator("#key")).to_be_focused()

    page.keyboard.type("wrong-key")
    page.keyboard.press("Enter")
    page.locator("#retry").click()
    expect(bench.problem).to_contain_text("需要有效的密钥")

    page.locator("#key").fill(KEY)
    page.locator("#key-form button[type=submit]").click()
    expect(page.locator("#status-line")).to_have_text("引擎就绪 · lexical · cpu")
    expect(bench.problem).to_be_hidden()
    bench.run_button.click()
    bench.wait_done()

    for wrong, words in (("wrong-key", "需要有效的密钥"), ("密钥 key", "密钥无法发送")):
        page.locator("#key").fill(wrong)
        page.locator("#key-form button[type=submit]").click()
        expect(bench.problem).to_contain_text(words)
    page.locator("#key").fill(KEY)
    page.locator("#key-form button[type=submit]").click()
    expect(bench.problem).to_be_hidden()

    page.reload()
    expect(page.locator("#status-line")).to_have_text("引擎就绪 · lexical · cpu")
    assert KEY not in page.evaluate("JSON.stringify(localStorage)")
    assert page.evaluate("sessionStorage.length") == 1

    page.locator("#key-forget").click()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_that_is_invalid_in_a_header_is_reported(workbench: Workbench) -> None:
    workbench.stage_failure(401)
    run(workbench)
    workbench.page.locator("#key").fill("密钥 key")
    workbench.page.locator("#key-form button[type=submit]").click()
    workbench.page.locator("#retry").click()
    expect(workbench.problem).to_contain_text("密钥无法发送")


def test_scores_of_a_service_without_log_odds_are_enough(workbench: Workbench) -> None:
    workbench.stage(
        lambda route: route.fulfill(json=answer_of(route, lambda _, text: {"relevance_score": len(text) / 9}))
    )
    workbench.rank("q", ["a", "bbb", "cc"])
    assert workbench.card_texts() == ["bbb", "cc", "a"]
    assert "对数几率" not in (workbench.page.locator("#panel-cards").text_content() or "")
