"""Bodies are parsed strictly; errors name the reason without quoting the body."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from qwen_rerank_plugins.service.errors import STATUSES, BodyError, ProblemError
from qwen_rerank_plugins.service.schemas.json_codec import MAX_DEPTH, check_headers, dump_json, parse_json
from tests.service.servers import RunningService, running_service, wait_for

SECRET = "Sesame-4711"

# What, the body, the status, and words of the message.
BAD_JSON: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "empty"),
    "blanks": (b" \n\t ", 400, "empty"),
    "surrogate halves in UTF-8": (b'{"query":"\xed\xa0\x80","documents":["a"]}', 400, "UTF-8"),
    "NaN": (b'{"query":NaN,"documents":["' + SECRET.encode() + b'"]}', 400, "NaN"),
    "Infinity": (b'{"query":"q","documents":["a"],"top_n":-Infinity}', 400, "NaN or an infinity"),
    "a number above all floats": (b'{"query":"q","documents":["a"],"top_n":1e400}', 400, "too large"),
    "an integer of 5000 digits": (
        b'{"query":"q","documents":["a"],"top_n":' + b"9" * 5000 + b"}",
        400,
        "300 digits",
    ),
    "100,000 brackets": (b"[" * 100_000, 400, "JSON|deep"),
    "a deep document": (
        b'{"query":"q","documents":[{"text":' + b"[" * 40 + b"]" * 40 + b"}]}",
        400,
        "nested too deep",
    ),
    "UTF-16": (f'{{"query":"{SECRET}","documents":["a"]}}'.encode("utf-16"), 400, "UTF-16"),
    "UTF-16 without a mark": (f'{{"query":"{SECRET}"}}'.encode("utf-16-le"), 400, "UTF-16"),
    "UTF-32": (f'{{"query":"{SECRET}"}}'.encode("utf-32"), 400, "UTF-32"),
    "two byte order marks": (
        b'\xef\xbb\xbf\xef\xbb\xbf{"query":"q","documents":["a"]}',
        400,
        "not valid JSON",
    ),
    "a byte order mark alone": (b"\xef\xbb\xbf", 400, "empty"),
    "a control character": (
        b'{"query":"a\n","documents":["a"]}',
        400,
        "invalid control character at line 1, column 12",
    ),
    "Latin-1": (f'{{"query":"caf\u00e9 {SECRET}","documents":["a"]}}'.encode("latin-1"), 400, "UTF-8"),
    "a key twice": (f'{{"query":"{SECRET}","query":"b","documents":["a"]}}'.encode(), 400, "duplicate key"),
    "a key twice, deep inside": (
        b'{"query":"q","documents":[{"text":"a","text":"b"}]}',
        400,
        "duplicate key",
    ),
    "a raw control character": (b'{"query":"a\nb","documents":["a"]}', 400, "control character"),
    "cut off": (f'{{"query":"{SECRET}","documents":["a"'.encode(), 400, "line 1"),
    "single quotes": (f"{{'query':'{SECRET}'}}".encode(), 400, "JSON"),
    "a form": (f"query={SECRET}&documents=a".encode(), 400, "JSON"),
    "two values": (b'{"query":"q","documents":["a"]} {}', 400, "JSON"),
}
BAD_VALUES: dict[str, tuple[bytes, int, str]] = {
    "a list": (f'["{SECRET}"]'.encode(), 400, "object"),
    "a text": (f'"{SECRET}"'.encode(), 400, "object"),
    "null": (b"null", 400, "object"),
    "a number": (b"17", 400, "object"),
    "no query": (f'{{"documents":["{SECRET}"]}}'.encode(), 422, "query"),
    "a query that is a number": (f'{{"query":17,"documents":["{SECRET}"]}}'.encode(), 422, "query"),
    "documents that are a number": (f'{{"query":"{SECRET}","documents":17}}'.encode(), 422, "documents"),
    "a document that is a number": (f'{{"query":"{SECRET}","documents":["a",17]}}'.encode(), 422, "1"),
    "no documents": (f'{{"query":"{SECRET}","documents":[]}}'.encode(), 400, "documents"),
    "a negative top_n": (f'{{"query":"{SECRET}","documents":["a"],"top_n":-1}}'.encode(), 422, "top_n"),
    "a top_n in words": (f'{{"query":"q","documents":["a"],"top_n":"{SECRET}"}}'.encode(), 422, "top_n"),
}


BAD_BODIES = BAD_JSON | BAD_VALUES


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running_service(max_document_chars=1000, max_query_chars=500) as running:
        yield running


def test_a_byte_order_mark_before_the_body_is_ignored() -> None:
    body = '{"query": "caf\u00e9 \\ud83d\\ude00"}'
    expected = (json.loads(body), False)
    assert parse_json(b"\xef\xbb\xbf" + body.encode()) == parse_json(body.encode()) == expected


@pytest.mark.parametrize("name", BAD_JSON)
def test_what_is_no_proper_json_is_refused_without_being_quoted(name: str) -> None:
    body, _, words = BAD_JSON[name]
    with pytest.raises(BodyError, match=words) as caught:
        parse_json(body)
    assert caught.value.status == 400
    assert SECRET not in str(caught.value)


def test_proper_json_is_read_as_it_is() -> None:
    value = {
        "query": "\u96ea \U0001f600 \u0000",
        "documents": ["a", {"text": "b", "n": [1.5, -3, None, True]}],
    }
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == (value, False)
    assert parse_json(bytearray(b' {"a": 1e3, "b": 9223372036854775807}\n'))[0] == {
        "a": 1000.0,
        "b": 2**63 - 1,
    }


def test_nesting_is_allowed_up_to_the_limit() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(BodyError, match="too deep"):
        parse_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_lists_and_objects_without_measure_are_refused_before_they_are_built() -> None:
    for piece in (b"[],", b"{},", b"[{}],"):
        with pytest.raises(BodyError, match="too many lists"):
            parse_json(b'{"documents":[' + piece * 400_000 + b"1]}")
    text = '[{"\\' * 200_000
    assert parse_json(json.dumps({"documents": [text]}).encode()) == ({"documents": [text]}, False)
    with pytest.raises(BodyError, match="JSON"):
        parse_json(b'{"documents":["' + b'[\\"' * 400_000)


@pytest.mark.loopback
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {"content-type": "Application/JSON; charset=UTF-8"},
        {"content-type": 'application/json;charset="utf-8"', "content-encoding": "identity"},
        {"content-type": "application/vnd.api+json"},
    ],
)
def test_a_body_declared_as_plain_json_is_read(service: RunningService, headers: dict[str, str]) -> None:
    body = b'{"query":"fox","documents":["a whale","a fox"]}'
    with service.client() as client:
        answer = client.post("/rerank", content=body, headers=headers)
    assert [result["index"] for result in answer.json()["results"]] == [1, 0]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "application/json", "content-encoding": "identity, br"},
    ],
)
def test_any_other_declaration_is_refused_with_415(headers: dict[str, str]) -> None:
    with pytest.raises(ProblemError) as caught:
        check_headers(headers)
    assert caught.value.problem.status == 415


def test_written_json_is_ascii_and_holds_no_nan() -> None:
    assert dump_json({"a": ["\u96ea", 1e-07, 1.0]}) == b'{"a":["\\u96ea",1e-07,1.0]}'
    with pytest.raises(ValueError, match="JSON compliant"):
        dump_json({"a": float("nan")})


def assert_problem(answer: httpx.Response, status: int) -> dict[str, str]:
    """The documented shape, whatever went wrong."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    problem: dict[str, str] = answer.json()
    assert set(problem) == {"type", "id", "request_id", "message", "detail", "error", "error_type", "code"}
    assert {type(value) for value in problem.values()} == {str}
    assert problem["message"] == problem["detail"] == problem["error"]
    assert problem["id"] == problem["request_id"] == answer.headers["x-request-id"]
    assert (problem["code"], problem["error_type"]) == STATUSES[status][:2]
    assert problem["type"] == f"/docs#error-{problem['code']}"
    assert SECRET not in answer.text
    return problem


