"""Imports point one way, and importing the package is cheap."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.laws.sources import ROOT, plain_environment, run_fresh

# What only the code that needs it may load.
HEAVY = (
    "fastapi",
    "huggingface_hub",
    "numpy",
    "opentelemetry",
    "prometheus_client",
    "pythonjsonlogger",
    "safetensors",
    "starlette",
    "tokenizers",
    "torch",
    "transformers",
    "uvicorn",
)
# What even a light import of the package leaves for later: half a second on a slow machine.
LATER = ("httpx", "pydantic", "rich", "tenacity", "typer", "yaml")
HELP_CPU_S = 0.5


def loaded_after(statement: str, names: tuple[str, ...]) -> list[str]:
    ran = run_fresh(f"import sys\n{statement}\nprint(*sorted({set(names)!r} & set(sys.modules)))")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def cpu_seconds(command: list[str]) -> float:
    process = subprocess.Popen(command, cwd=ROOT, env=plain_environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_the_contracts_of_pyproject_are_kept() -> None:
    ran = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
        check=False,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import qwen_rerank_plugins", HEAVY + LATER) == []


@pytest.mark.parametrize("module", ["errors", "types", "config", "lexical", "reranker", "remote", "cli"])
def test_a_module_of_the_base_loads_nothing_of_the_local_extra(module: str) -> None:
    assert loaded_after(f"import qwen_rerank_plugins.{module}", HEAVY) == []


def test_the_check_for_heavy_modules_sees_one_that_is_loaded() -> None:
    assert loaded_after("import numpy", HEAVY) == ["numpy"]


def test_help_is_there_in_under_half_a_second_of_processor_time() -> None:
    command = [str(Path(sys.executable).parent / "qwen-rerank"), "--help"]
    assert min(cpu_seconds(command) for _ in range(3)) < HELP_CPU_S
