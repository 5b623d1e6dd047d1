"""Each kind of file in five variants, through every command and route that reads files: all read the same texts."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen_rerank_plugins.cli.documents import read_documents
from qwen_rerank_plugins.evaluation.datasets.formats import read_corpus, read_queries
from tests.batch.files import read_jsonl, run
from tests.service.jobs.uploads import Client, serving

TEXTS = ["用温水和猫用香波轻轻地洗", "今天股市下跌了百分之三"]
EUROPEAN = ["Die Straße ist für „große“ Fahrzeuge gesperrt", "crème brûlée"]
JAPANESE = ["ぬるま湯とシャンプーで優しく洗います", "今日は株価が下がりました"]
PLAIN = ["a, b; c", "1|5"]
CUT = ["cut \\ud83d", "fine \\ud83d\\ude00"]
REPAIRED = ["cut \ufffd", "fine 😀"]


class Case(NamedTuple):
    """A file and the documents in it.

    Attributes:
        name: The name of the file.
        data: Its content.
        documents: The documents.
        skipped: Entrances that do not take such a file.
    """

    name: str
    data: bytes
    documents: list[str]
    skipped: tuple[str, ...] = ()


def csv_text(
    documents: list[str], delimiter: str = ",", first: str = "", tails: tuple[str, ...] = ("",) * 3
) -> str:
    header = delimiter.join(("_id", "query", "document", *([""] if tails[0] else [])))
    rows = [delimiter.join((str(n), "q", f'"{text}"')) for n, text in enumerate(documents)]
    return first + "".join(f"{row}{tail}\r\n" for row, tail in zip([header, *rows], tails, strict=True))


def objects(documents: list[str]) -> list[dict[str, Any]]:
    return [{"_id": str(n), "query": "q", "document": text, "text": text} for n, text in enumerate(documents)]


def jsonl_text(documents: list[str]) -> str:
    return "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in objects(documents))


def array_text(documents: list[str], indent: int | None = None) -> str:
    return json.dumps(objects(documents), ensure_ascii=False, indent=indent)


NO_CSV = ("evaluate",)
ENCODINGS = [
    *(
        Case("a.csv", csv_text(TEXTS).encode(name), TEXTS, NO_CSV)
        for name in ("gb18030", "utf-16", "utf-16-be")
    ),
    Case("a.csv", csv_text(EUROPEAN).encode("cp1252"), EUROPEAN, NO_CSV),
    Case("a.csv", csv_text(JAPANESE).encode("cp932"), JAPANESE, NO_CSV),
    *(Case("a.jsonl", jsonl_text(TEXTS).encode(name), TEXTS) for name in ("gb18030", "utf-16", "utf-8-sig")),
    Case("a.jsonl", jsonl_text(EUROPEAN).encode("cp1252"), EUROPEAN),
    Case("a.jsonl", jsonl_text(JAPANESE).encode("cp932"), JAPANESE),
]
DELIMITERS = [
    *(
        Case(f"a.{suffix}", csv_text(PLAIN, mark).encode(), PLAIN, NO_CSV)
        for mark in ",\t;|"
        for suffix in ("csv", "tsv")
    ),
    Case("a.csv", csv_text(PLAIN, "~", first="sep=~\r\n").encode(), PLAIN, NO_CSV),
    Case("a.csv", csv_text(PLAIN, ";", first='"sep=;";;\n').encode("utf-16"), PLAIN, NO_CSV),
]
TAILS = [(",,", ",,", ",,"), (",", "", ","), (",,", "", ", , "), ("", ",,", ""), ("", ",,,,", ", ")]
EMPTY_COLUMNS = [
    *(Case("a.csv", csv_text(PLAIN, tails=tails).encode(), PLAIN, NO_CSV) for tails in TAILS),
    *(Case("a.tsv", f"0\t{PLAIN[0]}{tail}\n1\t{PLAIN[1]}\n".encode(), PLAIN, ("batch", "rank", "jobs")) for tail in
      ("\t", "\t\t", "\t\t\t", "\t\r", "\t\t\r")),
]  # fmt: skip
ARRAYS = [
    Case("a.json", array_text(TEXTS).encode(), TEXTS),
    Case("a.json", f"\ufeff\r\n {array_text(TEXTS, 2)}\n\n".encode(), TEXTS),
    Case("a.jsonl", array_text(TEXTS, 1).encode("gb18030"), TEXTS),
    Case("a.json", "\n".join(json.dumps(one, indent=1) for one in objects(TEXTS)).encode(), TEXTS),
    Case("a.json", array_text(TEXTS, 1).encode("utf-16"), TEXTS),
    Case("a.json.gz", gzip.compress(array_text(TEXTS).encode()), TEXTS, ("jobs",)),
]
LONE_SURROGATES = [
    Case("a.jsonl", jsonl_text(CUT).replace("\\\\u", "\\u").encode(), REPAIRED),
    Case("a.json", array_text(CUT).replace("\\\\u", "\\u").encode(), REPAIRED),
    Case("a.json", array_text(CUT, 1).replace("\\\\u", "\\u").encode(), REPAIRED),
    Case("a.jsonl", jsonl_text(CUT).replace("\\\\ud", "\\uD").encode("utf-16"), REPAIRED),
    Case(
        "a.jsonl",
        jsonl_text([TEXTS[0], CUT[0]]).replace("\\\\u", "\\u").encode("gb18030"),
        [TEXTS[0], REPAIRED[0]],
    ),
]
CASES = {
    f"{kind}-{number}": case
    for kind, cases in {
        "encoding": ENCODINGS,
        "delimiter": DELIMITERS,
        "empty-columns": EMPTY_COLUMNS,
        "array": ARRAYS,
        "surrogate": LONE_SURROGATES,
    }.items()
    for number, case in enumerate(cases, start=1)
}


def cases(entrance: str) -> pytest.MarkDecorator:
    taken = {name: case for name, case in CASES.items() if entrance not in case.skipped}
    return pytest.mark.parametrize("case", taken.values(), ids=taken)


def written(folder: Path, case: Case) -> Path:
    path = folder / case.name
    path.write_bytes(case.data)
    return path


@cases("batch")
def test_batch(tmp_path: Path, case: Case) -> None:
    run(written(tmp_path, case), tmp_path / "out.jsonl")
    assert [row["document"] for row in read_jsonl(tmp_path / "out.jsonl")] == case.documents


@cases("rank")
def test_rank(tmp_path: Path, case: Case) -> None:
    found = read_documents(str(written(tmp_path, case)), input_format=None, text_field="document")
    assert found.texts == case.documents


@cases("evaluate")
def test_evaluate(tmp_path: Path, case: Case) -> None:
    path = written(tmp_path, case)
    queries = [query.text for query in read_queries(path).values()]
    assert queries == [*read_corpus(path).values()]
    assert [text.replace("\ud83d", "\ufffd") for text in queries] == case.documents


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(tmp_path_factory.mktemp("jobs"), jobs_max_per_key=1000) as (_, client):
        yield client


BINARY = {"Content-Type": "application/octet-stream"}


@pytest.mark.loopback
@cases("jobs")
def test_jobs(client: Client, case: Case) -> None:
    job = client.wait(client.upload(case.data, BINARY, name=case.name, output_format="jsonl"))
    assert job["problem"] is None
    rows = [json.loads(line) for line in client.result(job["id"]).content.decode().splitlines()]
    assert [row["document"] for row in rows] == case.documents
    assert (job["num_warned"] > 0) == ("\ufffd" in "".join(case.documents))


# ----------------------------------------------------------------------------------- output of an earlier run

EARLIER: list[tuple[str, dict[str, Any]]] = [
    ("first.csv", {}),
    ("first.csv", {"delimiter": ";", "bom": True, "details": True}),
    ("first.tsv", {"details": True}),
    ("first.jsonl", {"details": True}),
    ("first.parquet", {"details": True}),
    ("first.csv.gz", {}),
]


@pytest.fixture
def earlier(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The output of a run over a table of two documents."""
    name, options = request.param
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(objects(TEXTS)), source)
    run(source, tmp_path / name, **options)
    return Path(tmp_path, name)


