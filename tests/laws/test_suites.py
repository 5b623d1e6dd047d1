"""`bash test.sh` leaves no test out and fails when anything fails."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scripts import run_suites
from scripts.run_suites import SUITES, Outcome, Suite, print_table, run_all, run_suite
from tests.laws.sources import ROOT, tracked_files


def test_every_test_file_belongs_to_exactly_one_suite() -> None:
    listed = [
        str(path.relative_to(ROOT)) for suite in SUITES for one in suite.paths for path in ROOT.glob(one)
    ]
    tests = [
        name for name in tracked_files() if name.startswith("tests/") and Path(name).name.startswith("test_")
    ]
    owners = {
        name: [path for path in listed if name == path or name.startswith(path + "/")] for name in tests
    }
    assert {name: paths for name, paths in owners.items() if len(paths) != 1} == {}


def test_suites_have_different_names() -> None:
    names = [suite.name for suite in SUITES]
    assert len(set(names)) == len(names)


@pytest.fixture
def bare_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which suites run without this repository's settings and conftest."""
    monkeypatch.setattr(run_suites, "ROOT", tmp_path)
    monkeypatch.setattr(run_suites, "RESULTS", tmp_path / "results")
    return tmp_path


def test_a_suite_counts_each_test_once(bare_repository: Path) -> None:
    (bare_repository / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 0\n"
        "def test_left(): pytest.skip('why')\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError\n"
        "def test_error(broken): pass\n"
    )
    outcome = run_suite(Suite("some", paths=("test_*.py",)), [])
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 2, 1)
    assert outcome.wall_s > 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no test at all"),
        ("import os\ndef test_dies(): os._exit(0)\n", "a crash"),
        ("import nothing_such\n", ""),
    ],
)
def test_a_suite_that_ran_nothing_has_failed(bare_repository: Path, content: str, why: str) -> None:
    (bare_repository / "test_some.py").write_text(content)
    outcome = run_suite(Suite("some", paths=("test_*.py",)), [])
    assert outcome.failed == 1, why


def test_a_suite_without_files_has_failed(bare_repository: Path) -> None:
    assert run_suite(Suite("gone", paths=("tests/gone",)), []).failed == 1


def test_suites_side_by_side_keep_their_order_and_their_output_apart(
    bare_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The slow suite comes first in the table and last on the screen, each output in one piece."""
    slow = Suite("slow", checks=(("bash", "-c", "echo one; sleep 1; echo two"),))
    quick = Suite("quick", checks=(("bash", "-c", "echo three; false"),))
    outcomes = run_all([slow, quick], [], jobs=2)
    assert [(outcome.name, outcome.passed, outcome.failed) for outcome in outcomes] == [
        ("slow", 1, 0),
        ("quick", 0, 1),
    ]
    printed = capsys.readouterr().out.splitlines()
    assert printed.index("three") < printed.index("one") == printed.index("two") - 1


def test_the_last_line_adds_up_and_the_status_tells(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_table([Outcome("a", passed=2, wall_s=1.0), Outcome("b", passed=1, skipped=3)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 passed, 0 failed, 3 skipped"
    assert print_table([Outcome("a", passed=2), Outcome("b", failed=1, failures=["b::test"])]) == 1
    assert "FAILED b: b::test" in capsys.readouterr().out


def test_coverage_that_a_killed_process_left_torn_is_discarded(bare_repository: Path) -> None:
    folder = bare_repository / ".coverage"
    folder.mkdir()
    (folder / "data.torn").write_bytes(b"SQLite format 3\0" + bytes(200))
    (folder / "data.empty").touch()
    with closing(sqlite3.connect(folder / "data.whole")) as data:
        data.execute("CREATE TABLE coverage_schema (version integer)")
    run_suites.discard_torn_data()
    assert [path.name for path in folder.iterdir()] == ["data.whole"]


def test_an_unknown_suite_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_suites.main(["cores"])
    assert "unknown suite 'cores'" in capsys.readouterr().err
