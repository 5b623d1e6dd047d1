from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen_rerank_plugins import EngineError, InputError, Reranker, RerankError
from qwen_rerank_plugins.batch import BatchOptions, BatchProgress, run_batch
from qwen_rerank_plugins.batch.journal import Journal
from qwen_rerank_plugins.lexical import LexicalScorer
from tests.batch.files import PAIRS, many_rows, read_csv, run, write_csv
from tests.calibrations import write_calibration
from tests.doubles import FakeScorer

ROOT = Path(__file__).resolve().parent.parent.parent
NUM_KILLS = 20


def start_job(source: Path, target: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.batch.killed_job", str(source), str(target)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def messy_csv(path: Path, count: int) -> Path:
    """Rows, some of them bad."""
    rows = many_rows(count)
    for row in rows[10::97]:
        row["query"] = " "
    return write_csv(path, rows)


def kill_at_random(process: subprocess.Popen[str], rng: random.Random, max_steps: int) -> list[str]:
    """Kill after a random step and a moment; return the steps that were printed."""
    assert process.stdout is not None
    steps: list[str] = []
    for _ in range(rng.randint(1, max_steps)):
        line = process.stdout.readline()
        if not line:
            break
        steps.append(line)
    time.sleep(rng.uniform(0.0, 0.004))
    process.kill()
    process.communicate()
    return steps


@pytest.mark.timeout(300)
def test_a_job_killed_twenty_times_ends_with_the_rows_of_an_undisturbed_run(tmp_path: Path) -> None:
    """SIGKILL at seeded moments: while it scores, while it writes, while it renames files."""
    rng = random.Random(20)
    source = messy_csv(tmp_path / "in.csv", 1500)
    calm, target = tmp_path / "calm.csv", tmp_path / "out.csv"
    start_job(source, calm).communicate()
    assert calm.exists()
    num_kills, phases = 0, set()
    while num_kills < NUM_KILLS:
        process = start_job(source, target)
        steps = kill_at_random(process, rng, max_steps=70)
        phases |= {step.split()[0] for step in steps}
        assert process.returncode in {0, -signal.SIGKILL}
        num_kills += process.returncode == -signal.SIGKILL
        if target.exists() and not (tmp_path / "out.csv.journal").exists():
            assert target.read_bytes() == calm.read_bytes()
            target.unlink()
            (tmp_path / "out.csv.rejected.jsonl").unlink()
    assert phases == {"scoring", "writing"}
    process = start_job(source, target)
    process.communicate()
    assert process.returncode == 0
    assert target.read_bytes() == calm.read_bytes()
    ours, theirs = (tmp_path / f"{name}.csv.rejected.jsonl" for name in ("out", "calm"))
    assert ours.read_bytes() == theirs.read_bytes()
    names = {"in.csv", "calm.csv", "out.csv", "calm.csv.rejected.jsonl", "out.csv.rejected.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names


class Counter:
    """Asks for a stop after a number of calls."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("limit", [0, 3, 20])
def test_a_stopped_job_goes_on_where_it_was(tmp_path: Path, limit: int) -> None:
    source = write_csv(tmp_path / "in.csv", many_rows(300))
    run(source, tmp_path / "calm.csv", window_rows=20)
    options = BatchOptions(window_rows=20, call_pairs=10)
    with Reranker(backend="lexical") as reranker:
        first = run_batch(
            source, tmp_path / "out.csv", reranker=reranker, options=options, stop=Counter(limit)
        )
        assert first.status == "stopped"
        assert not (tmp_path / "out.csv").exists()
    second = run(source, tmp_path / "out.csv", resume=True, window_rows=20, call_pairs=10)
    assert second.num_resumed_pairs == first.num_pairs
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "calm.csv").read_bytes()


def test_a_job_can_be_stopped_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_rerank_plugins.batch.progress.REPORT_EVERY_S", 0.0)
    source = write_csv(tmp_path / "in.csv", many_rows(300))
    seen: list[str] = []
    with Reranker(backend="lexical") as reranker:
        report = run_batch(
            source,
            tmp_path / "out.csv",
            reranker=reranker,
            options=BatchOptions(window_rows=20),
            on_progress=lambda one: seen.append(one.phase),
            stop=lambda: "writing" in seen,
        )
    assert (report.status, report.num_pairs) == ("stopped", 300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv.journal"]
    assert run(source, tmp_path / "out.csv", resume=True).num_resumed_pairs == 300


def test_nothing_that_was_scored_is_scored_again(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", many_rows(100))
    asked: list[str] = []

    def failing(after: int) -> FakeScorer:
        def score_one(request: object) -> object:
            document = request.document  # type: ignore[attr-defined]
            if len(asked) >= after:
                raise EngineError("broken")
            asked.append(document)
            return LexicalScorer().score([request])[0]  # type: ignore[list-item]

        return FakeScorer(score_one)  # type: ignore[arg-type]

    with pytest.raises(EngineError):
        run(source, tmp_path / "out.csv", scorer=failing(40), window_rows=10, call_pairs=5, concurrency=1)
    kept = len(asked)
    assert kept == 40
    run(source, tmp_path / "out.csv", scorer=failing(1000), window_rows=10, call_pairs=5, resume=True)
    assert len(asked) == len(set(asked)) == 100


def test_an_unfinished_job_is_reported_and_discarded_only_on_request(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", PAIRS)
    with pytest.raises(EngineError):
        run(source, tmp_path / "out.csv", scorer=FakeScorer(error=EngineError("broken")))
    with pytest.raises(
        InputError, match=r"an unfinished job exists: .*--resume, or discard it with --overwrite"
    ):
        run(source, tmp_path / "out.csv")
    run(source, tmp_path / "out.csv", overwrite=True)
    with pytest.raises(InputError, match=r"file already exists: .*out\.csv'; replace it with --overwrite"):
        run(source, tmp_path / "out.csv")
    with pytest.raises(InputError, match="file already exists"):
        run(source, tmp_path / "out.csv", resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_column": "id"}, "columns was"),
        ({"instruction": "another"}, "instruction was None, is 'another'"),
        ({"scorer": FakeScorer()}, "model was 'lexical', is 'fake'"),
        ({"unescape_formulas": True}, "unescape_formulas was False, is True"),
        ({"max_row_chars": 1000}, "max_row_chars was 16777216, is 1000"),
        ({"config": {"unwrap": "strip"}}, "unwrap was 'warn', is 'strip'"),
        ({"config": {"chunk_tokens": 99}}, r"chunks was \[512, 64\], is \[99, 64\]"),
        ({"config": {"calibration": "calibration.json"}}, r"calibration was None, is \{'fits': "),
        ({"config": {"family": "family.yaml"}}, "family_file was None, is '3:"),
    ],
)
def test_a_journal_of_another_job_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("family.yaml").write_text("{}\n", encoding="utf-8")
    write_calibration(tmp_path)
    source = write_csv(tmp_path / "in.csv", PAIRS)
    _stop_at_once(source, tmp_path / "out.csv")
    with pytest.raises(InputError, match=message):
        run(source, tmp_path / "out.csv", resume=True, **change)  # type: ignore[arg-type]


def test_a_journal_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_csv(tmp_path / "in.csv", PAIRS)
    _stop_at_once(source, tmp_path / "out.csv")
    monkeypatch.setattr("qwen_rerank_plugins.batch.job.__version__", "0.0.1")
    with pytest.raises(InputError, match=r"version was '[0-9.]+', is '0\.0\.1'"):
        run(source, tmp_path / "out.csv", resume=True)


def test_a_row_that_was_rejected_may_be_accepted_by_the_settings_of_the_next_run(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", PAIRS)
    options = BatchOptions(on_bad_row="reject", max_document_chars=10, concurrency=1)
    with Reranker(backend="lexical") as reranker:
        stopped = run_batch(source, tmp_path / "out.csv", reranker=reranker, options=options, stop=Counter(0))
    assert (stopped.status, stopped.num_rejected) == ("stopped", 2)
    report = run(source, tmp_path / "out.csv", resume=True)
    assert (report.num_written, report.num_rejected) == (5, 0)


def test_a_changed_input_is_refused(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", PAIRS)
    _stop_at_once(source, tmp_path / "out.csv")
    write_csv(source, [{**PAIRS[0], "document": "THE blue whale sings"}, *PAIRS[1:]])
    with pytest.raises(InputError, match="input was"):
        run(source, tmp_path / "out.csv", resume=True)


def _stop_at_once(source: Path, target: Path) -> None:
    with Reranker(backend="lexical") as reranker:
        assert run_batch(source, target, reranker=reranker, stop=lambda: True).status == "stopped"


def test_two_processes_cannot_work_on_one_job(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", PAIRS)
    with (
        Journal(tmp_path / "out.csv.journal"),
        pytest.raises(InputError, match="another process is running this job"),
    ):
        run(source, tmp_path / "out.csv", overwrite=True)


def test_a_foreign_file_is_not_taken_for_a_journal(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", PAIRS)
    (tmp_path / "out.csv.journal").write_text("notes of another program, " * 100, encoding="utf-8")
    with pytest.raises(InputError, match="is not a journal of a batch job"):
        run(source, tmp_path / "out.csv", overwrite=True)
    assert (tmp_path / "out.csv.journal").read_text(encoding="utf-8").startswith("notes of another program")


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", PAIRS)
    with pytest.raises(InputError, match="the output is the input file"):
        run(source, tmp_path / "in.csv", overwrite=True)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="the output is a folder"):
        run(source, tmp_path / "folder.csv", overwrite=True)
    with pytest.raises(InputError, match="no such folder"):
        run(source, tmp_path / "none" / "out.csv")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "csv.gz", "parquet"])
def test_a_full_disk_keeps_the_scores(tmp_path: Path, suffix: str) -> None:
    """A limit on the size of files simulates the full disk."""
    rng = random.Random(1)
    rows = [{"query": "q", "document": "".join(rng.choices("abcdefgh ", k=4000))} for _ in range(150)]
    source = write_csv(tmp_path / "in.csv", rows)
    target = tmp_path / f"out.{suffix}"
    command = [
        sys.executable,
        "-m",
        "qwen_rerank_plugins",
        "batch",
        str(source),
        str(target),
        "--backend",
        "lexical",
    ]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))

    failed = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert failed.returncode == 1, failed.stderr
    assert "output cannot be written" in failed.stderr
    assert "--resume" in failed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", f"{target.name}.journal"]
    done = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "150 written, 150 pairs from an earlier run" in done.stderr


def test_a_journal_that_cannot_grow_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_csv(tmp_path / "in.csv", many_rows(2000))
    prepare = Journal._prepare

    def small(self: Journal) -> None:
        prepare(self)
        self._db.execute("PRAGMA max_page_count = 12")

    monkeypatch.setattr(Journal, "_prepare", small)
    with pytest.raises(RerankError, match=r"journal cannot be written: .* full"):
        run(source, tmp_path / "out.csv")
    monkeypatch.undo()
    assert run(source, tmp_path / "out.csv", resume=True).num_resumed_pairs > 0


def test_progress_rises_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_rerank_plugins.batch.progress.REPORT_EVERY_S", 0.0)
    source = messy_csv(tmp_path / "in.csv", 400)
    seen: list[BatchProgress] = []
    with Reranker(backend="lexical") as reranker:
        options = BatchOptions(window_rows=50, call_pairs=20, on_bad_row="reject")
        run_batch(source, tmp_path / "out.csv", reranker=reranker, options=options, on_progress=seen.append)
    for phase in ("scoring", "writing"):
        fractions = [one.fraction for one in seen if one.phase == phase]
        assert fractions == sorted(fractions)
        assert fractions[-1] == pytest.approx(1.0)
    last = [one for one in seen if one.phase == "scoring"][-1]
    assert (last.num_rows, last.num_pairs, last.num_rejected) == (400, 395, 5)
    assert last.pairs_per_s
    assert last.seconds_left == pytest.approx(0.0, abs=1e-6)


def test_one_query_over_the_whole_file_is_ranked_as_one(tmp_path: Path) -> None:
    rows = many_rows(500, per_query=500)
    run(write_csv(tmp_path / "in.csv", rows), tmp_path / "out.csv", window_rows=30)
    written = read_csv(tmp_path / "out.csv")
    by_rank = sorted(written, key=lambda row: int(row["rank"]))
    assert [int(row["rank"]) for row in by_rank] == list(range(1, 501))
    keys = [(-float(row["relevance_score"]), int(row["id"])) for row in by_rank]
    assert keys == sorted(keys)


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Python's own; SQLite holds at most its page cache, and sorts in a file."""
    peaks = []
    for count in (600, 600, 6000):  # the first run pays for imports
        rows = many_rows(count, per_query=count)
        source = write_csv(tmp_path / f"{count}.csv", rows)
        target = tmp_path / f"{count}.out.csv"
        peaks.append(
            peak_bytes(lambda s=source, t=target: run(s, t, window_rows=200, call_pairs=50, overwrite=True))  # type: ignore[misc]
        )
    assert peaks[2] < 1.2 * peaks[1] + 100_000, peaks
