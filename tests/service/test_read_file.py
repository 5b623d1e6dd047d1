"""`POST /api/read-file`: the rows of files, errors, and limits per client."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen_rerank_plugins.batch import tables
from qwen_rerank_plugins.service.api import files
from tests.service.schemas.test_json_codec import assert_problem
from tests.service.servers import RunningService, running_service, wait_for

pytestmark = pytest.mark.loopback

CELLS = [
    "",
    " ",
    "plain",
    '"',
    '""',
    'say "hi"',
    "a,b",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "；|",
    "苹果",
    "🍎x",
    "=1+1",
]
CHINESE = "编号,内容\r\n1,苹果很甜，产自陕西\r\n"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running_service(max_body_bytes=1 << 20) as running:
        yield running


def read(service: RunningService, content: str | bytes, name: str = "in.csv", **parameters: Any) -> Any:
    with service.client() as client:
        answer = client.post("/api/read-file", params={"name": name, **parameters}, content=content)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json()


def all_rows(table: dict[str, Any]) -> list[list[str]]:
    return [*([table["header"]] if table["header"] else []), *table["rows"]]


# Cells.


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_delimited_text_is_read_as_pythons_csv_writes_it(service: RunningService, delimiter: str) -> None:
    rng = random.Random(7)
    for _ in range(25):
        width = rng.randint(2, 4)
        sheet = [[rng.choice(CELLS) for _ in range(width)] for _ in range(rng.randint(1, 6))]
        buffer = io.StringIO(newline="")
        csv.writer(buffer, delimiter=delimiter, lineterminator="\r\n").writerows(sheet)
        assert all_rows(read(service, buffer.getvalue(), delimiter=delimiter)) == sheet


@pytest.mark.parametrize(
    ("text", "name", "rows"),
    [
        ("\ufeffone\r\ntwo\r\n", "a.txt", [["one"], ["two"]]),
        ("one\rtwo", "a.txt", [["one"], ["two"]]),
        ("one, two\nthree; four, five\n", "a.txt", [["one, two"], ["three; four, five"]]),
        ('"a quotation, kept"\nb', "a.txt", [['"a quotation, kept"'], ["b"]]),
        ("a\tb\nc\td\n", "a.txt", [["a", "b"], ["c", "d"]]),
        ('"two, quoted"\nthree\n', "a.csv", [["two, quoted"], ["three"]]),
        ('"one\ntwo"\r\nthree', "a.csv", [["one\ntwo"], ["three"]]),
        ('"Shut," he said.\ninch 5" and\n', "a.csv", [['"Shut," he said.'], ['inch 5" and']]),
        ("a\n", "unknown", [["a"]]),
    ],
)
def test_a_list_of_documents_is_one_text_per_line(
    service: RunningService, text: str, name: str, rows: list[list[str]]
) -> None:
    table = read(service, text, name)
    assert all_rows(table) == rows
    assert table["num_rows"] == len(table["rows"])


def test_blank_rows_are_counted_and_bad_ones_are_named(service: RunningService) -> None:
    table = read(service, 'id,text\n\n1,an apple\n2\n3,a,b\n4,"open" x\n5,a pear\n', delimiter=",")
    assert (table["rows"], table["num_rows"]) == ([["1", "an apple"], ["5", "a pear"]], 2)
    assert (table["num_blank"], table["num_rejected"]) == (1, 3)
    assert [row["line"] for row in table["rejected"]] == [4, 5, 6]
    assert "the row has 3 cells; the first line has 2" in table["rejected"][1]["problem"]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_objects_become_rows_under_the_names_of_their_keys(
    service: RunningService, tmp_path: Path, kind: str
) -> None:
    rows: list[dict[str, Any]] = [{"n": 1, "text": "苹果"}, {"n": 2, "text": "梨", "tags": ["a", "b"]}]
    path = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(
            pa.Table.from_pylist(
                rows, pa.schema([("n", pa.int64()), ("text", pa.string()), ("tags", pa.list_(pa.string()))])
            ),
            path,
        )
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]", "utf-8")
    table = read(service, path.read_bytes(), path.name)
    assert table["format"] == ("parquet" if kind == "parquet" else "jsonl")
    assert (table["header"], table["document_column"]) == (["n", "text", "tags"], 1)
    assert table["rows"] == [["1", "苹果", ""], ["2", "梨", '["a", "b"]']]
    assert table["encoding"] == (None if kind == "parquet" else "utf-8")


# Guesses.


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("id,text\n1,apple\n2,pear", ","),
        ("id;text\n1;apple, red\n2;pear", ";"),
        ("id\ttext\n1\tapple", "\t"),
        ("id|text\n1|apple", "|"),
        ('id,text\n1,"two\nlines"\n2,"a; b"', ","),
        ("sep=~\nid~text\n1~apple\n", "~"),
        ("Well, this is prose.\nIt has no table in it.\nNot, really, any.", None),
        ("one\ntwo", None),
    ],
)
def test_the_delimiter_is_the_one_that_yields_a_regular_table(
    service: RunningService, text: str, delimiter: str | None
) -> None:
    table = read(service, text)
    assert (table["delimiter"], table["ambiguous"]) == (delimiter, [])
    is_guess = delimiter not in {",", "~", None}
    assert (table["guess"] is not None) == is_guess
    if is_guess:
        assert (table["guess"]["options"], table["guess"]["delimiter"]) == (["delimiter"], delimiter)


def test_a_tab_in_tsv_is_no_guess(service: RunningService) -> None:
    table = read(service, "a,b\tc\n1,2\t3\n", "in.tsv")
    assert (table["delimiter"], table["guess"], table["ambiguous"]) == ("\t", None, [])


def test_several_plausible_delimiters_are_named_and_one_can_be_chosen(service: RunningService) -> None:
    text = "a,b;c\n1,2;3\n"
    table = read(service, text)
    (ambiguity,) = table["ambiguous"]
    assert (ambiguity["option"], ambiguity["choices"]) == ("delimiter", [",", ";"])
    assert "',' or ';'; choose one with `delimiter`" in ambiguity["message"]
    assert all_rows(table) == [["a", "b;c"], ["1", "2;3"]]
    assert table["guess"]["texts"] == ["1", "2;3"]
    for delimiter, rows in [(";", [["a,b", "c"], ["1,2", "3"]]), ("none", [["a,b;c"], ["1,2;3"]])]:
        table = read(service, text, delimiter=delimiter)
        assert (all_rows(table), table["ambiguous"], table["guess"]) == (rows, [], None)


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16-le"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("gb18030", "gb18030"),
        ("gbk", "gb18030"),
    ],
)
def test_a_files_encoding_is_found(service: RunningService, encoding: str, found: str) -> None:
    table = read(service, CHINESE.encode(encoding))
    assert (table["encoding"], table["ambiguous"]) == (found, [])
    assert (table["header"], table["rows"]) == (["编号", "内容"], [["1", "苹果很甜，产自陕西"]])
    is_guess = encoding not in {"utf-8", "utf-8-sig", "utf-16"}
    assert (table["guess"] or {}).get("options") == (["encoding"] if is_guess else None)
    if is_guess:
        assert table["guess"]["texts"] == ["苹果很甜，产自陕西", "1"]


def test_an_encoding_that_is_not_known_is_named_and_can_be_chosen(service: RunningService) -> None:
    content = "кошка\n".encode("koi8-r") + bytes(range(128, 160))
    (ambiguity,) = read(service, content, "a.txt")["ambiguous"]
    assert (ambiguity["option"], "choose one with `encoding`" in ambiguity["message"]) == ("encoding", True)
    assert {"gb18030", "cp1251"} <= {*ambiguity["choices"]}
    table = read(service, content, "a.txt", encoding="koi8-r")
    assert (table["encoding"], table["rows"][0], table["ambiguous"]) == ("koi8-r", ["кошка"], [])


@pytest.mark.parametrize(
    ("rows", "has_header", "column"),
    [
        ([["id", "text"], ["1", "a long enough sentence"]], True, 1),
        ([["内容", "编号"], ["苹果很甜", "1"]], True, 0),
        ([["1", "apples are red"], ["2", "pears are green"]], False, 1),
        ([["name", "note"], ["x", "a sentence that is longer than a name"]], True, 1),
        ([["a", "a"], ["x", "a sentence that is longer than a name"]], False, 1),
        ([["a", "b"], ["x", "y"]], False, 0),
        ([["text"], ["x"]], True, 0),
        ([["a"], ["a sentence that is longer than a name"]], False, 0),
    ],
)
def test_the_text_column_and_a_header_are_guessed(
    service: RunningService, rows: list[list[str]], has_header: bool, column: int
) -> None:
    table = read(service, "\n".join(map(",".join, rows)))
    assert (table["header"] is not None, table["document_column"]) == (has_header, column)
    assert all_rows(table) == rows


# What is refused.


@pytest.mark.parametrize(
    ("content", "name", "status", "words"),
    [
        (b"PK\x03\x04 a zip, so a workbook", "book.xlsx", 415, "workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 an old one", "book.xls", 415, "book.xls is a workbook, not text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01", "a.csv", 415, "a.csv is not text"),
        (b"plain \x01\x02 but not text", "a.txt", 415, "not text"),
        (gzip.compress(b"a,b\n1,2\n"), "a.csv.gz", 415, "compressed"),
        (b"\xff\xfe\x00", "a.txt", 422, "not valid UTF-16-LE"),
        (b"PAR1 nothing else", "a.csv", 422, "a.csv"),
        (b"", "a.csv", 400, "the upload is empty; send the file as the body"),
    ],
)
def test_what_is_not_a_table_is_refused_without_a_path(
    service: RunningService, content: bytes, name: str, status: int, words: str
) -> None:
    with service.client() as client:
        answer = client.post("/api/read-file", params={"name": name}, content=content)
    message = assert_problem(answer, status)["message"]
    assert words in message
    assert "qwen-rerank-" not in message
    assert "--" not in message


@pytest.mark.parametrize(
    "parameters",
    [
        {"encoding": "nope"},
        {"delimiter": "ab"},
        {"delimiter": '"'},
        {"rows": "0"},
        {"rows": "100001"},
        {"rows": "many"},
        {"top_n": "1"},
        [("rows", "1"), ("rows", "2")],
    ],
)
def test_a_parameter_that_is_wrong_is_named(service: RunningService, parameters: Any) -> None:
    with service.client() as client:
        answer = client.post("/api/read-file", params=parameters, content=b"a")
    name = dict(parameters).popitem()[0]
    assert name in assert_problem(answer, 422)["message"]


def test_keys_and_limits_are_those_of_other_addresses(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-that-is-long-enough\n", "utf-8")
    settings: dict[str, Any] = {"api_keys_file": str(tmp_path / "keys"), "max_body_bytes": 100}
    with running_service(**settings) as running, running.client() as client:
        assert_problem(client.post("/api/read-file", content=b"a"), 401)
        headers = {"Authorization": "Bearer a-key-that-is-long-enough"}
        assert client.post("/api/read-file", content=b"a", headers=headers).status_code == 200
        for body in (b"a" * 101, iter([b"a" * 60, b"a" * 60])):
            assert_problem(client.post("/api/read-file", content=body, headers=headers), 413)
        packed = headers | {"Content-Encoding": "gzip"}
        assert_problem(client.post("/api/read-file", content=b"a", headers=packed), 415)
        assert_problem(client.get("/api/read-file", headers=headers), 405)


# What one client can take.


def test_rows_are_returned_up_to_a_limit(service: RunningService) -> None:
    text = "id,text\n" + "".join(f"{n},apple\n" for n in range(10))
    table = read(service, text, rows="4")
    assert ([row[0] for row in table["rows"]], table["num_rows"]) == (["0", "1", "2"], None)
    assert read(service, text, rows="11")["num_rows"] == 10


@pytest.mark.parametrize(
    ("limit", "value", "num_rows"), [("MAX_CELLS", 10, 5), ("MAX_ROWS", 3, 3), ("TIMEOUT_S", -1.0, 0)]
)
def test_cells_and_time_are_limited(
    service: RunningService, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, num_rows: int
) -> None:
    monkeypatch.setattr(files, limit, value)
    table = read(service, "1,2\n" * 100)
    assert (len(all_rows(table)), table["num_rows"]) == (num_rows, None)


def test_keys_of_objects_count_as_cells_of_every_row(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_CELLS", 100)
    table = read(service, "\n".join(f'{{"key{n}": {n}}}' for n in range(100)), "in.jsonl")
    assert (len(table["rows"]), len(table["header"])) == (10, 10)


def test_a_column_that_a_file_contains_once_does_not_fill_the_memory(
    service: RunningService, tmp_path: Path
) -> None:
    """A dictionary repeats 1 kB of text ten thousand times; the answer is at most as long as a body."""
    pq.write_table(pa.table({"text": ["x" * 1000] * 10_000}), tmp_path / "in.parquet")
    content = (tmp_path / "in.parquet").read_bytes()
    assert len(content) < 10_000
    table = read(service, content, "in.parquet")
    assert (len(table["rows"]), table["num_rows"]) == ((1 << 20) // 1000, None)


def test_a_row_that_is_too_long_is_rejected(service: RunningService, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x" * (2 << 20), "fine"]}), tmp_path / "in.parquet")
    table = read(service, (tmp_path / "in.parquet").read_bytes(), "in.parquet")
    assert (table["rows"], table["num_rows"]) == ([["fine"]], 1)
    assert table["rejected"] == [{"line": 1, "problem": f"longer than {1 << 20} characters"}]


def test_wide_parquet_is_decoded_in_pieces(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DECODED_CELLS", 7)
    rows = [{"a": str(n), "b": n} for n in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    table = read(service, (tmp_path / "in.parquet").read_bytes(), "in.parquet")
    assert table["rows"] == [[str(n), str(n)] for n in range(10)]


def test_requests_are_answered_while_a_file_is_read(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, started = threading.Event(), threading.Event()
    original = tables.read_table

    def slow(*args: Any, **kwargs: Any) -> Any:
        started.set()
        released.wait(30)
        return original(*args, **kwargs)

    monkeypatch.setattr(files, "read_table", slow)
    found: list[Any] = []
    readers = [threading.Thread(target=lambda: found.append(read(service, "a\n", "a.txt"))) for _ in range(3)]
    for reader in readers:
        reader.start()
    assert started.wait(10)
    assert service.rank().status_code == 200
    assert not found
    released.set()
    for reader in readers:
        reader.join(30)
    assert [table["rows"] for table in found] == [[["a"]]] * 3
    wait_for(lambda: service.service.admission.pending_bytes == 0)


def test_nothing_is_left_in_the_temporary_folder(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    read(service, "a,b\n1,2\n")
    with service.client() as client:
        client.post("/api/read-file", content=b"\xff\xfe\x00")
    assert list(tmp_path.iterdir()) == []
