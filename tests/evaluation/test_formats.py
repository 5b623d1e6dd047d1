from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from qwen_rerank_plugins import InputError
from qwen_rerank_plugins.evaluation import load_dataset, load_files, load_rows, read_run
from qwen_rerank_plugins.evaluation.datasets.formats import read_corpus, read_qrels, read_queries
from tests.evaluation.collections import tiny, write_beir, write_jsonl


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_a_beir_folder_is_read_whole(tmp_path: Path) -> None:
    read = load_dataset(write_beir(tmp_path / "tiny", tiny()))
    assert read == tiny()


def test_gzipped_files_are_read_like_plain_ones(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "tiny", tiny())
    for path in [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"]:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_dataset(folder) == tiny()


def test_a_broken_archive_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"_id": "d", "text": "x"}\n')[:-12])
    with pytest.raises(InputError, match="not a complete gzip file"):
        read_corpus(path)


def test_title_and_text_are_one_document(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"_id": 7, "title": "Whales", "text": "sing"}])
    assert read_corpus(path) == {"7": "Whales sing"}


def test_trec_and_beir_judgements_give_the_same(tmp_path: Path) -> None:
    trec = write(tmp_path / "a", "q1 0 d1 2\nq1 0 d2 -2\n\nq2 Q0 d1 1.0\n")
    beir = write(tmp_path / "b.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\r\nq2\td1\t1\n")
    bare = write(tmp_path / "c.tsv", "q1\td1\t2\nq1\td2\t0\nq2\td1\t1\n")
    assert (
        read_qrels(trec)
        == read_qrels(beir)
        == read_qrels(bare)
        == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    )


def test_queries_and_documents_may_be_tab_separated(tmp_path: Path) -> None:
    queries = write(tmp_path / "q.tsv", "1\tblue whale\n2\t水壶\n")
    corpus = write(tmp_path / "c.tsv", "d1\twhale\n")
    qrels = write(tmp_path / "r", "1 0 d1 1\n")
    dataset = load_files(corpus=corpus, queries=queries, qrels=qrels)
    assert dataset.queries["2"].text == "水壶"
    assert dataset.corpus == {"d1": "whale"}


def test_mteb_rows_are_candidates_of_their_own_queries(tmp_path: Path) -> None:
    rows = [
        {"query": "a", "positive": ["x"], "negative": ["y"]},
        {"_id": "r", "query": ["b", "c"], "positive": ["y"], "negative": []},
    ]
    dataset = load_rows(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert dataset.corpus == {"text-1": "x", "text-2": "y"}
    assert dataset.qrels == {
        "row-1": {"text-1": 1, "text-2": 0}, "r-1": {"text-2": 1}, "r-2": {"text-2": 1},
    }  # fmt: skip
    assert dataset.candidates["row-1"] == ["text-1", "text-2"]


def test_brackets_and_empty_columns_of_tables_are_no_json_and_no_cells(tmp_path: Path) -> None:
    assert read_corpus(write(tmp_path / "c.tsv", "[1]\t[x]\n2\ty\n")) == {"[1]": "[x]", "2": "y"}
    qrels = write(tmp_path / "qrels", "query-id\tcorpus-id\tscore\t\t\n[q]\td\t1\t\t\n[q]\te\t0\n")
    assert read_qrels(qrels) == {"[q]": {"d": 1, "e": 0}}
    assert read_qrels(write(tmp_path / "bare", "[q] 0 d 1\n")) == {"[q]": {"d": 1}}
    assert read_run(write(tmp_path / "run", "[q] Q0 d 1 0.5 t\n")) == {"[q]": {"d": 0.5}}


def test_a_run_keeps_scores_and_not_ranks(tmp_path: Path) -> None:
    path = write(tmp_path / "run", "q1 Q0 d1 1 0.5 t\nq1 Q0 d2 9 0.75 t\n")
    assert read_run(path) == {"q1": {"d1": 0.5, "d2": 0.75}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "c.jsonl",
            '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n',
            "line 2: document 'a' is repeated",
        ),
        ("c.jsonl", '{"_id": "a"}\n', "line 1: no 'text', only '_id'"),
        ("c.jsonl", '\n{"text": "x"}\n', "line 2: no '_id' or"),
        ("c.jsonl", '{"_id": "a", "text": 3}\n', "line 1: 'text' must be a string, not int"),
        ("c.jsonl", '{"_id": true, "text": "x"}\n', "line 1: the id is not valid: True"),
        ("c.jsonl", "[1]\n", "line 1: the line must be a JSON object, not int"),
        ("c.jsonl", '{"_id": "a", "text": "x"}\n[1]\n', "line 2: the line must be a JSON object, not list"),
        ("c.jsonl", "{oops\n", "line 1: not valid JSON"),
        ("c.jsonl", '{"_id": "a", "text": "x", "text": "y"}\n', "line 1: key 3 of an object repeats"),
        ("c.tsv", "no tab\n", "line 1: no tab"),
    ],
)
def test_a_wrong_document_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_corpus(write(tmp_path / name, text))
    assert message in str(caught.value)


