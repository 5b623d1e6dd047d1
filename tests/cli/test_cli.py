from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner, Result

import qwen_rerank_plugins
import qwen_rerank_plugins.reranker as reranker_module
from qwen_rerank_plugins import EngineError, PairScore, RerankConfig
from qwen_rerank_plugins.cli.app import app
from qwen_rerank_plugins.cli.options import DEMO_NOTICE
from qwen_rerank_plugins.types import logistic
from tests.calibrations import OFFSET, SLOPE, fit, write_calibration
from tests.doubles import FakeScorer

ROOT = Path(qwen_rerank_plugins.__file__).parent.parent

MAX_HELP_MODULES = 420
DOCUMENTS = "a red fox\n\nthe blue whale sings\nblue sky\n"


def _run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def _lexical(*arguments: str, stdin: str | bytes | None = DOCUMENTS) -> Result:
    return _run("rank", "blue whale", "--backend", "lexical", *arguments, stdin=stdin)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the scorer that the settings select by a fake."""

    def install(**options: Any) -> None:
        def build(config: RerankConfig, *, shared: bool = False) -> FakeScorer:
            return FakeScorer(**options)

        monkeypatch.setattr(reranker_module, "build_scorer", build)

    return install


# rank


def test_the_table_shows_rank_score_index_and_text() -> None:
    result = _lexical()
    assert result.exit_code == 0
    rows = [line.split(maxsplit=3) for line in result.stdout.splitlines()]
    assert [(row[0], row[2], row[3].strip()) for row in rows[1:]] == [
        ("1", "1", "the blue whale sings"),
        ("2", "2", "blue sky"),
        ("3", "0", "a red fox"),
    ]
    assert result.stderr == "blank lines skipped: 1\n"


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_the_score_is_whole_in_a_terminal_of_any_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long = "blue whale " + "Donaudampfschifffahrt " * 20
    result = _lexical(stdin=f"{long}\n蓝鲸{long}\n")
    rows = [line.split() for line in result.stdout.splitlines() if line[:4].strip()]
    assert rows[0][:3] == ["rank", "score", "index"]
    assert [(row[0], row[2]) for row in rows[1:]] == [("1", "0"), ("2", "1")]
    assert all(re.fullmatch(r"0\.\d{4}", row[1]) for row in rows[1:])
    assert max(map(cell_len, result.stdout.splitlines())) <= columns


def test_json_keeps_its_schema_and_is_ascii() -> None:
    result = _lexical("--format", "json", "--top-n", "1", stdin="blue 鲸 whale\nnone\n")
    assert result.stdout.isascii()
    answer = json.loads(result.stdout)
    assert list(answer) == [
        "query", "model", "status", "error", "num_documents", "num_blank_lines", "usage", "results",
    ]  # fmt: skip
    assert answer["usage"] == {"num_pairs": 2, "num_tokens": 8, "num_cached_pairs": 0}
    (row,) = answer["results"]
    assert list(row) == [
        "rank", "index", "relevance_score", "log_odds", "truncated", "query_truncated", "span",
        "warnings", "document",
    ]  # fmt: skip
    assert (row["rank"], row["index"], row["document"], row["span"]) == (1, 0, "blue 鲸 whale", None)


def test_a_calibrated_ranking_says_so_in_json(tmp_path: Path) -> None:
    path = write_calibration(tmp_path, fit("mine"))
    for instruction in ("mine", "other"):
        given = ("--calibration", path, "--instruction", instruction, "--format", "json")
        answer = json.loads(_lexical(*given, stdin="blue\n").stdout)
        assert answer["calibrated"] is (instruction == "mine")
        expected = SLOPE * 1.0 + OFFSET if instruction == "mine" else 1.0
        assert answer["results"][0]["relevance_score"] == pytest.approx(logistic(expected))


def test_jsonl_is_one_result_a_line_with_the_whole_record() -> None:
    lines = '{"body": "sky", "id": 1}\n{"body": "blue whale", "id": 2}\n'
    result = _lexical("--format", "jsonl", "--input-format", "jsonl", "--text-field", "body", stdin=lines)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["index"], row["document"]["id"]) for row in rows] == [(1, 2), (0, 1)]


def test_threshold_and_cut_hold() -> None:
    rows = _lexical("--format", "jsonl", "--min-score", "0.5", "-n", "1").stdout.splitlines()
    assert [json.loads(row)["index"] for row in rows] == [1]


def test_documents_are_data_in_the_table_never_markup_or_control_characters(
    fake: Callable[..., None],
) -> None:
    fake(score_one=lambda request: PairScore(0.5))
    text = "[red]fox[/red] :smile: \x1b[31m \x07 end"
    result = _run("rank", "q", "--model", "any", stdin=text)
    assert "[red]fox[/red] :smile: \ufffd[31m \ufffd end" in result.stdout


def test_truncation_and_passages_are_marked_in_the_table(fake: Callable[..., None]) -> None:
    scores = {"long text": PairScore(0.9, truncated=True), "a passage here": PairScore(0.5, span=(2, 9))}
    fake(score_one=lambda request: scores[request.document])
    lines = _run("rank", "q", "--model", "any", stdin="long text\na passage here\n").stdout.splitlines()
    assert lines[1].rstrip().endswith("[truncated] long text")
    assert lines[2].rstrip().endswith("[passage 2-9] passage")


def test_a_lone_surrogate_in_json_is_printed_as_a_replacement() -> None:
    result = _lexical("--input-format", "jsonl", stdin='"blue \\ud800 whale"\n')
    assert (result.exit_code, "blue \ufffd whale" in result.stdout) == (0, True)


def test_no_documents_are_an_empty_result() -> None:
    result = _lexical(stdin="")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no documents\n")
    assert json.loads(_lexical("--format", "json", stdin="").stdout)["results"] == []
    assert _lexical("--min-score", "1.0").stderr.endswith("no document reaches `min_score`\n")


def test_the_demo_model_is_announced(fake: Callable[..., None]) -> None:
    fake(score_one=lambda request: PairScore(0.5))
    demo = _run("rank", "q", "--model", "demo", stdin="a\n")
    assert " ".join(demo.stderr.split()) == DEMO_NOTICE
    assert "DEMO" not in demo.stdout
    assert _run("rank", "q", "--model", "other", stdin="a\n").stderr == ""


def test_a_result_that_is_not_ranked_is_marked(
    fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(error=EngineError("out of order"))
    monkeypatch.setenv("QWEN_RERANK_ON_ERROR", "keep_order")
    failed = _run("rank", "q", stdin="b\na\n")
    assert "not ranked, documents are in input order: EngineError: out of order" in failed.stderr
    assert [line.split()[1:] for line in failed.stdout.splitlines()[1:]] == [["-", "0", "b"], ["-", "1", "a"]]
    monkeypatch.setenv("QWEN_RERANK_ENABLED", "false")
    assert (
        "not ranked, documents are in input order: `enabled` is false"
        in _run("rank", "q", stdin="a\n").stderr
    )


def test_settings_come_from_a_file_under_the_options(tmp_path: Path) -> None:
    path = tmp_path / "rerank.toml"
    path.write_text('backend = "lexical"\ntop_n = 1\n', encoding="utf-8")
    for extra, expected in (([], 1), (["--top-n", "2"], 2)):
        result = _run("rank", "q", "--config", str(path), "--format", "jsonl", *extra, stdin="a\nb\nc\n")
        assert len(result.stdout.splitlines()) == expected


@pytest.mark.parametrize(
    ("hub", "address"), [("huggingface", "https://huggingface.co"), ("modelscope", "https://modelscope.cn")]
)
@pytest.mark.parametrize(
    "command",
    [
        ["rank", "q"],
        ["doctor"],
        ["bench"],
        ["evaluate"],
        ["batch", "{}", "out.jsonl"],
    ],
)
def test_every_command_with_a_model_asks_the_hub_that_is_named(
    command: list[str], hub: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests are offline, so that the hub's name and address are in the error."""
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "q", "document": "d"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = [part.format(pairs) for part in command]
    result = _run(*arguments, "--model", "org/none", "--hub", hub, stdin="a\n")
    assert result.exit_code == 1
    printed = " ".join((result.stdout + result.stderr).split())
    assert (
        f"'org/none' was not found: no such folder, and the download from the hub failed ({address}: "
        in printed
    )
    assert "Nothing is downloaded while HF_HUB_OFFLINE is set, nor by `doctor`" in printed


