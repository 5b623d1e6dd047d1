"""The section `opensearch`, the options of the command, and their error messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opensearch_qwen_rerank import (
    ClusterError,
    OpenSearchSettings,
    VerificationError,
    connect,
    smoke_test,
    verify,
)
from opensearch_qwen_rerank._version import __version__
from opensearch_qwen_rerank.cli import app
from opensearch_qwen_rerank.cluster import OpenSearchCluster
from opensearch_qwen_rerank.settings import read_secret
from opensearch_qwen_rerank.verification import Stage, VerificationReport
from opensearchpy import OpenSearch, exceptions
from typer.testing import CliRunner

from qwen_rerank_plugins import ConfigurationError, load_config
from qwen_rerank_plugins import __version__ as base_version
from tests.integrations.opensearch.fake_cluster import FakeCluster


def test_the_version_is_that_of_the_base_package() -> None:
    assert __version__ == base_version


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"pipline": "a"}, "unknown setting 'pipline'; did you mean 'pipeline'"),
        ({"pipeline": "Ü"}, "pipeline is not valid: 'Ü'. It must be at most 64"),
        ({"cluster": "http://user:secret@host"}, r"cluster is not valid: \(hidden\)"),
        ({"fields": ("a'b",)}, "fields is not valid"),
        ({"query_path": "query.match.body"}, "query_path is not valid"),
        ({"query_path": "query.match.a.query", "recipe": "simple"}, "query_path is set with the recipe"),
        ({"oversample": 0.5}, "oversample is not valid: 0.5"),
        ({"default_for": ("a",), "on_error": "raise"}, "default_for is set with on_error 'raise'"),
        ({"instruction": "a ${parameters.x}"}, "instruction is not valid"),
        ({"username": "a"}, "username is set alone. Also set password_env or password_file"),
        ({"secret_arn": "a"}, "secret_arn is set alone"),
        ({"service_key_env": "A", "service_key_file": "b"}, "exclude each other"),
        ({"recipe": "poor"}, "recipe is not valid: 'poor'. It must be 'simple', 'rich' or 'native'"),
        ({"query_path": "query.match.a.query", "recipe": "native"}, "reads the query from the search itself"),
        ({"recipe": "native", "score": "log_odds"}, "score is 'log_odds' with the recipe 'native'"),
        ({"recipe": "native", "service_key_env": "A"}, "into each node's keystore"),
        ({"window": 0}, "window is not valid: 0"),
        ({"timeout_s": True}, "timeout_s is not valid: True. It must be a number"),
    ],
)
def test_an_invalid_setting_is_refused_with_what_is_required(invalid: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"section 'opensearch': .*{message}") as caught:
        OpenSearchSettings(**invalid)
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("query.match.body.query", "query.match.body.query"),
        ("$._request.query.match.body.query", "query.match.body.query"),
        ("query.hybrid.queries.0.match.body.query", "query.hybrid.queries[0].match.body.query"),
        ("query.neural.emb.query_text", "query.neural.emb.query_text"),
    ],
)
def test_a_query_path_is_accepted_in_each_form(given: str, path: str) -> None:
    assert OpenSearchSettings(query_path=given).query_path == path


def test_arguments_override_the_environment_and_the_environment_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rerank.yaml"
    file.write_text("opensearch:\n  fields: [title, body]\n  pipeline: from-file\n  oversample: 3\n")
    env = {"QWEN_RERANK_OPENSEARCH_PIPELINE": "from-env", "QWEN_RERANK_OPENSEARCH_VERIFY_CERTS": "false"}
    config = load_config(file, env=env)
    chosen = OpenSearchSettings.from_config(config, oversample="4")
    assert (chosen.fields, chosen.pipeline, chosen.oversample) == (("title", "body"), "from-env", 4.0)
    assert chosen.verify_certs is False


def test_secrets_are_read_from_variables_and_files(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    assert read_secret(OpenSearchSettings(service_key_file=str(file)), "service_key") == "from-file"
    of_env = OpenSearchSettings(service_key_env="KEY")
    assert read_secret(of_env, "service_key", env={"KEY": "from-env"}) == "from-env"
    with pytest.raises(ConfigurationError, match="no secret in variable 'KEY'"):
        read_secret(of_env, "service_key", env={})
    assert read_secret(OpenSearchSettings(), "password") is None


def test_messages_have_the_cause_and_no_secret() -> None:
    class Refusing:
        class transport:  # noqa: N801 (the client's attribute)
            @staticmethod
            def perform_request(*_: Any, **__: Any) -> Any:
                info = {"error": {"reason": "outer", "caused_by": {"reason": "the key my-password is wrong"}}}
                raise exceptions.TransportError(403, "forbidden", info)

    client: Any = Refusing()
    with pytest.raises(ClusterError) as caught:
        OpenSearchCluster(client, secrets=["my-password"]).request("GET", "/")
    assert str(caught.value) == "GET / was answered with status 403: outer: the key ********** is wrong"
    assert caught.value.status == 403


def test_requests_to_a_managed_cluster_are_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: no managed cluster is available to the tests."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    cluster = connect(OpenSearchSettings(cluster="https://search.example.org", aws_region="eu-west-1"))
    client: OpenSearch = cluster._client
    connection = client.transport.get_connection()
    headers = connection.http_auth("GET", "https://search.example.org/", b"")
    assert "Credential=AKIAEXAMPLE/" in headers["Authorization"]
    assert "/eu-west-1/es/aws4_request" in headers["Authorization"]
    cluster.close()


def test_every_setting_is_an_option_with_its_description() -> None:
    shown = " ".join(CliRunner().invoke(app, ["apply", "--help"], terminal_width=300).output.split())
    for name, field in OpenSearchSettings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in shown
        assert " ".join((field.description or "").split()) in shown


@pytest.mark.parametrize("command", ["plan", "apply", "verify", "destroy"])
def test_help_shows_examples_on_separate_lines(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"]).output
    assert f"\n    opensearch-qwen-rerank {command}" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["plan", "--recipe", "poor"], 2, "recipe is not valid"),
        (["verify", "--index", "a"], 2, "--index and --search must be given together"),
        (["apply", "--username", "a", "--password-env", "NOTHING_SUCH"], 2, "no secret in variable"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(arguments: list[str], status: int, message: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status
    assert result.stderr.startswith("opensearch-qwen-rerank: error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_watching_continues_after_a_failure_and_the_exit_code_reports_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = (Stage("model", 12.4, "scores"),)
    outcomes: list[Any] = [
        VerificationReport("books", stages),
        ClusterError("no [bold] answer"),
        VerificationReport("books", stages),
    ]

    def verified(*_: Any) -> VerificationReport:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    def pause(seconds: float) -> None:
        assert seconds == 5.0
        if not outcomes:
            raise KeyboardInterrupt

    monkeypatch.setattr("opensearch_qwen_rerank.verification.verify", verified)
    monkeypatch.setattr("opensearch_qwen_rerank.cli.time.sleep", pause)
    result = CliRunner().invoke(app, ["verify", "--watch", "5", "--format", "json"])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["problem"] for line in lines] == [None, "no [bold] answer", None]
    assert (lines[0]["model_ms"], result.exit_code) == (12.4, 1)
    outcomes.extend([VerificationReport("books", stages)])
    result = CliRunner().invoke(app, ["verify", "--watch", "5"])
    assert (result.exit_code, "reranks; model 12 ms" in result.stdout) == (0, True)


def test_certificates_that_are_not_verified_are_reported_at_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opensearch_qwen_rerank.cluster.OpenSearchCluster.request", FakeCluster().request)
    for arguments, is_warned in (([], False), (["--no-verify-certs"], True)):
        result = CliRunner().invoke(
            app,
            ["plan", "--cluster", "https://search:9200", "--service", "https://a.example.org", *arguments],
        )
        assert ("certificates are not verified" in result.stderr) is is_warned, result.stderr


def test_verify_before_apply_is_an_error() -> None:
    with pytest.raises(VerificationError, match="was not applied"):
        verify(FakeCluster(), OpenSearchSettings())


def test_a_failed_processor_is_reported_with_its_error() -> None:
    results = [{"processor_name": "ml_inference", "status": "fail", "error": "remote said 503"}]
    with pytest.raises(VerificationError, match="processor ml_inference failed: remote said 503"):
        smoke_test.processor_stages({"processor_results": results}, 10.0)


@pytest.mark.parametrize(("duration", "took_ms"), [(7, 7.0), (71_542_886, 71.542886)])
def test_durations_in_nanoseconds_are_converted(duration: int, took_ms: float) -> None:
    results = [{"processor_name": "rerank", "status": "success", "duration_millis": duration}]
    (stage,) = smoke_test.processor_stages({"processor_results": results}, 100.0)
    assert stage.took_ms == pytest.approx(took_ms)


@pytest.mark.parametrize(
    "response", [{}, {"inference_results": [{"output": [{"dataAsMap": {"scores": [1]}}]}]}]
)
def test_too_few_scores_are_an_error(response: dict[str, Any]) -> None:
    with pytest.raises(VerificationError, match="scores for 2 texts"):
        smoke_test.read_scores("rich", response)


@pytest.mark.parametrize(
    ("query_path", "field"),
    [
        ("query.match.body.query", "body"),
        ("query.match.title.query", "title"),
        ("query.bool.must[0].match.page.body.query", "page.body"),
        ("query.multi_match.query", "title"),
        ("query.match.bodywork.query", "title"),
        (None, "title"),
    ],
)
def test_the_smoke_tests_texts_are_in_the_field_that_is_searched(query_path: str | None, field: str) -> None:
    """With `--fields title,body --query-path query.match.body.query` the texts were in `title`, and `verify` failed."""
    assert smoke_test.sample_field(["title", "page.body", "body"], query_path) == field


def test_the_smoke_tests_search_is_built_from_the_query_path() -> None:
    body = smoke_test.search_body("rich", ["body"], "query.hybrid.queries[0].match.body.query")
    assert body["query"] == {"hybrid": {"queries": [{"match": {"body": {"query": smoke_test.QUESTION}}}]}}