@pytest.mark.parametrize("earlier", EARLIER, indirect=True, ids=str)
def test_batch_ranks_the_output_of_an_earlier_run(tmp_path: Path, earlier: Path) -> None:
    run(earlier, tmp_path / "out.jsonl", replace_columns=True, details=True)
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [(row["document"], row["rank"]) for row in rows] == [(TEXTS[0], 1), (TEXTS[1], 2)]


@pytest.mark.parametrize(
    "earlier", [one for one in EARLIER if one[0] != "first.parquet"], indirect=True, ids=str
)
def test_rank_reads_the_output_of_an_earlier_run(earlier: Path) -> None:
    assert read_documents(str(earlier), input_format=None, text_field="document").texts == TEXTS


@pytest.mark.parametrize(
    "earlier", [("first.jsonl", {"details": details}) for details in (False, True)], indirect=True
)
def test_evaluate_reads_the_output_of_an_earlier_run(earlier: Path) -> None:
    assert [*read_corpus(earlier).values()] == TEXTS


@pytest.mark.loopback
@pytest.mark.parametrize(
    "earlier", [one for one in EARLIER if one[0] != "first.csv.gz"], indirect=True, ids=str
)
def test_jobs_rank_the_output_of_an_earlier_run(client: Client, earlier: Path) -> None:
    parameters = {"name": earlier.name, "output_format": "jsonl", "details": "true"}
    refused = client.wait(client.upload(earlier.read_bytes(), BINARY, **parameters))
    assert re.search("already has .*'rank', 'relevance_score'", refused["problem"]["message"])
    job = client.wait(client.upload(earlier.read_bytes(), BINARY, replace_columns="true", **parameters))
    assert job["problem"] is None
    rows = [json.loads(line) for line in client.result(job["id"]).content.decode().splitlines()]
    assert [(row["document"], row["rank"]) for row in rows] == [(TEXTS[0], 1), (TEXTS[1], 2)]
