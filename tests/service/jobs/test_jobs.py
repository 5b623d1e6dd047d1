"""Uploads, jobs and results: every format, every option, every answer."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen_rerank_plugins import RerankConfig, Reranker
from qwen_rerank_plugins.service.app import create_app
from tests.service.jobs.uploads import (
    CSV,
    OWN_FILES,
    Client,
    csv_file,
    entries,
    pairs,
    records,
    rows_of,
    serving,
)
from tests.service.schemas.test_json_codec import assert_problem
from tests.service.servers import RunningService, running_service, wait_for

pytestmark = pytest.mark.loopback

JSONL = {"Content-Type": "application/x-ndjson"}
PARQUET = {"Content-Type": "application/vnd.apache.parquet"}
ROWS = pairs(23)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[tuple[RunningService, Client]]:
    with serving(folder, jobs_max_per_key=1000) as both:
        yield both


@pytest.fixture
def client(served: tuple[RunningService, Client]) -> Client:
    return served[1]


def expected(rows: list[dict[str, str]]) -> dict[str, list[tuple[str, float]]]:
    """Each query's documents, best first, as the library ranks them."""
    reranker = Reranker(backend="lexical")
    queries = list(dict.fromkeys(row["query"] for row in rows))
    ranked = {}
    for query in queries:
        documents = [row["document"] for row in rows if row["query"] == query]
        results = reranker.rank(query, documents).results
        ranked[query] = [(documents[one.index], one.relevance_score or 0.0) for one in results]
    return ranked


def found(rows: list[dict[str, Any]]) -> dict[str, list[tuple[str, float]]]:
    """The same for a result."""
    ranked: dict[str, list[tuple[str, float]]] = {}
    for row in sorted(rows, key=lambda row: int(row["rank"])):
        ranked.setdefault(row["query"], []).append((row["document"], float(row["relevance_score"])))
    return {row["query"]: ranked[row["query"]] for row in rows}


def assert_ranked(rows: list[dict[str, Any]]) -> None:
    wanted = expected(ROWS)
    got = found(rows)
    assert {query: [text for text, _ in ranked] for query, ranked in got.items()} == {
        query: [text for text, _ in ranked] for query, ranked in wanted.items()
    }
    scores = [score for ranked in got.values() for _, score in ranked]
    assert scores == pytest.approx([score for ranked in wanted.values() for _, score in ranked], abs=1e-6)


def test_csv_goes_up_and_comes_down_ranked(client: Client) -> None:
    job_id = client.upload(csv_file(ROWS), name="my pairs.csv")
    job = client.wait(job_id)
    assert job["problem"] is None
    assert (job["state"], job["model"], job["num_written"]) == ("done", "lexical", len(ROWS))
    assert (job["progress"]["num_rows"], job["progress"]["fraction"]) == (len(ROWS), 1.0)
    assert job["created"] <= job["started"] <= job["finished"] < job["expires"]
    answer = client.result(job_id)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "private, no-store"
    assert int(answer.headers["content-length"]) == len(answer.content) == job["result_bytes"]
    assert answer.headers["content-disposition"].startswith("attachment; ")
    assert answer.headers["content-disposition"].endswith("filename*=UTF-8''my%20pairs.ranked.csv")
    assert_ranked(rows_of(answer.content))
    head = client.http.head(f"/v1/jobs/{job_id}/result")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == answer.headers["content-length"]


def test_jsonl_goes_up_and_comes_down_ranked(client: Client) -> None:
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    job_id = client.upload(content, JSONL)
    assert client.wait(job_id)["output_format"] == "jsonl"
    answer = client.result(job_id)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert_ranked([json.loads(line) for line in answer.text.splitlines()])


def test_parquet_goes_up_and_comes_down_ranked(client: Client) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), buffer)
    job_id = client.upload(buffer.getvalue(), PARQUET, output_format="jsonl")
    back = client.upload(buffer.getvalue(), PARQUET)
    assert client.wait(job_id)["state"] == client.wait(back)["state"] == "done"
    assert_ranked([json.loads(line) for line in client.result(job_id).text.splitlines()])
    assert_ranked(pq.read_table(io.BytesIO(client.result(back).content)).to_pylist())


