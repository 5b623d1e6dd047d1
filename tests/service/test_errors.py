"""Every exception has an answer of one form, without private details."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from qwen_rerank_plugins import errors
from qwen_rerank_plugins.service.errors import (
    PROBLEM_SCHEMA,
    STATUSES,
    BodyError,
    ClientGoneError,
    Problem,
    ProblemError,
    problem_of,
)

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.RerankError)
}

EXPECTED = {
    "RerankError": 500,
    "ConfigurationError": 500,
    "MissingDependencyError": 500,
    "InputError": 422,
    "InputTypeError": 422,
    "InstructionTooLongError": 422,
    "CheckpointError": 503,
    "CheckpointNotFoundError": 503,
    "CheckpointFormatError": 503,
    "TensorMismatchError": 503,
    "FamilyMismatchError": 503,
    "DeviceLostError": 503,
    "EngineError": 500,
    "EngineOutOfMemoryError": 503,
    "NonFiniteScoreError": 500,
    "WorkerDiedError": 503,
    "RequestError": 503,
    "OverloadedError": 429,
    "DeadlineExceededError": 504,
    "ClosedError": 503,
    "RemoteError": 503,
    "RemoteConnectionError": 503,
    "RemoteStatusError": 503,
    "RemoteProtocolError": 500,
}
SAYS_ITSELF = ("InputError", "InputTypeError", "InstructionTooLongError")


def make(name: str) -> errors.RerankError:
    more = {"status": 502} if name == "RemoteStatusError" else {}
    error: errors.RerankError = CLASSES[name]("/secret/path of the machine", **more)
    return error


def test_the_table_is_complete() -> None:
    assert sorted(EXPECTED) == sorted(CLASSES)
    assert set(EXPECTED.values()) <= set(STATUSES)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_error_of_the_package_has_its_status(name: str) -> None:
    problem = problem_of(make(name))
    assert problem.status == EXPECTED[name]
    assert problem.reason
    if problem.status in {429, 503}:
        assert int(problem.headers["Retry-After"]) >= 1
    if name not in SAYS_ITSELF:
        assert "secret" not in problem.message


@pytest.mark.parametrize("status", STATUSES)
def test_a_body_is_of_strings_and_as_the_schema_says(status: int) -> None:
    body = Problem(status, "what was wrong").body("id-1")
    assert {type(value) for value in body.values()} == {str}
    required: Any = PROBLEM_SCHEMA["required"]
    assert sorted(body) == sorted(required)
    assert body["code"] in json.dumps(PROBLEM_SCHEMA)
    assert body["error_type"] in json.dumps(PROBLEM_SCHEMA)


def test_what_a_body_error_says_is_answered_with_its_own_status() -> None:
    assert problem_of(BodyError("query is missing")) == Problem(422, "query is missing", reason="body")
    assert problem_of(BodyError("no JSON", status=400)).status == 400


def test_overload_has_retry_after_in_whole_seconds_and_opensearch_s_header() -> None:
    for seconds, expected in ((0.0, "1"), (0.2, "1"), (2.1, "3"), (60.0, "60")):
        problem = problem_of(errors.OverloadedError("full", retry_after_s=seconds))
        assert problem.headers["Retry-After"] == expected
        assert problem.headers["x-amzn-ErrorType"] == "ThrottlingException"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(429, 429), (400, 422), (413, 422), (422, 422), (500, 503), (503, 503), (401, 500), (404, 500)],
)
def test_another_service_s_status_becomes_what_concerns_the_caller(theirs: int, ours: int) -> None:
    problem = problem_of(errors.RemoteStatusError("theirs", status=theirs, retry_after_s=7.0))
    assert problem.status == ours
    if ours == 429:
        assert problem.headers["Retry-After"] == "7"


def test_anything_else_is_a_fault_of_ours_and_says_nothing() -> None:
    problem = problem_of(KeyError("a user's text"))
    assert (problem.status, problem.message, problem.reason) == (500, "internal error", "unexpected")


def test_a_client_that_left_is_no_error_of_the_service() -> None:
    assert problem_of(ClientGoneError("gone")).status == 499
    assert problem_of(ProblemError(Problem(404, "x"))).status == 404
