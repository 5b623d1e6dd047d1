from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qwen_rerank_plugins.batch import BatchOptions
from qwen_rerank_plugins.cli.app import app
from qwen_rerank_plugins.cli.batch import EXIT_REJECTED, _with_batch_defaults
from qwen_rerank_plugins.config import load_config_with_sources
from tests.batch.files import PAIRS, many_rows, read_csv, read_jsonl, write_csv
from tests.service.servers import running_service

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "batch.md"


def batch(*arguments: object, stdin: bytes | None = None, backend: str = "lexical") -> Result:
    words = ["batch", *map(str, arguments), "--backend", backend]
    return CliRunner().invoke(app, words, input=stdin)


def test_a_file_is_scored_and_the_report_is_printed(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", PAIRS)
    result = batch(source, tmp_path / "out.csv", "--top-n", 1, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["status"], report["num_rows"], report["num_written"]) == ("complete", 5, 2)
    assert report["target"] == str(tmp_path / "out.csv")
    assert "5 rows read, 2 written" in result.stderr
    assert [row["id"] for row in read_csv(tmp_path / "out.csv")] == ["1", "4"]
    single = batch(write_csv(tmp_path / "single.csv", PAIRS[:1]), tmp_path / "scored.csv")
    assert "1 row read, 1 written" in single.stderr


def test_rejected_rows_show_in_the_exit_code(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", [*PAIRS, {"id": "6", "query": "", "document": "d"}])
    result = batch(source, tmp_path / "out.csv")
    assert result.exit_code == 2
    assert "(row 6): 'query' is blank" in result.stderr
    result = batch(source, tmp_path / "out.csv", "--resume", "--on-bad-row", "reject")
    assert result.exit_code == EXIT_REJECTED
    assert "rejected rows: 1, see" in result.stderr


@pytest.mark.parametrize(
    ("settings", "bounds"),
    [
        ({}, (10_000, 32)),
        ({"cache_entries": 5, "prefix_cache_mb": 256}, (5, 256)),
        ({"top_n": 3}, (10_000, 32)),
    ],
)
def test_caches_are_small_unless_they_are_set(settings: dict[str, int], bounds: tuple[int, int]) -> None:
    """Memory must not grow with the file, nor for long with the caches' defaults."""
    config = _with_batch_defaults(load_config_with_sources(overrides=settings, env={}))
    assert (config.cache_entries, config.prefix_cache_mb) == bounds


def test_the_section_of_a_file_holds_and_options_beat_it(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("batch:\n  score_column: s\n  rank_column: r\nbackend: lexical\n", encoding="utf-8")
    source = write_csv(tmp_path / "in.csv", PAIRS)
    assert batch(source, tmp_path / "out.csv", "--config", config, "--rank-column", "place").exit_code == 0
    assert list(read_csv(tmp_path / "out.csv")[0])[-2:] == ["s", "place"]
    config.write_text("batch:\n  scor_column: s\n", encoding="utf-8")
    result = batch(source, tmp_path / "out2.csv", "--config", config)
    assert result.exit_code == 2
    assert "section 'batch': unknown setting 'scor_column'" in result.stderr
    assert "'score_column'" in result.stderr


def test_standard_input_is_read_when_its_format_is_named(tmp_path: Path) -> None:
    data = b'{"query": "q", "document": "q"}\n'
    target = tmp_path / "out.jsonl"
    assert batch("-", target, "--input-format", "jsonl", stdin=data).exit_code == 0
    assert read_jsonl(target)[0]["rank"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    for more, message in (
        ([], "name its format with --input-format"),
        (["--input-format", "jsonl", "--resume"], "standard input cannot be resumed"),
    ):
        result = batch("-", tmp_path / "other.jsonl", *more, stdin=data)
        assert result.exit_code == 2
        assert message in result.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_job_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    source = write_csv(tmp_path / "in.csv", many_rows(60_000))
    target = tmp_path / "out.csv"
    command = [sys.executable, "-m", "qwen_rerank_plugins", "batch", str(source), str(target)]
    command += ["--backend", "lexical"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wal = tmp_path / "out.csv.journal-wal"
    while process.poll() is None and not (wal.exists() and wal.stat().st_size > 50_000):
        time.sleep(0.005)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == status, stderr
    assert re.search(r"stopped: \d+ rows are done; continue with --resume", stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv.journal"]
    done = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r"60000 rows read, 60000 written, \d+ pairs from an earlier run", done.stderr)


@pytest.mark.loopback
def test_a_service_scores_a_file(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", many_rows(200))
    with running_service() as service:
        remote = ["--base-url", service.base_url, "--max-concurrency", 3]
        assert batch(source, tmp_path / "remote.csv", *remote, backend="remote").exit_code == 0
    assert batch(source, tmp_path / "local.csv").exit_code == 0
    local, ours = read_csv(tmp_path / "local.csv"), read_csv(tmp_path / "remote.csv")
    assert [row["rank"] for row in ours] == [row["rank"] for row in local]
    scores = [float(row["relevance_score"]) for row in ours]
    assert scores == pytest.approx([float(row["relevance_score"]) for row in local], abs=1e-9)


def test_the_page_documents_every_option_and_every_setting() -> None:
    text = PAGE.read_text(encoding="utf-8")
    help_text = CliRunner().invoke(app, ["batch", "--help"]).stdout
    options = set(re.findall(r"(?<!\S)(--[a-z][a-z-]+)", help_text)) - {"--help"}
    assert len(options) > 30
    assert sorted(option for option in options if f"`{option}" not in text) == []
    assert [name for name in BatchOptions.model_fields if f"`{name}`" not in text] == []