@pytest.mark.parametrize(
    ("content", "parameters", "name"),
    [
        (csv_file(ROWS), {"name": "a.csv"}, "csv"),
        (csv_file(ROWS), {"format": "csv", "name": "a.jsonl"}, "csv"),
        (csv_file(ROWS).replace(b",", b"\t"), {"name": "a.tsv"}, "csv"),
        (csv_file(ROWS).replace(b",", b";"), {"format": "csv", "delimiter": ";"}, "csv"),
        (b'{"query": "a", "document": "b"}\n', {"name": "A.NDJSON"}, "jsonl"),
    ],
)
def test_the_format_comes_from_parameter_type_or_name(
    client: Client, content: bytes, parameters: dict[str, str], name: str
) -> None:
    job = client.wait(client.upload(content, {"Content-Type": "application/octet-stream"}, **parameters))
    assert (job["state"], job["input_format"]) == ("done", name), job


@pytest.mark.parametrize("name", ["", "a.tsv", "a.csv"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_type_or_a_suffix_is_only_the_first_guess_at_the_delimiter(
    client: Client, name: str, delimiter: str
) -> None:
    content = csv_file(ROWS).replace(b",", delimiter.encode())
    job = client.wait(client.upload(content, {"Content-Type": "text/tab-separated-values"}, name=name))
    assert job["state"] == "done", job
    assert job["options"] == {}
    first = "," if name == "a.csv" else "\t"
    assert (job["guess"] is None) == (delimiter == first)


def test_a_guess_is_shown_with_three_texts_while_the_job_runs_and_after_it(
    client: Client, folder: Path
) -> None:
    rows = [
        {"query": "怎么洗猫", "document": text * 30} for text in ("cats", "用温水轻轻地洗", "今天股市下跌")
    ]
    content = csv_file(rows).decode().replace(",", ";").encode("gb18030")
    job = client.wait(client.upload(content, name="gbk.csv"))
    texts = ["怎么洗猫", ("用温水轻轻地洗" * 6)[:40], ("今天股市下跌" * 7)[:40]]
    guess = {"options": ["encoding", "delimiter"], "encoding": "gb18030", "delimiter": ";", "texts": texts}
    assert job["guess"] == guess
    (stored,) = [json.loads(row["details"]) for row in records(folder) if row["id"] == job["id"]]
    assert stored["guess"] == guess
    named = client.wait(client.upload(content, encoding="gbk", delimiter=";"))
    assert (named["state"], named["guess"]) == ("done", None)


def test_every_option_of_the_pipeline_is_passed_on(client: Client) -> None:
    rows = [{"q": row["query"], "d": row["document"], "why": "find it"} for row in ROWS]
    job_id = client.upload(
        csv_file(rows),
        query_column="q",
        document_column="d",
        instruction_column="why",
        top_n=2,
        min_score=0.01,
        details="true",
        bom="true",
    )
    job = client.wait(job_id)
    content = client.result(job_id).content
    assert content.startswith(b"\xef\xbb\xbf")
    kept = rows_of(content.removeprefix(b"\xef\xbb\xbf"))
    assert len(kept) == job["num_written"]
    assert 0 < len(kept) <= 2 * 5
    assert all(float(row["relevance_score"]) >= 0.01 and int(row["rank"]) <= 2 for row in kept)
    assert "log_odds" in kept[0]
    assert job["options"]["top_n"] == "2"


def test_lists_are_ranked_a_row_a_document(client: Client) -> None:
    line = json.dumps({"query": "blue whale", "documents": ["a fox", "the blue whale"]})
    job_id = client.upload(f"{line}\n", JSONL, explode="true")
    assert client.wait(job_id)["state"] == "done"
    best = [json.loads(row) for row in client.result(job_id).text.splitlines()]
    assert min(best, key=lambda row: row["rank"])["document"] == "the blue whale"
    assert len(best) == 2


def test_rows_that_cannot_be_ranked_end_the_job_with_their_line_and_no_path(
    client: Client, folder: Path
) -> None:
    content = csv_file([*ROWS[:3], {"query": " ", "document": "x"}])
    job_id = client.upload(content, name="bad.csv")
    job = client.wait(job_id)
    assert job["state"] == "failed"
    assert (job["problem"]["status"], job["problem"]["code"]) == (422, "invalid_request")
    assert "line 5" in job["problem"]["message"]
    assert "on_bad_row" in job["problem"]["message"]
    assert str(folder) not in str(job)
    assert job_id not in job["problem"]["message"]
    assert_problem(client.http.get(f"/v1/jobs/{job_id}/result"), 409)
    assert_problem(client.http.get(f"/v1/jobs/{job_id}/rejected"), 409)
    assert sorted(path.name for path in (folder / job_id).iterdir()) == []


def test_a_file_without_the_columns_is_named_as_its_owner_named_it(client: Client, folder: Path) -> None:
    job = client.wait(client.upload(csv_file([{"a": "1", "b": "2"}]), name="my table.csv"))
    message = job["problem"]["message"]
    assert "my table.csv" in message
    assert "'document'" in message
    assert str(folder) not in message
    assert "input.csv" not in message


def test_rejected_rows_can_be_downloaded_with_the_reason(client: Client) -> None:
    content = csv_file([*ROWS[:3], {"query": " ", "document": "x"}])
    job_id = client.upload(content, name="../../etc/my rows.csv", on_bad_row="reject")
    job = client.wait(job_id)
    assert (job["state"], job["progress"]["num_rejected"], job["num_written"]) == ("done", 1, 3)
    assert job["name"] == "my rows.csv"
    answer = client.http.get(f"/v1/jobs/{job_id}/rejected")
    assert unquote(answer.headers["content-disposition"]).endswith("UTF-8''my rows.rejected.jsonl")
    (row,) = [json.loads(line) for line in answer.text.splitlines()]
    assert row["line"] == 5
    assert len(answer.content) == job["rejected_bytes"]
    complete = client.upload(csv_file(ROWS))
    client.wait(complete)
    assert_problem(client.http.get(f"/v1/jobs/{complete}/rejected"), 409)


def test_a_cell_that_a_spreadsheet_would_compute_is_inert(client: Client) -> None:
    job_id = client.upload(csv_file([{"query": "a", "document": "=1+1", "note": "@SUM(A1)"}]))
    client.wait(job_id)
    (row,) = rows_of(client.result(job_id).content)
    assert (row["document"], row["note"]) == ("'=1+1", "'@SUM(A1)")


@pytest.mark.parametrize(
    "name",
    ["../../x.csv", "a/b\\c.csv", 'q"uote.csv', "line\r\nSet-Cookie: a=b.csv", "\u202egnp.csv", "猫.csv", ""],
)
def test_no_name_reaches_a_path_or_breaks_a_header(client: Client, folder: Path, name: str) -> None:
    before = entries(folder)
    job_id = client.upload(csv_file(ROWS), name=name)
    job = client.wait(job_id)
    answer = client.result(job_id)
    disposition = answer.headers["content-disposition"]
    assert disposition.isascii()
    assert "set-cookie" not in answer.headers
    assert not set('/\\\r\n"\u202e') & set(job["name"])
    assert unquote(disposition.partition("UTF-8''")[2]) == f"{job['name'].rpartition('.')[0]}.ranked.csv"
    assert entries(folder) - before == {job_id}
    assert sorted(path.name for path in (folder / job_id).iterdir()) == ["result.csv"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"tpo_n": "3"}, "unknown parameter 'tpo_n'"),
        ({"top_n": "0"}, "top_n"),
        ({"top_n": "three"}, "top_n"),
        ({"min_score": "2"}, "min_score"),
        ({"min_score": "nan"}, "min_score"),
        ({"format": "xlsx"}, "format is not valid: 'xlsx'"),
        ({"form": "heap"}, "form"),
        ({"explode": "yes"}, "explode"),
        ({"delimiter": '"'}, "delimiter"),
        ({"query_column": " "}, "query_column"),
        ({"on_bad_row": "ignore"}, "on_bad_row"),
        ({"instruction": "x" * 10_001}, "instruction is too long"),
        ([("top_n", "1"), ("top_n", "2")], "top_n is repeated"),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_is_kept(
    client: Client, folder: Path, parameters: Any, words: str
) -> None:
    before = entries(folder)
    answer = client.http.post("/v1/jobs", content=csv_file(ROWS), headers=CSV, params=parameters)
    assert words in assert_problem(answer, 422)["message"]
    assert entries(folder) == before


def test_a_file_of_unknown_format_is_rejected(client: Client) -> None:
    octets = {"Content-Type": "application/octet-stream"}
    assert "format=" in assert_problem(client.post(b"x", octets, name="a.xlsx"), 422)["message"]
    assert_problem(client.post(b"x", octets), 422)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {**CSV, "Content-Encoding": "gzip"},
    ],
)
def test_what_a_stranger_s_page_could_send_unasked_is_refused(
    client: Client, headers: dict[str, str]
) -> None:
    assert_problem(client.post(csv_file(ROWS), headers), 415)


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"PAR1", b"\x28\xb5\x2f\xfd"])
def test_a_compressed_upload_is_refused(client: Client, content: bytes) -> None:
    assert_problem(client.post(content + b"x" * 100), 415)


