"""Runners as processes: each in its own environment, one at a time, with the same threads and no network.

uv creates environments on demand from the pinned requirements beside the runners, in the work folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "RunnerError", "environment", "python_of", "run_module", "run_runner"]

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"

Say = Callable[[str], object]


class RunnerError(Exception):
    """A runner failed; the message ends with the end of its output."""


def python_of(requirements: str | None, work: Path, say: Say) -> Path:
    """Return the interpreter of an environment with these requirements, created if missing; None is this one."""
    if requirements is None:
        return Path(sys.executable)
    pins = PEERS / requirements
    folder = work / "environments" / pins.stem
    stamp = folder / "installed"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="ascii") != wanted:
        say(f"creating the environment of {pins.stem} (the first time this downloads several GB)")
        uv = _uv()
        python = folder / "bin" / "python"
        _check([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        _check([uv, "pip", "install", "--quiet", "--python", str(python), "--requirements", str(pins)])
        stamp.write_text(wanted, encoding="ascii")
    return folder / "bin" / "python"


def run_runner(
    module: str, python: Path, job: Mapping[str, Any], work: Path, *, timeout_s: float
) -> dict[str, Any]:
    """Start a runner, wait for it, and return its result.

    Raises:
        RunnerError: The runner failed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="job-", dir=work) as folder:
        job_file, result_file = Path(folder) / "job.json", Path(folder) / "result.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        num_threads = int(job["num_threads"])
        arguments = [f"benchmarks.peers.{module}", str(job_file), str(result_file)]
        run_module(python, arguments, environment(work, num_threads), timeout_s=timeout_s)
        result: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
        return result


def run_module(python: Path, arguments: list[str], env: Mapping[str, str], *, timeout_s: float) -> str:
    """Run a module from the repository's root, and return its standard output.

    Raises:
        RunnerError: The module failed or took too long.
    """
    command = [str(python), "-m", *arguments]
    try:
        ran = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RunnerError(f"{arguments[0]} took longer than {timeout_s:.0f} s") from error
    if ran.returncode:
        raise RunnerError(f"{arguments[0]} ended with {ran.returncode}:\n{ran.stderr[-3000:]}")
    return ran.stdout


def environment(work: Path, num_threads: int) -> dict[str, str]:
    """Return this process's environment, with equal threads for all, no hub, and caches in the work folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "QWEN_RERANK_"))}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(num_threads))
    return {
        **kept,
        **threads,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONWARNINGS": "ignore",
        "XDG_CACHE_HOME": str(work / "cache"),
    }


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise RunnerError("uv is not on the PATH; install it with: pip install uv")
    return found


def _check(command: list[str]) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RunnerError(f"{' '.join(command[:3])} ended with {ran.returncode}:\n{ran.stderr[-3000:]}")