# Errors


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        (["rank", " ", "--backend", "lexical"], "a\n", 2, "error: `query` must not be blank, got ' '"),
        (
            ["rank", "q", "--backend", "lexcal"],
            "a\n",
            2,
            "error: `backend` must be 'local', 'remote' or 'lexical', got 'lexcal'",
        ),
        (["rank", "q", "--top-n", "0"], "a\n", 2, "error: `top_n` must be at least 1, got 0"),
        (
            ["rank", "q", "--min-score", "nan"],
            "a\n",
            2,
            "error: `min_score` must be a finite number, got nan",
        ),
        (["rank", "q", "/no/such/file"], "", 2, "error: file cannot be read: '/no/such/file'"),
        (["rank", "q", "--config", "/no/such.yaml"], "a\n", 2, "error: configuration file cannot be read"),
        (["rank", "q", "--input-format", "jsonl"], "a\n", 2, "error: standard input, line 1: not valid JSON"),
        (
            ["rank", "q", "--encoding", "utf-8"],
            b"\xff",
            2,
            "error: standard input, line 1: not UTF-8: byte 0xff at character 1",
        ),
        (
            ["bench", "--backend", "lexical", "--repeat", "0"],
            "",
            2,
            "error: `repeat` must be at least 1, got 0",
        ),
    ],
)
def test_a_mistake_is_one_line_on_standard_error_and_exit_code_two(
    arguments: list[str], stdin: str | bytes, code: int, message: str
) -> None:
    result = _run(*arguments, stdin=stdin)
    assert result.exit_code == code
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("error", [EngineError("it\nbroke"), ZeroDivisionError("it broke")])
def test_a_failure_is_one_line_and_exit_code_one_with_a_traceback_only_on_request(
    fake: Callable[..., None], error: Exception
) -> None:
    fake(error=error)
    result = _run("rank", "q", stdin="a\n")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "it broke" in result.stderr
    assert ("--debug shows the traceback" in result.stderr) == isinstance(error, ZeroDivisionError)
    debugged = _run("rank", "q", "--debug", stdin="a\n")
    assert debugged.exit_code == 1
    assert "Traceback (most recent call last)" in debugged.stderr