def test_a_file_that_is_no_parquet_fails_as_a_job(client: Client, folder: Path) -> None:
    job = client.wait(client.upload(csv_file(ROWS), PARQUET, name="no.parquet"))
    assert (job["state"], job["problem"]["status"]) == ("failed", 422)
    assert "no.parquet" in job["problem"]["message"]
    assert str(folder) not in job["problem"]["message"]


def test_an_empty_upload_is_refused(client: Client) -> None:
    assert_problem(client.post(b""), 400)
    assert_problem(client.post(iter([b"", b""])), 400)


def test_a_job_that_is_not_there_is_not_there_in_any_way(client: Client) -> None:
    for job_id in ("0" * 32, "..", "%2e%2e", "lock", "x" * 5000):
        for suffix in ("", "/result", "/rejected"):
            assert client.http.get(f"/v1/jobs/{job_id}{suffix}").status_code == 404
    assert_problem(client.http.delete(f"/v1/jobs/{'0' * 32}"), 404)
    answer = client.http.put("/v1/jobs", content=b"x")
    assert_problem(answer, 405)
    assert {method.strip() for method in answer.headers["allow"].split(",")} == {"GET", "HEAD", "POST"}


def test_the_newest_job_is_listed_first(client: Client) -> None:
    ids = [client.upload(csv_file(ROWS)) for _ in range(3)]
    assert [job["id"] for job in client.jobs()][:3] == ids[::-1]


