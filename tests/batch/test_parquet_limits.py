"""Small Parquet files that decode to a lot of text: dictionaries and run lengths repeat a value for a few bits."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen_rerank_plugins import InputError
from qwen_rerank_plugins.batch import BatchOptions, parquet
from qwen_rerank_plugins.batch.parquet import ParquetSource
from qwen_rerank_plugins.batch.parquet_pages import read_pages
from tests.batch.files import read_jsonl, run

LONG = "word " * 80_000


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def repeated(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))


@pytest.mark.parametrize("for_scoring", [True, False])
@pytest.mark.parametrize(
    "columns",
    [
        {"query": ["q"] * 900, "document": repeated(LONG, 900)},
        {"query": repeated(LONG, 900), "document": ["d"] * 900},
        {"query": ["q"] * 90, "documents": [[LONG] * 10] * 90},
        {"query": ["q"] * 90, "documents": [[{"text": LONG, "n": 1}] * 10] * 90},
        {"query": ["q"] * 900, "document": ["d"] * 900, "note": repeated(LONG, 900)},
        {"query": ["q"] * 90, "document": ["d"] * 90, "tags": [[[LONG], [LONG] * 9]] * 90},
    ],
)
def test_rows_that_share_a_long_string_are_decoded_a_few_at_a_time(
    tmp_path: Path, columns: dict[str, Any], for_scoring: bool
) -> None:
    """722 bytes took 1.2 GB: 900 rows with one string of 400,000 characters."""
    source = ParquetSource(write(tmp_path / "in.parquet", columns, compression="zstd"), BatchOptions())
    assert (tmp_path / "in.parquet").stat().st_size < 6000
    tracemalloc.start()
    allocated = pa.total_allocated_bytes()
    num_rows = 0
    for chunk in source.chunks(for_scoring=for_scoring):
        num_rows += len(chunk.rows)
        assert sum(len(text) for row in chunk.rows for text in (row.query, *row.texts)) <= 8 << 20
        assert pa.total_allocated_bytes() - allocated < 30e6
    assert num_rows == len(columns["query"])
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


@pytest.mark.parametrize("documents", [[LONG] * 3, [[LONG] * 3], [{"text": LONG}] * 3])
def test_a_row_above_the_limit_is_rejected_without_its_content(tmp_path: Path, documents: list[Any]) -> None:
    in_lists = not isinstance(documents[0], str)
    name = "documents" if in_lists else "document"
    values = [["d"], documents, ["e"]] if in_lists else ["d", LONG, "e"]
    if in_lists and isinstance(documents[0], list):
        values = [["d"], documents[0], ["e"]]
    if in_lists and isinstance(documents[0], dict):
        values = [[{"text": "d"}], documents, [{"text": "e"}]]
    source = write(tmp_path / "in.parquet", {"query": ["q"] * 3, name: values})
    with pytest.raises(InputError, match=r"line 2 \(row 2\): longer than 100000 characters"):
        run(source, tmp_path / "out.jsonl", max_row_chars=100_000)
    for suffix in ("jsonl", "parquet", "csv"):
        report = run(
            source, tmp_path / f"out.{suffix}", max_row_chars=100_000, on_bad_row="reject", overwrite=True
        )
        assert report.rejected is not None
        (rejected,) = read_jsonl(report.rejected)
        assert rejected == {
            "line": 2, "row": 2, "reason": "longer than 100000 characters", "text": "",
        }  # fmt: skip
        assert report.num_written == 2


def test_a_list_of_very_many_empty_texts_is_too_long(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"query": ["q", "q"], "documents": [[""] * 100_000, ["d"]]})
    report = run(source, tmp_path / "out.jsonl", max_row_chars=100_000, on_bad_row="reject")
    assert (report.num_written, report.num_rejected) == (1, 1)


def test_a_row_that_is_long_in_another_column_ends_the_job(tmp_path: Path) -> None:
    columns = {"query": ["q"] * 2, "document": ["d"] * 2, "note": ["n", LONG]}
    with pytest.raises(
        InputError, match="row 2 is longer than 1000 characters in columns that scoring does not"
    ):
        run(write(tmp_path / "in.parquet", columns), tmp_path / "out.jsonl", max_row_chars=1000)


def test_a_footer_of_very_many_columns_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"query": ["q"], "document": ["d"], **{f"c{number}": [1] for number in range(300)}}
    source = write(tmp_path / "in.parquet", columns)
    monkeypatch.setattr(parquet, "MAX_FOOTER_ITEMS", 200)
    with pytest.raises(InputError, match="file cannot be read"):
        run(source, tmp_path / "out.jsonl")
    monkeypatch.setattr(parquet, "MAX_FOOTER_BYTES", 1000)
    with pytest.raises(InputError, match=r"has a footer of \d+ bytes; at most 1000 are read"):
        run(source, tmp_path / "out.jsonl")


def test_a_row_group_of_very_many_values_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.parquet", {"query": ["q"], "documents": [["d"] * 500]})
    monkeypatch.setattr(parquet, "MAX_LIST_VALUES", 400)
    with pytest.raises(InputError, match=r"has 500 values of 'documents\.list\.element' in a row group"):
        run(source, tmp_path / "out.jsonl")
    flat = write(tmp_path / "flat.parquet", {"query": ["q"] * 500, "document": ["d"] * 500})
    run(flat, tmp_path / "flat.jsonl")
    monkeypatch.setattr(parquet, "MAX_VALUES", 400)
    with pytest.raises(InputError, match=r"has 500 values of 'query' in a row group; at most 400 are read"):
        run(flat, tmp_path / "flat.csv")


BOMBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"document": [LONG * 400]}, {"use_dictionary": False}),
    "dictionary": ({"document": [LONG * 400]}, {"dictionary_pagesize_limit": 1 << 40}),
    "list": ({"documents": [[LONG * 400]]}, {}),
    "struct": ({"documents": [[{"text": LONG * 400}]]}, {}),
    "bytes elsewhere": ({"document": ["d"], "raw": [LONG.encode() * 400]}, {}),
    "version 2": ({"document": [LONG * 400]}, {"data_page_version": "2.0"}),
}


@pytest.mark.parametrize(
    ("name", "codec"), [*((name, "zstd") for name in BOMBS), ("plain", "gzip"), ("plain", "brotli")]
)
def test_a_page_that_decompresses_to_very_much_is_refused_without_decompressing_it(
    tmp_path: Path, name: str, codec: str
) -> None:
    """2,254 bytes took 1.5 GB, and 2,267 bytes as a dictionary 5.2 GB."""
    columns, options = BOMBS[name]
    source = write(tmp_path / "in.parquet", {"query": ["q"], **columns}, compression=codec, **options)
    assert source.stat().st_size < 400_000
    allocated = pa.total_allocated_bytes()
    with pytest.raises(
        InputError, match=r"has pages of \d+ bytes, decompressed, in one row group; at most 134217728"
    ):
        ParquetSource(source, BatchOptions())
    assert pa.total_allocated_bytes() - allocated < 1e6


def test_pages_of_all_columns_count_together_and_only_the_largest_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_PAGE_BYTES", 60_000)
    rows = [f"{number:05}" for number in range(20_000)]
    one = {"query": rows, "document": rows}
    options = {
        "use_dictionary": False,
        "data_page_size": 10_000,
        "compression": "none",
        "write_batch_size": 100,
    }
    assert run(write(tmp_path / "in.parquet", one, **options), tmp_path / "out.jsonl").num_rows == 20_000
    more = {**one, **{f"c{number}": rows for number in range(4)}}
    with pytest.raises(InputError, match="decompressed, in one row group; at most 60000 are read"):
        run(write(tmp_path / "more.parquet", more, **options), tmp_path / "more.jsonl")


def test_sizes_come_from_the_pages_and_not_from_the_footer(tmp_path: Path) -> None:
    """A header with long statistics, whose numbers take several bytes; damage in it is reported."""
    texts = ["a" * 3000, "z" * 5000, *(f"{number} {'m' * 900}" for number in range(4000))]
    source = write(tmp_path / "in.parquet", {"query": texts, "document": texts}, use_dictionary=False)
    chunk = pq.read_metadata(source).row_group(0).column(1)
    with source.open("rb") as file:
        found = list(read_pages(file, chunk.data_page_offset, chunk.total_compressed_size, chunk.num_values))
    assert sum(page.num_values for page in found) == len(texts)
    assert sum(page.num_bytes for page in found) == pytest.approx(
        sum(len(text) + 4 for text in texts), rel=0.01
    )
    data = bytearray(source.read_bytes())
    for damage in (
        b"\xff" * 12,
        b"\x15\x04\x15\x01\x15\x01\x00",
        b"\x19" * 12,
        b"\x18\xff\xff\xff\x7f",
        b"\x1c" * 99,
    ):
        data[chunk.data_page_offset : chunk.data_page_offset + len(damage)] = damage
        (tmp_path / "bad.parquet").write_bytes(data)
        with pytest.raises(InputError, match=r"file cannot be read: .*page header"):
            run(tmp_path / "bad.parquet", tmp_path / "bad.jsonl", overwrite=True)


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_strings_that_repeat_their_page_are_read_a_few_rows_at_a_time(tmp_path: Path, encoding: str) -> None:
    texts = [f"{'a' * 1_000_000}{number}" for number in range(300)]
    options = {"use_dictionary": False, "compression": "zstd", "data_page_size": 1 << 30}
    source = write(
        tmp_path / "in.parquet",
        {"query": ["q"] * 300, "document": texts},
        column_encoding={"document": encoding},
        **options,
    )
    if encoding == "DELTA_LENGTH_BYTE_ARRAY":
        with pytest.raises(InputError, match="decompressed, in one row group"):
            ParquetSource(source, BatchOptions())
        return
    allocated, found = pa.total_allocated_bytes(), []
    for chunk in ParquetSource(source, BatchOptions()).chunks(for_scoring=True):
        assert pa.total_allocated_bytes() - allocated < 400e6
        found += [row.texts[0][1_000_000:] for row in chunk.rows]
    assert found == [text[1_000_000:] for text in texts]
    lists = {"query": ["q"], "documents": [texts[:3]]}
    write(source, lists, column_encoding={"documents.list.element": encoding}, **options)
    with pytest.raises(InputError, match=r"has delta encoding in lists: 'documents\.list\.element'"):
        ParquetSource(source, BatchOptions())


def test_too_many_columns_and_a_packed_file_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"query": ["q"], "document": ["d"], **{f"c{number}": [1] for number in range(30)}}
    source = write(tmp_path / "in.parquet", columns)
    monkeypatch.setattr(parquet, "MAX_COLUMNS", 31)
    with pytest.raises(InputError, match="has 32 columns; at most 31 are read"):
        run(source, tmp_path / "out.jsonl")
    (tmp_path / "in.parquet.gz").write_bytes(gzip.compress(source.read_bytes()))
    with pytest.raises(InputError, match="is compressed with gzip; unpack it"):
        run(tmp_path / "in.parquet.gz", tmp_path / "out.jsonl")


def test_every_type_comes_back_as_it_was(tmp_path: Path) -> None:
    """Strings are read as dictionaries, across row groups with different dictionaries, and are written with their own types."""
    count = 50
    texts = [f"text {number % 7}" for number in range(count)]
    table = pa.table(
        {
            "query": pa.array(texts).dictionary_encode(),
            "document": pa.array([None if text == "text 3" else text for text in texts], pa.large_string()),
            "nested": pa.array([[{"text": text, "raw": b"\xff"}, None] for text in texts]),
            "map": pa.array([[("k", text)] for text in texts], pa.map_(pa.string(), pa.string())),
            "fixed": pa.array([[text, "x"] for text in texts], pa.list_(pa.string(), 2)),
            "empty": pa.array([[], None] * (count // 2), pa.list_(pa.string())),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=9)
    report = run(tmp_path / "in.parquet", tmp_path / "out.parquet", on_bad_row="reject", window_rows=4)
    expected = table.filter(table["document"].is_valid())
    assert report.num_written == expected.num_rows
    written = pq.read_table(tmp_path / "out.parquet").select(table.schema.names)
    assert written.to_pylist() == expected.to_pylist()
    assert written.schema.equals(pq.read_schema(tmp_path / "in.parquet"))