def post(service: RunningService, body: Any, **headers: str) -> httpx.Response:
    with service.client() as client:
        return client.post("/rerank", content=body, headers={"Content-Type": "application/json", **headers})


@pytest.mark.loopback
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_answered_in_the_documented_shape(service: RunningService, name: str) -> None:
    body, status, words = BAD_BODIES[name]
    problem = assert_problem(post(service, body), status)
    assert any(word in problem["message"] for word in words.split("|")), problem["message"]


@pytest.mark.loopback
def test_100_000_documents_are_too_many(service: RunningService) -> None:
    problem = assert_problem(post(service, json.dumps({"query": "q", "documents": [SECRET] * 100_000})), 413)
    assert "100000" in problem["message"]


@pytest.mark.loopback
def test_50_megabytes_are_too_large_whether_declared_or_not(service: RunningService) -> None:
    body = b'{"query":"q","documents":["' + SECRET.encode() * 4_600_000 + b'"]}'
    assert len(body) > 50_000_000
    assert "bytes" in assert_problem(post(service, body), 413)["message"]
    chunks = (body[at : at + 65536] for at in range(0, len(body), 65536))
    assert "bytes" in assert_problem(post(service, chunks), 413)["message"]
    wait_for(lambda: service.service.admission.pending_bytes == 0)