@pytest.mark.parametrize(
    "arguments", [["rank"], ["rank", "q", "f", "g"], ["nope"], ["rank", "q", "--top-n", "x"]]
)
def test_wrong_usage_is_exit_code_two(arguments: list[str]) -> None:
    assert _run(*arguments, stdin="").exit_code == 2


def test_the_command_line_leaves_logging_alone() -> None:
    before = list(logging.getLogger().handlers)
    _lexical()
    assert logging.getLogger().handlers == before


# Real processes


def _process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "qwen_rerank_plugins", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60, **options)


def test_a_real_process_ranks_what_is_piped_in() -> None:
    done = _process(
        "rank", "blue whale", "--backend", "lexical", "--format", "jsonl", input=DOCUMENTS.encode()
    )
    assert done.returncode == 0
    assert [json.loads(line)["index"] for line in done.stdout.splitlines()] == [1, 2, 0]


def test_the_version_is_the_packages() -> None:
    assert _process("--version").stdout.decode() == f"qwen-rerank {qwen_rerank_plugins.__version__}\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    documents = "".join(f"whale number {number}\n" for number in range(5_000))
    script = (
        f"'{sys.executable}' -m qwen_rerank_plugins rank whale --backend lexical --format jsonl"
        " | head -n 1; echo codes ${PIPESTATUS[@]}"
    )
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        input=documents.encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.decode().splitlines()
    assert (json.loads(lines[0])["rank"], lines[1]) == (1, "codes 0 0")
    assert done.stderr == b""


def test_a_terminal_that_knows_only_ascii_gets_a_table_too() -> None:
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = _process("rank", "q", "--backend", "lexical", input="猫 cat\n".encode(), env=env)
    assert (done.returncode, b"? cat" in done.stdout) == (0, True)


def test_progress_shows_on_a_terminal_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(f"whale {number}\n" for number in range(300)), encoding="utf-8")
    arguments = ["rank", "whale", str(path), "--backend", "lexical", "--format", "jsonl"]
    quiet = _process(*arguments)
    terminal, end = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "qwen_rerank_plugins", *arguments]
    watched = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=end, check=True, timeout=60, env=env
    )
    os.close(end)
    shown = _drain(terminal)
    assert "300/300" in shown
    assert quiet.stderr == b""
    assert watched.stdout == quiet.stdout


def _drain(terminal: int) -> str:
    data = b""
    try:
        while chunk := os.read(terminal, 4096):
            data += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(terminal)
    return data.decode()


def test_no_documents_and_no_pipe_is_wrong_usage_not_a_hang() -> None:
    _, terminal = pty.openpty()
    done = _process("rank", "q", "--backend", "lexical", stdin=terminal)
    assert done.returncode == 2
    assert b"no documents: standard input is a terminal" in done.stderr


# Help


@pytest.mark.parametrize("command", [[], ["rank"], ["doctor"], ["bench"]])
def test_help_has_examples_and_loads_nothing_heavy(command: list[str]) -> None:
    program = (
        "import sys\nfrom qwen_rerank_plugins.cli.app import app\n"
        f"try:\n    app({[*command, '--help']!r})\n"
        "finally:\n    print('LOADED', *sorted(m for m in sys.modules if '.' not in m or m.startswith('qwen')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    text, _, loaded = done.stdout.decode().partition("LOADED")
    assert "Usage:" in text
    assert ("Examples:" in text) == bool(command)
    heavy = {"torch", "transformers", "tokenizers", "numpy", "httpx", "yaml", "fastapi", "pydantic_settings"}
    heavy |= {"qwen_rerank_plugins.config", "qwen_rerank_plugins.reranker"}
    assert heavy.isdisjoint(loaded.split())


def test_help_imports_few_modules() -> None:
    """278 on Python 3.11, 75 more when coverage is measured; they take most of its 0.2 s of processor time."""
    program = (
        "import sys\nfrom qwen_rerank_plugins.cli.app import app\n"
        "try:\n    app(['rank', '--help'])\nfinally:\n    print('MODULES', len(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    assert int(done.stdout.decode().rpartition("MODULES")[2]) < MAX_HELP_MODULES
