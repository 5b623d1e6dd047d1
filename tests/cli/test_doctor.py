from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import qwen_rerank_plugins
from qwen_rerank_plugins import CheckpointNotFoundError, Reranker
from qwen_rerank_plugins.cli.app import app
from qwen_rerank_plugins.cli.doctor import collect_facts
from qwen_rerank_plugins.config import LoadedConfig, load_config_with_sources
from tests.calibrations import fit, write_calibration
from tests.doubles import FakeScorer

ROOT = Path(qwen_rerank_plugins.__file__).parent.parent


class InformedScorer(FakeScorer):
    """A fake that reports a self-check."""

    def __init__(self, status: str) -> None:
        super().__init__()
        self._status = status

    def info(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "self_check": {"status": self._status, "max_abs_diff": 0.5},
            "new_key": [1],
        }


def _loaded(**overrides: Any) -> LoadedConfig:
    return load_config_with_sources(overrides={"backend": "lexical", **overrides}, env={})


def test_the_facts_are_packages_machine_settings_and_engine() -> None:
    facts = collect_facts(_loaded(top_n=3))
    assert list(facts) == ["packages", "machine", "torch", "settings", "engine", "problems"]
    assert facts["packages"]["qwen-rerank-plugins"] == qwen_rerank_plugins.__version__
    assert facts["machine"]["cpus_usable"] >= 1
    assert facts["settings"]["top_n"] == {"value": 3, "source": "argument"}
    assert facts["settings"]["retries"] == {"value": 2, "source": "default"}
    assert facts["engine"]["model"] == "lexical"
    assert facts["problems"] == []
    json.dumps(facts)


def test_secrets_are_masked() -> None:
    facts = collect_facts(_loaded(api_key="s3cret", service={"api_keys": ["s3cret"]}))
    assert "s3cret" not in json.dumps(facts)
    assert facts["settings"]["api_key"]["source"] == "argument"


def test_a_model_that_cannot_be_loaded_is_a_problem_not_a_crash() -> None:
    for error in (CheckpointNotFoundError("no such folder"), ZeroDivisionError("defect")):

        def make(config: Any, error: Exception = error) -> Reranker:
            raise error

        facts = collect_facts(_loaded(), make_reranker=make)
        assert facts["engine"]["status"] == "not loaded"
        assert facts["problems"] == [f"{type(error).__name__}: {error}"]


@pytest.mark.parametrize(("status", "num_problems"), [("passed", 0), ("failed", 1)])
def test_a_self_check_that_failed_is_a_problem_and_unknown_facts_are_shown(
    status: str, num_problems: int
) -> None:
    facts = collect_facts(
        _loaded(), make_reranker=lambda config: Reranker(config, scorer=InformedScorer(status))
    )
    assert facts["engine"]["new_key"] == [1]
    assert len(facts["problems"]) == num_problems


def test_the_model_may_be_left_out() -> None:
    facts = collect_facts(_loaded(), load_model=False, make_reranker=lambda config: pytest.fail("was built"))
    assert facts["engine"] == {"status": "not loaded (--no-model)"}


def test_the_command_prints_tables_or_json() -> None:
    shown = CliRunner().invoke(app, ["doctor", "--backend", "lexical"])
    assert shown.exit_code == 0
    for word in ("packages", "machine", "settings", "max_length", "no problems found"):
        assert word in shown.stdout
    answer = json.loads(CliRunner().invoke(app, ["doctor", "--backend", "lexical", "--json"]).stdout)
    assert answer["settings"]["backend"] == {"value": "lexical", "source": "argument"}


def test_the_command_exits_with_one_where_something_is_wrong() -> None:
    result = CliRunner().invoke(app, ["doctor", "--model", "/no/such/folder"])
    assert result.exit_code == 1
    assert "PROBLEM: " in result.stdout


def test_it_works_without_torch_and_names_the_command_that_installs_it() -> None:
    program = (
        "import sys\nsys.modules['torch'] = None\n"
        "from qwen_rerank_plugins.cli.app import app\napp(['doctor', '--backend', 'lexical', '--json'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    facts = json.loads(done.stdout)
    assert facts["torch"] == {"installed": False, "install": "pip install 'qwen-rerank-plugins[local]'"}
    assert facts["problems"] == []


def test_an_invalid_section_is_a_problem_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A misspelt variable of the service is printed here, and not only when the service is started."""
    monkeypatch.setenv("QWEN_RERANK_SERVICE_JOB_FOLDER", "jobs")
    printed = CliRunner().invoke(app, ["doctor", "--backend", "lexical", "--no-model", "--json"])
    assert printed.exit_code == 1
    (problem,) = json.loads(printed.stdout)["problems"]
    assert problem == "section 'service': unknown setting 'job_folder'; did you mean 'jobs_folder'?"


def test_the_loaded_calibration_is_shown_and_one_of_another_model_is_a_problem(tmp_path: Path) -> None:
    path = write_calibration(tmp_path)
    facts = collect_facts(_loaded(calibration=path))
    assert facts["settings"]["calibration"] == {"value": path, "source": "argument"}
    assert facts["engine"]["calibration"] == {"fits": [fit()]}
    result = CliRunner().invoke(app, ["doctor", "--backend", "lexical", "--calibration", path])
    assert (result.exit_code, "calibration.fits" in result.stdout) == (0, True)
    facts = collect_facts(_loaded(calibration=write_calibration(tmp_path, fingerprint="another")))
    assert "is of another model" in facts["problems"][0]