def test_a_finished_job_leaves_nothing_of_its_upload(client: Client, folder: Path) -> None:
    job_id = client.upload(csv_file(ROWS))
    client.wait(job_id)
    wait_for(lambda: len(list((folder / job_id).iterdir())) == 1)
    client.remove(job_id)
    assert client.http.get(f"/v1/jobs/{job_id}").status_code == 404
    assert not (folder / job_id).exists()


def test_only_whoever_runs_the_service_can_read_the_folder(client: Client, folder: Path) -> None:
    job_id = client.upload(csv_file(ROWS))
    for name in (job_id, *OWN_FILES):
        assert (folder / name).stat().st_mode & 0o077 == 0
    assert all(set(record) >= {"id", "owner", "state"} for record in records(folder))


def test_without_a_folder_there_are_no_such_addresses() -> None:
    with running_service() as running, running.client() as client:
        assert_problem(client.get("/v1/jobs"), 404)
        assert_problem(client.post("/v1/jobs", content=b"x", headers=CSV), 404)
        assert client.get("/info").json()["jobs"] is None
        described = client.get("/openapi.json").json()
        assert not [path for path in described["paths"] if "jobs" in path]
        assert "507" not in described["components"]["responses"]


def test_with_a_folder_the_addresses_are_described(client: Client) -> None:
    info = client.http.get("/info").json()
    assert info["jobs"]["formats"] == ["csv", "jsonl", "parquet"]
    assert info["jobs"]["max_upload_bytes"] == 256 << 20
    described = client.http.get("/openapi.json").json()
    paths = described["paths"]
    assert sorted(paths["/v1/jobs"]) == ["get", "post"]
    assert sorted(paths["/v1/jobs/{id}"]) == ["delete", "get"]
    assert {"202", "413", "415", "422", "429", "507"} <= set(paths["/v1/jobs"]["post"]["responses"])
    ids = [one["operationId"] for methods in paths.values() for one in methods.values()]
    assert len(ids) == len(set(ids))
    page = client.http.get("/docs").text
    assert "/v1/jobs/{id}/result" in page


def test_two_services_do_not_work_in_one_folder(served: Any, folder: Path) -> None:
    from qwen_rerank_plugins import ConfigurationError

    with pytest.raises(ConfigurationError, match=r"jobs_folder cannot be used: .* no other service"):
        create_app(RerankConfig(backend="lexical", service={"jobs_folder": str(folder)}))
