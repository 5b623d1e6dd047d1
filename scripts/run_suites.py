"""Runs the test suites and prints what each took; `bash test.sh` calls it in the environment.

A suite is one line of `SUITES`: a name and its steps. Every suite runs even when an earlier one failed. A suite of
pytest that runs no test has failed. With two cores or more, two suites run side by side (`--jobs`), and the output of
each is printed when it ends. The last line, `N passed, N failed, N skipped`, counts tests and checks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".test-results"
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Suite:
    """A named set of commands.

    Attributes:
        name: What `bash test.sh NAME` calls it.
        paths: What pytest runs, relative to the root; files directly in `tests` are given as a pattern.
        checks: Other commands, each counted as one test; a program is looked up in the environment, then on the PATH.
    """

    name: str
    paths: tuple[str, ...] = ()
    checks: tuple[tuple[str, ...], ...] = ()


# In the order in which they start: after `lint`, the slowest first, so that none of them runs alone at the end. A new
# room adds its line here; tests/laws/test_suites.py fails if a test folder is left out.
SUITES = (
    Suite(
        "lint",
        checks=(
            ("ruff", "format", "--check", "."),
            ("ruff", "check", "."),
            ("mypy",),
            (
                "shellcheck",
                "-x",
                "start.sh",
                "test.sh",
                ".ci/run",
                *sorted(map(str, Path("scripts").glob("*.sh"))),
            ),
        ),
    ),
    Suite(
        "opensearch",
        paths=("tests/integrations/opensearch",),
        # The download must not count as a test's time.
        checks=((sys.executable, "scripts/opensearch_node.py", "prepare"),),
    ),
    Suite("workbench", paths=("tests/service/workbench",)),
    Suite("ray", paths=("tests/ray",)),
    Suite(
        "service",
        paths=(
            "tests/service/test_*.py",
            "tests/service/middleware",
            "tests/service/schemas",
            "tests/service/server",
            "tests/service/contract",
            "tests/service/jobs",
        ),
    ),
    Suite("core", paths=("tests/core",)),
    Suite("laws", paths=("tests/laws",)),
    Suite("examples", paths=("tests/examples",)),
    Suite("batch", paths=("tests/batch",)),
    Suite(
        "lowest",
        checks=(
            ("scripts/check_lowest.sh",),
            ("scripts/check_langchain_versions.sh",),
            ("scripts/check_llama_index_versions.sh",),
            ("scripts/check_haystack_versions.sh",),
        ),
    ),
    Suite("soak", paths=("tests/soak",)),
    Suite("langchain", paths=("tests/integrations/langchain",)),
    Suite(
        "unit",
        paths=(
            "tests/test_*.py",
            "tests/adapters",
            "tests/cli",
            "tests/config",
            "tests/integrations/test_*.py",
        ),
    ),
    Suite("remote", paths=("tests/remote",)),
    Suite("evaluation", paths=("tests/evaluation",)),
    Suite("clients", paths=("tests/service/clients",)),
    Suite("docs", paths=("tests/docs",)),
    Suite("llama_index", paths=("tests/integrations/llama_index",)),
    Suite("benchmarks", paths=("tests/benchmarks",)),
    Suite("demo", paths=("tests/demo",)),
    Suite("haystack", paths=("tests/integrations/haystack",)),
)


@dataclass(slots=True)
class Outcome:
    """What running a suite gave: counts, seconds, and the commands that failed."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    wall_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def count(self, command: str, *, ok: bool) -> None:
        """Count one check."""
        if ok:
            self.passed += 1
        else:
            self.failed += 1
            self.failures.append(command)


def main(arguments: list[str] | None = None) -> int:
    """Run the suites that were asked for and print the table; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="test.sh", description="Runs the test suites and times each.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="default: all")
    parser.add_argument("--long", action="store_true", help="run the long sweeps too")
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="measure coverage, report it and fail below the limit; twice as slow",
    )
    parser.add_argument("--list", action="store_true", help="print the suites' names and stop")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="suites side by side; default: 2, on one core 1"
    )
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests that match, as pytest's -k")
    options = parser.parse_args(arguments)
    names = [suite.name for suite in SUITES]
    if options.list:
        print(*names, sep="\n")
        return 0
    unknown = sorted(set(options.suites) - set(names))
    if unknown:
        parser.error(f"unknown suite {unknown[0]!r}; there are {', '.join(names)}")

    wanted = options.suites or names
    extra = (["--long"] if options.long else []) + (["-k", options.k] if options.k else [])
    if options.coverage:
        start_coverage()
    outcomes = run_all(
        [suite for suite in SUITES if suite.name in wanted],
        extra,
        jobs=options.jobs or min(2, os.cpu_count() or 1),
    )
    if options.coverage:
        outcomes.append(report_coverage())
    return print_table(outcomes)


def run_all(suites: Sequence[Suite], extra: list[str], *, jobs: int) -> list[Outcome]:
    """Run suites, `jobs` at a time; the outcomes in the order of the suites."""
    if jobs == 1 or len(suites) <= 1:
        return [run_suite(suite, extra) for suite in suites]
    RESULTS.mkdir(exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(run_into_log, suite, extra) for suite in suites]
        for done in as_completed(running):
            outcome = done.result()
            outcomes[outcome.name] = outcome
            print((RESULTS / f"{outcome.name}.log").read_text(encoding="utf-8", errors="replace"), end="")
            print(f"<== {outcome.name}: {outcome.wall_s:.0f} s, {len(outcomes)} of {len(suites)}", flush=True)
    return [outcomes[suite.name] for suite in suites]


def run_into_log(suite: Suite, extra: list[str]) -> Outcome:
    """Run a suite beside others: what it prints goes to a file."""
    print(f"... {suite.name}", flush=True)
    with (RESULTS / f"{suite.name}.log").open("w", encoding="utf-8") as log:
        return run_suite(suite, extra, log=log)


def run_suite(suite: Suite, extra: list[str], *, log: IO[str] | None = None) -> Outcome:
    """Run a suite's checks and tests, whatever fails on the way; output goes to `log`, or where ours goes."""
    headline(suite.name, log)
    outcome = Outcome(suite.name)
    started = time.monotonic()
    for check in suite.checks:
        outcome.count(" ".join(check), ok=run(*check, log=log) == 0)
    if suite.paths:
        run_pytest(suite, outcome, extra, log)
    outcome.wall_s = time.monotonic() - started
    return outcome


