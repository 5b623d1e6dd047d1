from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwen_rerank_plugins import ConfigurationError, InputError, Reranker
from qwen_rerank_plugins.batch import BatchOptions, Guess, run_batch
from qwen_rerank_plugins.batch.encodings import SAMPLE_BYTES, detect_encoding
from qwen_rerank_plugins.cli.app import app
from tests.batch.files import many_rows, read_jsonl, run, write_csv

CHINESE = [("怎么洗猫", "用温水和猫用香波轻轻地洗"), ("怎么洗猫", "今天股市下跌了百分之三")]
TRADITIONAL = [("怎麼洗貓", "用溫水和貓用洗髮精輕輕洗"), ("怎麼洗貓", "今天股市下跌了百分之三")]
WESTERN = [
    ("Größe der Tür", "Die Straße ist für „große“ Fahrzeuge gesperrt – 10 €"),
    ("café", "crème brûlée"),
]
JAPANESE = [("猫の洗い方", "ぬるま湯とシャンプーで優しく洗います")]
KOREAN = [("고양이 목욕", "따뜻한 물과 고양이 샴푸로 부드럽게 씻깁니다")]
RUSSIAN = [("как помыть кошку", "тёплой водой и кошачьим шампунем"), ("кошка", "Сегодня акции упали")]
TINY = [("猫", "狗")]


def table(rows: list[tuple[str, str]], delimiter: str = ",") -> str:
    return "".join(f"{delimiter.join(row)}\n" for row in [("query", "document"), *rows])


@pytest.mark.parametrize(
    ("rows", "encoding", "is_guess"),
    [
        (CHINESE, "gb18030", True),
        (TINY, "gb18030", True),
        ([("𠮷野家", "㐀㐁 " + "这是一家日本的快餐店" * 3)], "gb18030", True),
        (WESTERN, "cp1252", True),
        ([("tea", "a café")], "cp1252", True),
        (TRADITIONAL, "big5", True),
        (JAPANESE, "cp932", True),
        ([("猫", "犬")], "cp932", True),
        (KOREAN, "cp949", True),
        (RUSSIAN, "cp1251", True),
        (CHINESE, "utf-16-le", True),
        (CHINESE, "utf-16-be", True),
        (WESTERN, "utf-16-le", True),
        ([("q", "d")], "utf-16-be", True),
        (CHINESE, "utf-8", False),
        (WESTERN, "utf-8", False),
        ([("q", "d")], "utf-8", False),
    ],
)
def test_the_encoding_of_a_file_without_a_mark_is_detected(
    tmp_path: Path, rows: list[tuple[str, str]], encoding: str, is_guess: bool
) -> None:
    (tmp_path / "in.csv").write_bytes(table(rows).encode(encoding))
    assert detect_encoding(tmp_path / "in.csv") == (encoding, is_guess)
    run(tmp_path / "in.csv", tmp_path / "out.jsonl")
    assert [(row["query"], row["document"]) for row in read_jsonl(tmp_path / "out.jsonl")] == rows


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
        ("gb18030", b"\x84\x31\x95\x33"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_mark_names_the_encoding_and_is_not_text(
    tmp_path: Path, encoding: str, mark: bytes, packed: bool
) -> None:
    source = tmp_path / ("in.csv.gz" if packed else "in.csv")
    data = mark + table(CHINESE).replace("\n", "\r\n").encode(encoding)
    source.write_bytes(gzip.compress(data) if packed else data)
    assert detect_encoding(source) == (encoding, False)
    run(source, tmp_path / "out.jsonl")
    assert [row["document"] for row in read_jsonl(tmp_path / "out.jsonl")] == [text for _, text in CHINESE]


def test_an_encoding_that_shows_late_is_detected(tmp_path: Path) -> None:
    """The first 64 KiB are ASCII; the first text beyond ASCII is in GB18030, in the middle of the file."""
    rows = [("q", "x" * 1000)] * 200 + CHINESE + [("q", "x" * 1000)] * 100
    data = table(rows).encode("gb18030")
    assert data[:SAMPLE_BYTES].isascii()
    (tmp_path / "in.csv").write_bytes(data)
    run(tmp_path / "in.csv", tmp_path / "out.jsonl")
    assert [row["document"] for row in read_jsonl(tmp_path / "out.jsonl")] == [text for _, text in rows]


@pytest.mark.parametrize("shift", range(4))
def test_a_character_on_the_border_of_the_sample_is_not_an_error(tmp_path: Path, shift: int) -> None:
    rows = [("q" * (shift + 1), "今天股市下跌了" * 40)] * 300
    for encoding in ("gb18030", "utf-8", "utf-16-le"):
        (tmp_path / "in.csv").write_bytes(table(rows).encode(encoding))
        assert detect_encoding(tmp_path / "in.csv")[0] == encoding


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(range(128, 256)) * 40, "no encoding is plausible; name it with --encoding"),
        (b"PK\x03\x04\x14\0\x06", "is a workbook or an archive, not text"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is a workbook, not text"),
        (b"PAR1\x15\0", "is Parquet, not text"),
    ],
)
def test_what_is_not_plausibly_text_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "in.csv").write_bytes(data)
    with pytest.raises(InputError, match=message):
        run(tmp_path / "in.csv", tmp_path / "out.csv")


