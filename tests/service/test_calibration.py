"""A service with a calibration: probabilities and marks in every dialect, over the remote client, in jobs and `/info`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank_plugins import LexicalScorer, RerankConfig, Reranker, ScoreRequest
from qwen_rerank_plugins.types import logistic
from tests.calibrations import OFFSET, SLOPE, fit, write_calibration
from tests.service.jobs.uploads import CSV, csv_file, pairs, rows_of, serving
from tests.service.servers import RunningService, running_service

pytestmark = pytest.mark.loopback

QUERY, TEXTS = "blue whale", ["a red fox", "the blue whale"]
FITTED = "find whales"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RerankConfig:
    path = write_calibration(tmp_path_factory.mktemp("calibration"), fit(FITTED))
    return RerankConfig(backend="lexical", calibration=path)


@pytest.fixture(scope="module")
def service(config: RerankConfig) -> Iterator[RunningService]:
    with running_service(config) as running:
        yield running


def expected(*, calibrated: bool) -> list[float]:
    log_odds = [
        one.log_odds or 0.0 for one in LexicalScorer().score([ScoreRequest(QUERY, text) for text in TEXTS])
    ]
    return [logistic(SLOPE * one + OFFSET if calibrated else one) for one in log_odds]


def numbers(value: Any) -> list[float]:
    """Every score of an answer, wherever it is."""
    if isinstance(value, dict):
        found = [number for item in value.values() for number in numbers(item)]
        return found + [
            value[key] for key in ("relevance_score", "score") if isinstance(value.get(key), float)
        ]
    return [number for item in value for number in numbers(item)] if isinstance(value, list) else []


# Address, body and whether the body has a place for the mark.
DIALECTS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "cohere": ("/v2/rerank", {"query": QUERY, "documents": TEXTS}, True),
    "multi_query": ("/api/rerank", {"queries": [QUERY], "documents": [TEXTS]}, True),
    "score": ("/score", {"text_1": QUERY, "text_2": TEXTS}, True),
    "opensearch": ("/rerank", {"search": {"query_text": QUERY}, "documents": TEXTS}, True),
    "tei": ("/rerank", {"query": QUERY, "texts": TEXTS}, False),
    "voyage": ("/v1/rerank", {"query": QUERY, "documents": TEXTS, "top_k": 2}, False),
    "weaviate": ("/rerank", {"query": QUERY, "documents": TEXTS, "property": ""}, False),
    "dashscope": (
        "/api/v1/services/rerank/text-rerank/text-rerank",
        {"model": "m", "input": {"query": QUERY, "documents": TEXTS}},
        False,
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("is_fitted", [True, False])
def test_every_dialect_returns_the_probability_and_says_whether_it_is_calibrated(
    service: RunningService, name: str, *, is_fitted: bool
) -> None:
    path, body, has_mark = DIALECTS[name]
    instruction = {"instruction": FITTED if is_fitted else "find foxes"}
    if name == "dashscope":
        body = {**body, "parameters": instruction}
    with service.client() as client:
        answer = client.post(path, json={**body, **instruction})
    value = answer.json()
    assert answer.headers["X-Rerank-Calibrated"] == str(is_fitted).lower()
    assert (value.get("calibrated") if has_mark else None) == (is_fitted if has_mark else None)
    scores = value["scores"] if name == "opensearch" else numbers(value)
    assert sorted(scores) == pytest.approx(sorted(expected(calibrated=is_fitted)), rel=1e-11)


def test_thresholds_compare_calibrated_probabilities_and_raw_scores_stay(service: RunningService) -> None:
    low, high = expected(calibrated=True)
    answer = service.rank(QUERY, TEXTS, instruction=FITTED, min_score=(low + high) / 2).json()
    assert [one["index"] for one in answer["results"]] == [1]
    assert service.rank(QUERY, TEXTS, instruction=FITTED, min_score=high + 0.01).json()["results"] == []
    raw = [
        service.rank(QUERY, TEXTS, instruction=one, raw_scores=True).json()["scores"] for one in (FITTED, "x")
    ]
    assert raw[0] == raw[1]


def test_without_a_calibration_answers_do_not_mention_it() -> None:
    with running_service() as running, running.client() as client:
        for path, body, _ in DIALECTS.values():
            answer = client.post(path, json=body)
            assert "calibrated" not in answer.text + json.dumps(dict(answer.headers)).lower()
        assert "calibration" not in client.get("/info").json()


def test_info_says_which_fits_are_loaded_without_the_folder(
    service: RunningService, config: RerankConfig
) -> None:
    with service.client() as client:
        answer = client.get("/info")
    assert answer.json()["calibration"] == {"fits": [fit(FITTED)]}
    assert str(Path(config.calibration or "").parent) not in answer.text


def test_a_remote_client_passes_the_answers_on_as_they_are(service: RunningService) -> None:
    with Reranker(backend="remote", base_url=service.base_url) as remote:
        for instruction in (FITTED, "other"):
            result = remote.rank(QUERY, TEXTS, instruction=instruction)
            assert result.calibrated is (instruction == FITTED)
            scores = [one.relevance_score for one in result.scores]
            assert scores == pytest.approx(expected(calibrated=instruction == FITTED), rel=1e-11)
        assert remote.config.calibration is None


def test_a_job_calibrates_each_score_once(tmp_path: Path, config: RerankConfig) -> None:
    rows = pairs(12)
    with serving(tmp_path, config=config) as (_, client):
        job_id = client.upload(csv_file(rows), CSV, instruction=FITTED)
        client.wait(job_id)
        found = rows_of(client.result(job_id).content)
    scored = Reranker(config).score_pairs(
        [(row["query"], row["document"]) for row in rows], instruction=FITTED
    )
    assert [float(row["relevance_score"]) for row in found] == pytest.approx(scored, rel=1e-9)
