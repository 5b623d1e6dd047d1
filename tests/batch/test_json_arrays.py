from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_rerank_plugins import InputError
from qwen_rerank_plugins.batch import elements
from qwen_rerank_plugins.batch.elements import JsonElements
from qwen_rerank_plugins.batch.streams import LineTooLongError
from tests.batch.files import PAIRS, read_jsonl, run

DOCUMENTS = ['[{"a": "\\\\"}, "]"', "x\\", "猫\u2028", '""', ", ]"]
ROWS = [{"query": "q", "document": text, "n": {"m": [1, []]}} for text in DOCUMENTS]


def documents_of(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    run(path, path.with_name("out.jsonl"), overwrite=True)
    return [row["document"] for row in read_jsonl(path.with_name("out.jsonl"))]


@pytest.mark.parametrize("name", ["in.json", "in.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_as_its_elements(tmp_path: Path, name: str, indent: int | None) -> None:
    text = json.dumps(ROWS, indent=indent, ensure_ascii=False)
    assert documents_of(tmp_path / name, text) == DOCUMENTS
    assert documents_of(tmp_path / name, f"\ufeff\r\n {text}\r\n\n") == DOCUMENTS


@pytest.mark.parametrize("indent", [None, 2])
def test_values_of_a_json_file_may_span_lines(tmp_path: Path, indent: int | None) -> None:
    text = "\n".join(json.dumps(row, indent=indent, ensure_ascii=False) for row in ROWS)
    assert documents_of(tmp_path / "in.json", text) == DOCUMENTS


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030"])
def test_an_array_may_be_packed_and_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    text = json.dumps(
        [{"query": "怎么洗猫", "document": "用温水和猫用香波轻轻地洗"}], indent=1, ensure_ascii=False
    )
    (tmp_path / "in.json.gz").write_bytes(gzip.compress(text.encode(encoding)))
    run(tmp_path / "in.json.gz", tmp_path / "out.jsonl")
    assert read_jsonl(tmp_path / "out.jsonl")[0]["query"] == "怎么洗猫"


def test_an_element_keeps_every_character_and_gets_its_line(tmp_path: Path) -> None:
    text = '[\n  {"query": "q",\n   "document": "d", "n": 1.10},\n  {"query": 3, "document": "d"}\n]'
    (tmp_path / "in.json").write_text(text, encoding="utf-8")
    report = run(tmp_path / "in.json", tmp_path / "out.jsonl", on_bad_row="reject")
    out = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert out.startswith('{"query": "q",    "document": "d", "n": 1.10, "relevance_score"')
    assert report.rejected is not None
    assert read_jsonl(report.rejected)[0]["line"] == 4


@pytest.mark.parametrize(
    ("text", "num_written", "reason"),
    [
        ("[GOOD, 3, GOOD]", 2, "the row must be a JSON object, not int"),
        ("[GOOD, [GOOD], GOOD]", 2, "the row must be a JSON object, not list"),
        ("[GOOD, {oops}, GOOD]", 2, "not valid JSON"),
        ("[GOOD, GOOD", 2, "not valid JSON"),
        ("[GOOD, {", 1, "not valid JSON"),
        ('[GOOD, {"query": "never closed, GOOD]', 1, "not valid JSON"),
        ("[GOOD] tail", 1, "not valid JSON"),
        ("[GOOD]]", 1, "not valid JSON"),
        ("[GOOD, LONG, GOOD]", 2, "longer than 2000 characters"),
    ],
)
def test_a_bad_element_is_rejected_and_nothing_is_lost(
    tmp_path: Path, text: str, num_written: int, reason: str
) -> None:
    good = json.dumps(PAIRS[0])
    source = tmp_path / "in.json"
    source.write_text(
        text.replace("GOOD", good).replace("LONG", json.dumps({"query": "x" * 3000})), encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"row \d"):
        run(source, tmp_path / "out.jsonl", max_row_chars=2000)
    report = run(source, tmp_path / "out.jsonl", max_row_chars=2000, on_bad_row="reject", overwrite=True)
    assert report.rejected is not None
    reasons = [row["reason"] for row in read_jsonl(report.rejected)]
    assert report.num_written == num_written
    assert len(reasons) == 1
    assert reason in reasons[0]


@pytest.mark.parametrize("text", ["[]", " [ \n ] ", "[,]"])
def test_an_empty_array_has_no_rows(tmp_path: Path, text: str) -> None:
    assert documents_of(tmp_path / "in.json", text) == []


VALUES: Any = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 1]), st.integers(1, 9))
def test_elements_are_those_that_json_reads(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], indent: int | None, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(json.dumps(values, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elements, "BLOCK_CHARS", block)
        with JsonElements(path, encoding="utf-8", max_chars=1 << 20, is_array=True) as found:
            assert [json.loads(element) for element in found] == values


def test_memory_does_not_grow_with_the_array(tmp_path: Path) -> None:
    row = json.dumps({"query": "q", "document": "x" * 1000})
    (tmp_path / "in.json").write_text(f"[{','.join([row] * 8000)}]", encoding="utf-8")
    tracemalloc.start()
    with JsonElements(tmp_path / "in.json", encoding="utf-8", max_chars=1 << 20, is_array=True) as found:
        assert sum(1 for _ in found) == 8000
    assert tracemalloc.get_traced_memory()[1] < 4e6  # the file has 8 MB
    tracemalloc.stop()


@pytest.mark.parametrize("block_chars", range(1, 12))
def test_an_escape_on_the_border_of_two_blocks_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_chars: int
) -> None:
    """A quote behind a backslash does not end a string, wherever the blocks are cut."""
    monkeypatch.setattr(elements, "BLOCK_CHARS", block_chars)
    values = [{"a": '"], "'}, {"b": "\\"}, {"c": '\\", ['}]
    (tmp_path / "in.json").write_text(json.dumps(values), encoding="utf-8")
    with JsonElements(tmp_path / "in.json", encoding="utf-8", max_chars=100, is_array=True) as lines:
        assert [json.loads(line) for line in lines] == values


def test_a_long_element_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "BLOCK_CHARS", 10)
    (tmp_path / "in.json").write_text(json.dumps(["x" * 1000, "y"]), encoding="utf-8")
    with JsonElements(tmp_path / "in.json", encoding="utf-8", max_chars=50, is_array=True) as lines:
        held = []
        add = lines._add

        def adding(text: str) -> None:
            add(text)
            held.append(sum(map(len, lines._parts)))

        monkeypatch.setattr(lines, "_add", adding)
        with pytest.raises(LineTooLongError):
            next(lines)
        assert json.loads(next(lines)) == "y"
    assert len(held) > 90
    assert max(held) <= 50
