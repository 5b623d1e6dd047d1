"""The complete request bodies for five versions, compared with golden files.

    python -m tests.integrations.opensearch.test_request_bodies        rewrites the golden files

The bodies for versions after 3.6 follow the documentation; no node of such a version is tested.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opensearch_qwen_rerank import OpenSearchSettings, UnsupportedClusterError
from opensearch_qwen_rerank.cluster_version import ClusterVersion
from opensearch_qwen_rerank.errors import OpenSearchError
from opensearch_qwen_rerank.request_bodies import (
    check_supported,
    connector_body,
    endpoint_regex,
    model_body,
    model_group_body,
    parse_marker,
    pipeline_body,
    required_settings,
)

from qwen_rerank_plugins import ConfigurationError

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("2.15.0", "2.19.1", "3.0.0", "3.6.0", "3.8.0")
CASES: dict[str, dict[str, Any]] = {
    "simple": {"recipe": "simple", "fields": ("body",), "oversample": 1},
    "simple-window": {"recipe": "simple", "fields": ("title", "body"), "instruction": 'Say "yes" 中'},
    "rich": {"fields": ("body",)},
    "rich-all": {
        "fields": ("title", "page.body"),
        "query_path": "query.match.body.query",
        "score": "log_odds",
        "service": "https://rerank.example.org/base/",
        "on_error": "raise",
        "model": "Qwen3",
        "secret_arn": "arn:aws:secretsmanager:eu-west-1:1:secret:rerank",
        "secret_role_arn": "arn:aws:iam::1:role/rerank",
    },
}
COMBINATIONS = [
    (name, version)
    for name, case in CASES.items()
    for version in VERSIONS
    if case.get("recipe") == "simple" or version >= "2.19"
]


def settings(**changes: Any) -> OpenSearchSettings:
    return OpenSearchSettings(
        **{"pipeline": "books", "service": "http://reranker:8501", "fields": ("body",), **changes}
    )


def all_bodies(name: str, version: str) -> dict[str, Any]:
    """Return all bodies in the order in which they are sent."""
    chosen, parsed = settings(**CASES[name]), ClusterVersion.parse(version)
    check_supported(chosen, parsed)
    return {
        "settings": required_settings(chosen, parsed),
        "connector": connector_body(chosen, parsed, service_key=None if chosen.secret_arn else "a-key"),
        "model group": model_group_body(chosen),
        "model": model_body(chosen, connector_id="CONNECTOR", group_id="GROUP"),
        "pipeline": pipeline_body(chosen, parsed, model_id="MODEL"),
    }


def golden_text(name: str, version: str) -> str:
    return json.dumps(all_bodies(name, version), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(("name", "version"), COMBINATIONS)
def test_the_bodies_are_the_golden_ones(name: str, version: str) -> None:
    assert golden_text(name, version) == (GOLDEN / f"{name}-{version}.json").read_text(encoding="utf-8")


def test_every_golden_file_belongs_to_a_case() -> None:
    expected = {f"{name}-{version}.json" for name, version in COMBINATIONS}
    assert {path.name for path in GOLDEN.iterdir()} == expected


@pytest.mark.parametrize(("name", "version"), COMBINATIONS)
def test_the_template_is_json_after_its_placeholders_are_replaced(name: str, version: str) -> None:
    template = all_bodies(name, version)["connector"]["actions"][0]["request_body"]
    filled = template.replace('"${parameters.query}"', '"q"').replace(
        "${parameters.search}", '{"query": "q"}'
    )
    body = json.loads(filled.replace("${parameters.documents}", '["a"]'))
    assert body["documents"] == ["a"]
    assert ("raw_scores" in body) is (name == "rich-all")
    assert body.get("instruction") == CASES[name].get("instruction")


@pytest.mark.parametrize(
    ("changes", "version", "message"),
    [
        ({}, "2.18.0", "recipe 'rich' does not run on OpenSearch 2.18.0: .* Use OpenSearch 2.19.0 or newer"),
        ({"recipe": "simple"}, "2.14.0", "Use OpenSearch 2.15.0 or newer"),
        ({"recipe": "simple", "fields": ("a.b",)}, "3.5.0", "field 'a.b' would be empty"),
        ({"first_score_field": "first"}, "3.6.0", "first_score_field cannot be set"),
    ],
)
def test_settings_that_a_version_does_not_support_are_refused_with_the_reason(
    changes: dict[str, Any], version: str, message: str
) -> None:
    with pytest.raises(UnsupportedClusterError, match=message):
        check_supported(settings(**changes), ClusterVersion.parse(version))


def test_the_native_pipeline_has_both_halves() -> None:
    chosen = settings(
        recipe="native", fields=("title", "body"), window=50, instruction="Find remedies", on_error="raise"
    )
    body = pipeline_body(chosen, ClusterVersion(3, 6), model_id="")
    assert body["request_processors"] == [{"qwen_rerank": {"window": 50, "fields": ["title", "body"]}}]
    assert body["response_processors"] == [
        {
            "qwen_rerank": {
                "endpoint": "http://reranker:8501",
                "fields": ["title", "body"],
                "timeout": "10s",
                "on_failure": "fail",
                "keep_first_score": "previous_score",
                "instruction": "Find remedies",
            }
        }
    ]
    assert required_settings(chosen, ClusterVersion(3, 6)) == {
        "qwen_rerank.allowed_endpoints": ["http://reranker:8501"]
    }


def test_fields_are_required() -> None:
    with pytest.raises(ConfigurationError, match="fields is empty"):
        check_supported(settings(fields=()), ClusterVersion(3, 6))


def test_the_regex_matches_the_one_address_and_has_no_groups() -> None:
    assert endpoint_regex(settings(service="https://a.b:1/x+y")) == r"^https://a\.b:1/x\+y/v1/rerank$"
    with pytest.raises(OpenSearchError, match="too long"):
        endpoint_regex(settings(service=f"http://host/{'a' * 250}"))


@pytest.mark.parametrize(
    ("address", "is_private"),
    [
        ("http://localhost:8501", True),
        ("http://10.0.0.1", True),
        ("http://[::1]:1", True),
        ("http://reranker", True),
        ("http://reranker.default.svc", True),
        ("https://rerank.example.org", False),
        ("https://8.8.8.8", False),
    ],
)
def test_private_addresses_are_recognized_by_their_form(address: str, is_private: bool) -> None:
    assert settings(service=address).is_private is is_private
    needed = required_settings(settings(service=address), ClusterVersion(3, 8))
    assert len(needed) == (3 if is_private else 1)
    assert settings(service=address, private_network=not is_private).is_private is not is_private


def test_the_marker_changes_with_the_body() -> None:
    version = ClusterVersion(3, 6)
    first, second = (
        parse_marker(connector_body(settings(read_timeout_s=timeout_s), version)["description"])
        for timeout_s in (10, 20)
    )
    assert first is not None
    assert second is not None
    assert (first[0], first[1] != second[1]) == ("books", True)
    assert parse_marker("a foreign description") is None


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for one in COMBINATIONS:
        (GOLDEN / f"{one[0]}-{one[1]}.json").write_text(golden_text(*one), encoding="utf-8")