@pytest.mark.parametrize("place", [16, 17])
def test_a_few_zeros_do_not_make_text_utf16(tmp_path: Path, place: int) -> None:
    """All zeros are in one half of the units, as in UTF-16, but there are too few."""
    data = bytearray(table([("cats and dogs", "are animals")] * 9).encode())
    data[place] = 0
    (tmp_path / "in.csv").write_bytes(data)
    assert detect_encoding(tmp_path / "in.csv") == ("utf-8", False)


def test_zeros_in_both_halves_of_the_units_are_not_utf16(tmp_path: Path) -> None:
    """A column of a fixed width, padded with zeros."""
    rows = [(f"{text}\0\0\0\0", text) for text in ("猫用香波", "洗猫")] * 9
    (tmp_path / "in.csv").write_bytes(table(rows).encode("gb18030"))
    with pytest.raises(InputError, match="no encoding is plausible"):
        detect_encoding(tmp_path / "in.csv")
    (tmp_path / "in.csv").write_bytes(table(rows).encode())
    assert detect_encoding(tmp_path / "in.csv") == ("utf-8", False)


def test_units_that_are_no_characters_are_not_utf16(tmp_path: Path) -> None:
    data = "怎么洗猫\n".encode("utf-16-le") * 20 + b"\x00\xd8" + "洗\n".encode("utf-16-le")
    (tmp_path / "in.csv").write_bytes(data)
    with pytest.raises(InputError, match=r"encoding of .* is not known"):
        detect_encoding(tmp_path / "in.csv")