@pytest.mark.loopback
def test_texts_that_are_too_long_are_named_by_their_place(service: RunningService) -> None:
    too_long = SECRET * 100
    body = {"query": "q", "documents": ["a", too_long]}
    assert "document 1 is too long: 1100" in assert_problem(post(service, json.dumps(body)), 422)["message"]
    body = {"query": too_long, "documents": ["a"]}
    assert "query 0 is too long" in assert_problem(post(service, json.dumps(body)), 422)["message"]
    body = {"query": "q", "documents": ["a"], "instruction": too_long}
    assert "instruction is too long" in assert_problem(post(service, json.dumps(body)), 422)["message"]


@pytest.mark.loopback
def test_a_compressed_body_and_one_of_another_type_are_refused(service: RunningService) -> None:
    good = b'{"query":"q","documents":["a"]}'
    assert_problem(post(service, good, **{"Content-Encoding": "gzip"}), 415)
    assert_problem(post(service, good, **{"Content-Type": "text/plain"}), 415)
    with service.client() as client:
        assert_problem(client.post("/rerank", content=good), 415)


@pytest.mark.loopback
def test_the_service_is_well_after_all_that(service: RunningService) -> None:
    answer = service.rank()
    assert answer.status_code == 200
    assert [result["index"] for result in answer.json()["results"]] == [1, 0]


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        (r"cut \ud83d", "cut \ufffd"),
        (r"\uDFFF alone", "\ufffd alone"),
        (r"\ude00\ud83d turned around", "\ufffd\ufffd turned around"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\ud83dx\ude00", "\ufffdx\ufffd"),
    ],
)
def test_a_lone_surrogate_is_replaced_wherever_it_is(text: str, repaired: str) -> None:
    """JavaScript makes them by cutting an emoji in half; one must not fail the whole request."""
    body = f'{{"{text}": ["{text}", {{"text": "{text}"}}, 1, null], "whole": "\\ud83d\\ude00"}}'
    value, is_repaired = parse_json(body.encode())
    assert value == {repaired: [repaired, {"text": repaired}, 1, None], "whole": "\U0001f600"}
    assert is_repaired


@pytest.mark.parametrize("other", [r"\udfff", r"\ufffd", "\ufffd"])
def test_keys_that_a_replacement_makes_equal_are_duplicates(other: str) -> None:
    with pytest.raises(BodyError, match="duplicate key") as caught:
        parse_json(rf'{{"\ud83d": 1, "{other}": 2}}'.encode())
    assert caught.value.status == 400


def test_an_escaped_backslash_before_ud_is_no_surrogate() -> None:
    assert parse_json(rb'["\\ud83d", "\\\ud83d"]') == (["\\ud83d", "\\\ufffd"], True)
    assert parse_json(rb'["\\ud83d\n"]') == (["\\ud83d\n"], False)
