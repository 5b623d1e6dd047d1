"""Metrics and log lines: what they count, and what they never contain."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qwen_rerank_plugins import NonFiniteScoreError, RerankConfig
from qwen_rerank_plugins.service.admission import AdmissionController
from qwen_rerank_plugins.service.logs import JsonFormatter, TextFormatter, log_config, log_fault
from qwen_rerank_plugins.service.metrics import Metrics
from qwen_rerank_plugins.service.settings import ServiceSettings
from tests.service.doubles import SteeredScorer
from tests.service.servers import RunningService, running_service

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(running: RunningService) -> Samples:
    with running.client() as client:
        answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.text)


@pytest.fixture
def scorer() -> SteeredScorer:
    return SteeredScorer(max_chars=12)


@pytest.fixture
def service(scorer: SteeredScorer) -> Iterator[RunningService]:
    with running_service(scorer=scorer) as running:
        yield running


@pytest.mark.loopback
def test_requests_pairs_and_errors_are_counted_and_balance(
    service: RunningService, scorer: SteeredScorer
) -> None:
    for _ in range(3):
        service.rank("fox", ["a fox", "a very long story", "nothing"])
    service.rank("fox", [])
    scorer.error, scorer.num_errors = NonFiniteScoreError("NaN"), 1
    service.rank("fox", ["a fox"])
    with service.client() as client:
        client.get("/secret-address-1")
        client.get("/secret-address-2")
    found = scraped(service)

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    requests = {"route": "/v1/rerank", "dialect": "cohere"}
    assert value("rerank_requests_total", status="200", **requests) == 3
    assert value("rerank_requests_total", status="500", **requests) == 1
    assert value("rerank_requests_total", status="400", route="/v1/rerank", dialect="") == 1
    assert value("rerank_requests_total", status="404", route="other", dialect="") == 2
    assert value("rerank_pairs_total") == 9
    assert value("rerank_truncated_documents_total") == 3
    assert value("rerank_tokens_total") > 0
    assert value("rerank_accepted_total") == 5
    assert value("rerank_answered_total") == 5
    assert value("rerank_cancelled_total") == 0
    assert value("rerank_pending_requests") == 0
    assert value("rerank_rejected_total", reason="engine") == 1
    assert value("rerank_rejected_total", reason="body") == 1
    assert value("rerank_ready") == 1
    assert value("rerank_stage_duration_seconds_count", stage="score") == 4
    assert value("rerank_stage_duration_seconds_count", stage="write") == 3
    assert value("rerank_request_duration_seconds_count", route="/v1/rerank") == 5
    model = {name: labels for (name, labels), _ in found.items() if name == "rerank_model_info"}
    assert ("model", "steered") in model["rerank_model_info"]
    assert "secret" not in str(found)


@pytest.mark.loopback
def test_metrics_can_be_switched_off() -> None:
    with running_service(metrics=False) as running, running.client() as client:
        assert client.get("/metrics").status_code == 404


def test_the_scorer_s_stats_are_shown_as_far_as_it_reports_them() -> None:
    stats = {
        "max_batch_tokens": 1000,
        "encode_s": 0.5,
        "scheduler": {
            "queued_tokens": 7,
            "batches": 4,
            "computed_tokens": 3000,
            "queue_s": 1.5,
            "compute_s": 2,
        },
        "cache": {"hits": 5, "misses": 6, "entries": 6},
    }
    metrics = Metrics(AdmissionController(ServiceSettings()), lambda: stats, lambda: (False, {"model": "m"}))
    found = samples(metrics.render().decode())
    shown = {name: value for (name, labels), value in found.items() if not labels}
    assert shown["rerank_queue_tokens"] == 7
    assert shown["rerank_batches_total"] == 4
    assert shown["rerank_batch_fill_ratio"] == 0.75
    assert (shown["rerank_queue_seconds_total"], shown["rerank_compute_seconds_total"]) == (1.5, 2.0)
    assert (shown["rerank_encode_seconds_total"], shown["rerank_cache_hits_total"]) == (0.5, 5.0)
    assert shown["rerank_ready"] == 0
    bare = samples(
        Metrics(AdmissionController(ServiceSettings()), dict, lambda: (True, {})).render().decode()
    )
    assert ("rerank_queue_tokens", ()) not in bare


def test_two_apps_in_one_process_have_their_own_figures() -> None:
    from qwen_rerank_plugins.service.app import create_app

    one, two = (create_app(RerankConfig(backend="lexical")).state.service.metrics for _ in range(2))
    one.pairs.inc(3)
    assert one.registry.get_sample_value("rerank_pairs_total") == 3
    assert two.registry.get_sample_value("rerank_pairs_total") == 0


def record(message: str, *args: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("a.b", logging.WARNING, "", 0, message, args, None)
    vars(made).update(more)
    return made


def test_a_record_is_one_line_of_json() -> None:
    line = JsonFormatter().format(record("two\nlines %s", "\u96ea", status=200, reason="\u96ea"))
    assert line.isascii()
    assert "\n" not in line
    fields = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("ts"))
    assert fields == {
        "level": "warning",
        "logger": "a.b",
        "msg": "two\nlines \u96ea",
        "status": 200,
        "reason": "\u96ea",
    }


def test_a_record_is_one_line_of_text() -> None:
    line = TextFormatter().format(record("two\nlines", status=200, route="/a b"))
    assert line.endswith('WARNING two lines status=200 route="/a b"')


def failure() -> KeyError:
    try:
        return KeyError({"a": 1}["sesame"])
    except KeyError as error:
        return error


@pytest.mark.parametrize(
    ("formatter", "shown"), [(JsonFormatter(), '"error": "KeyError"}'), (TextFormatter(), 'error="KeyError"')]
)
def test_a_traceback_in_a_record_shows_its_type_alone(formatter: logging.Formatter, shown: str) -> None:
    error = failure()
    made = record("failed")
    made.exc_info = (KeyError, error, error.__traceback__)
    line = formatter.format(made)
    assert line.endswith(shown)
    assert "sesame" not in line


def test_a_fault_is_logged_with_its_place_and_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_fault(failure(), "id-1")
    (found,) = caplog.records
    fields = vars(found)
    assert (fields["request_id"], fields["error"]) == ("id-1", "KeyError")
    assert fields["at"][-1].startswith(f"{__name__}.failure:")
    assert "sesame" not in str(fields)


@pytest.mark.parametrize("kind", ["json", "text"])
def test_the_logging_that_the_server_sets_up_is_valid(kind: str) -> None:
    from logging.config import DictConfigurator

    configurator = DictConfigurator(log_config(kind))  # type: ignore[no-untyped-call,unused-ignore]
    formatter = configurator.configure_formatter({"()": log_config(kind)["formatters"]["lines"]["()"]})
    line = formatter.format(record("sent", status=200))
    if kind == "json":
        assert (json.loads(line)["msg"], json.loads(line)["status"]) == ("sent", 200)
    else:
        assert line.endswith("WARNING sent status=200")


def test_importing_the_service_configures_no_logging() -> None:
    from tests.laws.sources import run_fresh

    code = (
        "import logging\nimport qwen_rerank_plugins.service.server.server\n"
        "print(logging.root.handlers, logging.getLogger('qwen_rerank_plugins').handlers)"
    )
    assert run_fresh(code).stdout.strip() == "[] []"