@pytest.mark.parametrize("num_rows", [5, 500])
def test_a_byte_that_an_encoding_does_not_have_excludes_it_wherever_it_is(
    tmp_path: Path, num_rows: int
) -> None:
    data = table(WESTERN * num_rows).encode("cp1252")
    for place in (30, len(data) // 2, len(data) - 3):
        (tmp_path / "in.csv").write_bytes(data[:place] + b"\x81" + data[place:])
        try:
            assert detect_encoding(tmp_path / "in.csv")[0] != "cp1252"
        except InputError as error:
            assert "is not known" in str(error)  # noqa: PT017 (either outcome is right)


def test_damage_in_utf8_is_a_bad_row_and_not_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(table(CHINESE * 3).encode() + b"q,caf\xe9\n")
    report = run(tmp_path / "in.csv", tmp_path / "out.jsonl", on_bad_row="reject")
    assert (report.num_written, report.num_rejected) == (6, 1)
    assert report.rejected is not None
    assert read_jsonl(report.rejected)[0]["reason"] == "not UTF-8: byte 0xe9 at character 4"


def test_a_byte_that_is_not_valid_in_a_guessed_encoding_is_a_bad_row_with_its_line(tmp_path: Path) -> None:
    rows = table(CHINESE * 1200).encode("gb18030")
    assert len(rows) > SAMPLE_BYTES
    (tmp_path / "in.csv").write_bytes(rows + b"q,\xff\xff\n" + b"q,d\n")
    report = run(tmp_path / "in.csv", tmp_path / "out.jsonl", on_bad_row="reject")
    assert report.rejected is not None
    (rejected,) = read_jsonl(report.rejected)
    assert (rejected["line"], rejected["text"]) == (2402, "q,\udcff\udcff\n")
    assert rejected["reason"] == "not GB18030: byte 0xff at character 1"
    assert report.num_written == 2401


@pytest.mark.parametrize("tail", [b"\x0a", b"\x00\xd8\n\0"])
def test_an_error_in_utf16_names_the_line_and_the_byte(tmp_path: Path, tail: bytes) -> None:
    (tmp_path / "in.csv").write_bytes(codecs.BOM_UTF16_LE + table(CHINESE).encode("utf-16-le") + tail)
    with pytest.raises(InputError, match=r"is not valid UTF-16-LE: byte 0x[0-9a-f]+ after line [0-3]"):
        run(tmp_path / "in.csv", tmp_path / "out.csv")


def test_an_option_names_the_encoding_and_the_superset_is_read(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(table(RUSSIAN).encode("koi8-r"))
    run(tmp_path / "in.csv", tmp_path / "out.jsonl", encoding="KOI8-R")
    assert read_jsonl(tmp_path / "out.jsonl")[0]["query"] == RUSSIAN[0][0]
    assert [BatchOptions(encoding=name).encoding for name in ("GBK", "latin1", "sjis", "utf8", "UTF-16")] == [
        "gb18030", "cp1252", "cp932", "utf-8", "utf-16",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["klingon", "base64", "rot13", "idna", "unicode_escape", "undefined", "", "a\0b"]
)
def test_what_is_not_a_text_encoding_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="encoding"):
        BatchOptions(encoding=name)


def test_a_guess_is_reported_with_three_texts_before_the_scoring(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(table([("cats", "x"), *CHINESE], ";").encode("gb18030"))
    guesses: list[Guess] = []
    with Reranker(backend="lexical") as reranker:
        run_batch(tmp_path / "in.csv", tmp_path / "out.csv", reranker=reranker, on_guess=guesses.append)
    (guess,) = guesses
    assert (guess.encoding, guess.delimiter) == ("gb18030", ";")
    assert str(guess) == (
        "encoding 'gb18030' and delimiter ';' guessed; the text reads '怎么洗猫', '用温水和猫用香波轻轻地洗', "
        "'今天股市下跌了百分之三'; correct it with --encoding or --delimiter"
    )


def test_the_command_prints_a_guess_and_takes_the_options(tmp_path: Path) -> None:
    source, target = tmp_path / "gbk.csv", tmp_path / "out.csv"
    source.write_bytes(table(CHINESE, "|").encode("gbk"))
    words = ["batch", str(source), str(target), "--backend", "lexical"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert "the text reads '怎么洗猫'" in result.stderr
    named = CliRunner().invoke(app, [*words, "--encoding", "gbk", "--delimiter", "|", "--overwrite"])
    assert named.exit_code == 0
    assert "guessed" not in named.stderr
    wrong = CliRunner().invoke(app, [*words, "--encoding", "utf-8", "--overwrite"])
    assert wrong.exit_code == 2


def test_a_resume_decodes_as_the_first_run_did(tmp_path: Path) -> None:
    source = write_csv(
        tmp_path / "in.csv", [*many_rows(40), {"id": "x", "query": "猫", "document": "狗"}], encoding="gbk"
    )
    calls = iter([False] * 3 + [True] * 1000)
    with Reranker(backend="lexical") as reranker:
        options = BatchOptions(call_pairs=2, window_rows=8, concurrency=1)
        stopped = run_batch(
            source, tmp_path / "out.jsonl", reranker=reranker, options=options, stop=lambda: next(calls)
        )
    assert stopped.status == "stopped"
    with pytest.raises(InputError, match="encoding was 'gb18030', is 'big5'"):
        run(source, tmp_path / "out.jsonl", resume=True, encoding="big5")
    run(source, tmp_path / "out.jsonl", resume=True)
    assert read_jsonl(tmp_path / "out.jsonl")[-1]["document"] == "狗"
