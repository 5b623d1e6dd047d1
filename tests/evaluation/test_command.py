from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from qwen_rerank_plugins import RerankConfig
from qwen_rerank_plugins.cli.app import app
from qwen_rerank_plugins.evaluation import Query, read_run
from tests.evaluation.collections import tiny, write_beir, write_jsonl
from tests.service.servers import running_service


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def figures(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--format", "json", "--resamples", 100)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_beir(tmp_path / "tiny", tiny())


def test_without_data_the_bundled_set_is_used() -> None:
    result = run("--backend", "lexical", "--depth", 5, "--resamples", 100)
    assert result.exit_code == 0
    assert "using the bundled set" in result.stderr
    for part in ("nDCG@10", "BM25", "lexical", "English to Chinese: 9 queries"):
        assert part in result.stdout


def test_a_folder_and_its_three_files_give_the_same_figures(folder: Path) -> None:
    files = (
        "--corpus", folder / "corpus.jsonl", "--queries", folder / "queries.jsonl",
        "--qrels", folder / "qrels" / "test.tsv",
    )  # fmt: skip
    one = figures("--dataset", folder, "--backend", "lexical")
    other = figures(*files, "--backend", "lexical")
    assert one["after"] == other["after"]
    assert one["dataset"]["judgements"] == 4


def test_a_guessed_encoding_is_printed_with_three_texts(folder: Path) -> None:
    corpus = folder / "corpus.jsonl"
    rows = [
        {"_id": f"d{n}", "text": text}
        for n, text in enumerate(("用温水和香波洗", "今天股市下跌", "怎么洗猫"), 1)
    ]
    corpus.write_bytes("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode("gb18030"))
    words = [
        sys.executable,
        "-m",
        "qwen_rerank_plugins",
        "evaluate",
        "--dataset",
        str(folder),
        "--backend",
        "lexical",
    ]
    result = subprocess.run([*words, "--resamples", "10"], capture_output=True, text=True, check=True)
    sentence = "encoding 'gb18030' guessed; the text reads '用温水和香波洗', '今天股市下跌', '怎么洗猫'; correct it with --encoding"
    assert f"{corpus}: {sentence}\n" in result.stderr


def test_a_run_replaces_the_built_in_first_stage(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "first.trec"
    path.write_text("q1 Q0 d2 1 9 t\nq1 Q0 d1 2 8 t\nq2 Q0 d4 1 1 t\n", encoding="utf-8")
    found = figures("--dataset", folder, "--run", path, "--backend", "lexical", "--measure", "RR")
    assert found["first_stage"] == "first.trec"
    assert found["before"]["figures"]["RR"]["mean"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["after"][0]["figures"]["RR"]["mean"] == pytest.approx(1.0)


def test_configurations_instructions_and_depths_are_compared_in_one_call(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("backend: lexical\n", encoding="utf-8")
    found = figures(
        "--dataset", folder, "--backend", "lexical", "--compare", other,
        "--instruction", "one", "--instruction", "two", "--depth", 2, "--depth", 1,
    )  # fmt: skip
    assert [(row["name"], row["depth"]) for row in found["after"]] == [
        (f"{name}: {instruction}", depth)
        for name in ("lexical", "other")
        for instruction in ("one", "two")
        for depth in (1, 2)
    ]


def test_a_compared_file_stands_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither options nor the environment change it; otherwise it would be compared with itself."""
    monkeypatch.setenv("QWEN_RERANK_INSTRUCTION", "from the environment")
    other = tmp_path / "other.yaml"
    other.write_text("backend: lexical\n", encoding="utf-8")
    found = figures("--dataset", folder, "--backend", "lexical", "--compare", other)
    assert [row["instruction"] for row in found["systems"]] == ["from the environment", None]


def test_runs_and_report_are_written(folder: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.trec", tmp_path / "report.html"
    result = run("--dataset", folder, "--backend", "lexical", "--save-run", out, "--report", report)
    assert result.exit_code == 0, result.stderr
    assert list(read_run(out)["q1"]) == ["d1", "d3"]
    assert report.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_several_systems_have_a_run_file_each(folder: Path, tmp_path: Path) -> None:
    instructions = ("--instruction", "a b", "--instruction", "c")
    run("--dataset", folder, "--backend", "lexical", *instructions, "--save-run", tmp_path / "out.trec")
    names = sorted(path.name for path in tmp_path.glob("*.trec"))
    assert names == ["out-1-lexical-a-b.trec", "out-2-lexical-c.trec"]


def test_targets_are_answered_with_settings(folder: Path) -> None:
    result = run("--dataset", folder, "--backend", "lexical", "--target", "R@2=0.5")
    assert "min_score" in result.stdout
    assert "check them on other queries" in result.stdout


def test_mteb_rows_are_evaluated(tmp_path: Path) -> None:
    rows = [{"query": "blue whale", "positive": ["a whale, blue"], "negative": ["red fox", "sky"]}]
    found = figures("--dataset", write_jsonl(tmp_path / "rows.jsonl", rows), "--backend", "lexical")
    assert found["after"][0]["figures"]["RR@10"]["mean"] == 1.0


@pytest.mark.loopback
def test_a_remote_model_gives_the_figures_of_the_local_one(folder: Path) -> None:
    with running_service(RerankConfig(backend="lexical")) as served:
        environment = {"QWEN_RERANK_BASE_URL": served.base_url}
        arguments = ["evaluate", "--dataset", str(folder), "--format", "json", "--resamples", "100"]
        remote = CliRunner(env=environment).invoke(app, [*arguments, "--backend", "remote"])
    assert remote.exit_code == 0, remote.stderr
    local = figures("--dataset", folder, "--backend", "lexical")
    assert json.loads(remote.stdout)["after"][0]["figures"] == local["after"][0]["figures"]


def test_inconsistencies_of_the_data_are_reported(folder: Path) -> None:
    with (folder / "qrels" / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("lost\tgone\t1\n")
    result = run("--dataset", folder, "--backend", "lexical")
    assert "judged queries without a text, counted as 0: 1" in result.stderr
    assert "judgements of documents that are not in the corpus: 1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "c.jsonl"], "incomplete collection"),
        (["--dataset", "x", "--corpus", "c.jsonl"], "two collections"),
        (["--dataset", "gone.jsonl"], "file cannot be read"),
        (["--measure", "bleu"], "unknown measure: 'bleu'"),
        (["--target", "R@5"], "target is not valid: 'R@5'"),
        (["--depth", "0"], "depths are not valid"),
        (["--resamples", "0"], "resamples is not valid"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    result = run("--backend", "lexical", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_extra_is_reported_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bm25s" else find_spec(name, *rest)
    )
    result = run("--backend", "lexical")
    assert result.exit_code == 1
    assert "evaluation needs 'bm25s': pip install 'qwen-rerank-plugins[eval]'" in result.stderr


@pytest.mark.parametrize("broken", ["\ud83d", "\x00", "\ufeff"])
def test_broken_text_neither_stops_the_evaluation_nor_its_report(tmp_path: Path, broken: str) -> None:
    whole = tiny()
    dataset = replace(
        whole,
        corpus={**whole.corpus, "d1": f"{broken}blue whale{broken}"},
        queries={**whole.queries, "q1": Query(f"{broken}blue whale", f"{broken}English")},
    )
    folder, report = write_beir(tmp_path / "broken", dataset), tmp_path / "report.html"
    assert figures("--dataset", folder, "--model", "demo", "--report", report)["dataset"]["judgements"] == 4
    assert "blue whale" in report.read_text(encoding="utf-8")