def test_a_line_that_is_not_valid_in_the_encoding_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "q.tsv"
    path.write_bytes("1\tgut\n2\tgrün\n".encode("latin-1"))
    with pytest.raises(InputError, match="line 2: not UTF-8: byte 0xfc"):
        read_queries(path, encoding="utf-8")


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-16-le", "utf-8-sig"])
def test_files_in_other_encodings_are_read_as_utf8_ones(
    tmp_path: Path, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    corpus, queries, qrels = tmp_path / "c.jsonl", tmp_path / "q.tsv", tmp_path / "r"
    corpus.write_bytes('{"_id": "d1", "text": "用温水和猫用香波轻轻地洗"}\n'.encode(encoding))
    queries.write_bytes("1\t怎么洗猫\n2\t今天股市\n".encode(encoding))
    qrels.write_bytes("1 0 d1 1\n".encode(encoding))
    for chosen in (None, encoding):
        caplog.clear()
        dataset = load_files(corpus=corpus, queries=queries, qrels=qrels, encoding=chosen)
        assert dataset.corpus == {"d1": "用温水和猫用香波轻轻地洗"}
        assert dataset.queries["1"].text == "怎么洗猫"
        guesses = encoding in {"gb18030", "utf-16-le"} and chosen is None
        sentence = f"encoding {encoding!r} guessed; the text reads {{}}; correct it with --encoding"
        for path, texts in (
            (corpus, "'用温水和猫用香波轻轻地洗', 'd1'"),
            (queries, "'怎么洗猫', '今天股市', '1'"),
        ):
            assert (f"{path}: {sentence.format(texts)}" in caplog.text) == guesses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 0 d1 1\nq1 0 d1 2\n", "line 2: query 'q1' and document 'd1' are judged twice"),
        ("q1 0 d1 much\n", "line 1: the grade is not valid: 'much'"),
        ("q1 0 d1 0.5\n", "line 1: the grade is not valid: '0.5'"),
        ("q1 d1\n", "line 1: 2 columns"),
    ],
)
def test_a_wrong_judgement_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_qrels(write(tmp_path / "qrels", text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 0.5 t\nq Q0 d 2 0.4 t\n", "line 2: document 'd' is repeated"),
        ("q Q0 d 1 nan t\n", "line 1: the score is not valid: 'nan'"),
        ("q Q0 d 1\n", "line 1: 4 columns"),
    ],
)
def test_a_wrong_run_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_run(write(tmp_path / "run", text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a", "positive": ["x"], "negative": ["x"]}, "a text is both positive and negative"),
        ({"query": " ", "positive": ["x"], "negative": []}, "'query' is not valid"),
        ({"query": "a", "positive": "x", "negative": []}, "'positive' is not valid"),
        ({"query": "a", "positive": ["x"]}, "no 'negative'"),
    ],
)
def test_a_wrong_row_is_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_rows(write_jsonl(tmp_path / "rows.jsonl", [row]))
    assert f"line 1: {message}" in str(caught.value)


def test_a_folder_without_judgements_says_what_it_looked_for(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "tiny", tiny())
    with pytest.raises(InputError, match=r"qrels/dev\.tsv or qrels\.tsv"):
        load_dataset(folder, split="dev")


def test_judgements_of_other_queries_are_refused(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "tiny", tiny())
    write(folder / "qrels" / "test.tsv", "other 0 d1 1\n")
    with pytest.raises(InputError, match="no judged query has a text"):
        load_dataset(folder)


def test_what_does_not_fit_together_is_counted(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "tiny", tiny())
    write(folder / "qrels" / "test.tsv", "q1 0 d1 1\nq1 0 gone 1\nlost 0 d1 0\n")
    facts = load_dataset(folder).facts()
    assert facts["queries_without_judgements"] == 1
    assert facts["judged_queries_without_text"] == 1
    assert facts["judged_queries_without_a_relevant_document"] == 1
    assert facts["judgements_of_unknown_documents"] == 1