def run_pytest(suite: Suite, outcome: Outcome, extra: list[str], log: IO[str] | None) -> None:
    """Run pytest and add its counts; a crash, or no test at all, counts as one failure."""
    paths = [str(path.relative_to(ROOT)) for pattern in suite.paths for path in sorted(ROOT.glob(pattern))]
    if not paths:
        outcome.count(f"{suite.name}: nothing matches {', '.join(suite.paths)}", ok=False)
        return
    RESULTS.mkdir(exist_ok=True)
    report = RESULTS / f"{suite.name}.xml"
    report.unlink(missing_ok=True)
    options = ("--durations=5", f"--junitxml={report}", *extra)
    status = run(sys.executable, "-m", "pytest", *options, *paths, log=log)
    ran = read_report(report, outcome) if report.exists() else 0
    if (status or not ran) and not outcome.failed:
        outcome.count(f"{suite.name}: pytest ended with {status} after {ran} tests", ok=False)


def read_report(report: Path, outcome: Outcome) -> int:
    """Add the counts of a JUnit file to `outcome`; the number of tests that it lists."""
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - written by our own pytest a moment ago
    for case in cases:
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcome.count(f"{case.get('classname')}::{case.get('name')}", ok=False)
        elif "skipped" in kinds:
            outcome.skipped += 1
        else:
            outcome.passed += 1
    return len(cases)


def start_coverage() -> None:
    """Have every Python process of this run measured from its start."""
    shutil.rmtree(ROOT / ".coverage", ignore_errors=True)
    (ROOT / ".coverage").mkdir()
    os.environ["COVERAGE_PROCESS_START"] = str(ROOT / "pyproject.toml")


def report_coverage() -> Outcome:
    """Combine what all suites of this run covered; fails below the limit that pyproject.toml sets."""
    del os.environ["COVERAGE_PROCESS_START"]
    headline("coverage")
    outcome = Outcome("coverage")
    started = time.monotonic()
    coverage = (sys.executable, "-m", "coverage")
    discard_torn_data()
    combined = run(*coverage, "combine", "--quiet") == 0
    outcome.count("coverage report", ok=combined and run(*coverage, "report") == 0)
    outcome.wall_s = time.monotonic() - started
    return outcome


def discard_torn_data() -> None:
    """Delete the coverage of processes that a test killed while they wrote it: one such file fails them all."""
    for path in (ROOT / ".coverage").glob("data.*"):
        try:
            with closing(sqlite3.connect(path)) as data:
                data.execute("SELECT COUNT(*) FROM coverage_schema").fetchone()
                (verdict,) = data.execute("PRAGMA quick_check").fetchone()
        except sqlite3.Error as error:
            verdict = str(error)
        if verdict != "ok":
            print(f"without {path.name}: {verdict}")
            path.unlink()


def headline(name: str, log: IO[str] | None = None) -> None:
    """Print where a suite begins."""
    print(f"\n==> {name}", file=log, flush=True)


def run(*command: str, log: IO[str] | None = None) -> int:
    """Run a command at the root, its output to `log` or where ours goes; its exit status."""
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
    if log is not None:
        # Two programs that spin at their barriers on the same cores slow each other down several times over.
        environment["OMP_WAIT_POLICY"] = "passive"
    command = (shutil.which(command[0], path=path) or command[0], *command[1:])
    sink = None if log is None else log.fileno()
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=sink, stderr=sink, check=False
    ).returncode


def print_table(outcomes: list[Outcome]) -> int:
    """Print what failed and one line a suite; 1 if anything failed."""
    print("\n==> summary")
    for outcome in outcomes:
        for failure in outcome.failures:
            print(f"FAILED {outcome.name}: {failure}")
    print(f"{'suite':<12}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>10}")
    rows = [*outcomes, total(outcomes)]
    for row in rows:
        print(f"{row.name:<12}{row.passed:>8}{row.failed:>8}{row.skipped:>9}{row.wall_s:>10.1f}")
    print(f"{rows[-1].passed} passed, {rows[-1].failed} failed, {rows[-1].skipped} skipped", flush=True)
    return 1 if rows[-1].failed else 0


def total(outcomes: list[Outcome]) -> Outcome:
    """The sum of all outcomes."""
    return Outcome(
        "all",
        passed=sum(outcome.passed for outcome in outcomes),
        failed=sum(outcome.failed for outcome in outcomes),
        skipped=sum(outcome.skipped for outcome in outcomes),
        wall_s=sum(outcome.wall_s for outcome in outcomes),
    )


if __name__ == "__main__":
    sys.exit(main())
