"""The addresses that take files follow their OpenAPI description: Schemathesis, with all of its checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.laws.sources import ROOT, plain_environment
from tests.service.jobs.uploads import serving

KEY = "a-key-of-the-contract"
EXAMPLES, LONG_EXAMPLES = 10, 200


@pytest.mark.loopback
@pytest.mark.timeout(3600)
def test_jobs_and_files_keep_their_openapi_description(
    tmp_path: Path, long_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRACT_KEYS", KEY)
    with serving(tmp_path / "jobs", jobs_max_per_key=100_000, api_keys_env="CONTRACT_KEYS") as (running, _):
        ran = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "st"), "run", f"{running.base_url}/openapi.json"),
                *("--header", f"Authorization: Bearer {KEY}", "--checks", "all", "--mode", "all"),
                # No schema of bytes can tell which are a file that is taken; test_jobs and test_read_file do.
                *("--exclude-checks", "positive_data_acceptance"),
                *("--phases", "coverage,fuzzing" + (",stateful" if long_run else ""), "--seed", "20261122"),
                *("--include-path-regex", "^/(v1/jobs|api/read-file)"),
                *("--max-examples", str(LONG_EXAMPLES if long_run else EXAMPLES)),
            ],
            cwd=tmp_path,
            env=plain_environment() | {"PYTHONPATH": str(ROOT), "NO_PROXY": "*"},
            capture_output=True,
            check=False,
            text=True,
        )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert "Tested: 7" in ran.stdout
