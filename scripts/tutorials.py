"""Runs the blocks of a tutorial in order, and compares what they print with the output on the page.

python scripts/tutorials.py docs/tutorials/python.md            # runs the page, prints each block's time and the differences
python scripts/tutorials.py --update docs/tutorials/python.md   # also writes what was printed into the page

A block whose fence says ```` ```python run ```` or ```` ```bash run ```` is executed, all blocks of a page in one empty folder. The
Python blocks of a page share their names, as cells of a notebook do. A block ```` ```text output ```` is what the block before it prints:

- a number with decimals may differ by one in its last digit, and from five decimals on by 0.0001, since processors round differently;
- `…` stands for any text, such as a time;
- the widths of spaces and the line breaks at the ends do not matter.

A page names the service `http://127.0.0.1:8501` and the cluster `http://localhost:9200`; tests run it with addresses of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("docs/tutorials/", "docs/zh/")
SERVICE = "http://127.0.0.1:8501"
CLUSTER = "http://localhost:9200"
BLOCK = re.compile(
    r"^```(?P<language>python|bash) run\n(?P<code>.*?)^```\n(?:\n```text output\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
DECIMAL = re.compile(r"(?<![\w.])-?\d+\.\d+(?![\w.]*\d)")
PAGE_TIMEOUT_S = 300.0
MAX_SHOWN_DECIMALS = 4
"""Numbers with more decimals are compared to this many, and may have any number of further digits."""


@dataclass(frozen=True, slots=True)
class Step:
    """A block of a tutorial.

    Attributes:
        place: The page and the line of the block's code.
        language: "python" or "bash".
        code: The code.
        expected: The output on the page; None if the page shows none.
    """

    place: str
    language: str
    code: str
    expected: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a block printed, standard error included for bash, and the seconds it took; `error` if it failed."""

    printed: str
    wall_s: float
    error: str | None = None


def steps_of(page: str, text: str) -> list[Step]:
    """Return the executed blocks of a page, in order."""
    return [
        Step(
            f"{page}:{text[: one.start('code')].count(chr(10)) + 1}",
            one["language"],
            one["code"],
            one["output"],
        )
        for one in BLOCK.finditer(text)
    ]


def is_tutorial(page: str) -> bool:
    """Whether the blocks of a page build on each other."""
    return page.startswith(FOLDERS)


def run_steps(
    steps: Sequence[Step], folder: Path, *, env: Mapping[str, str], addresses: Mapping[str, str] | None = None
) -> list[Outcome]:
    """Run blocks in order in a process of their own; the last outcome is the first failure.

    Args:
        steps: The blocks.
        folder: Where they run.
        env: Their environment.
        addresses: Address on the page → the one to use.
    """
    given = [replace(step, code=_replaced(step.code, addresses or {})) for step in steps]
    with tempfile.TemporaryDirectory() as beside:
        results = Path(beside) / "outcomes.json"
        command = [
            sys.executable,
            "-W",
            "error::DeprecationWarning:__main__",
            __file__,
            "--child",
            str(results),
        ]
        blocks = json.dumps([[step.place, step.language, step.code] for step in given])
        ran = subprocess.run(
            command,
            cwd=folder,
            env={**env, "CUDA_VISIBLE_DEVICES": ""},  # the pages show the numbers of a CPU
            input=blocks,
            capture_output=True,
            check=False,
            text=True,
            timeout=PAGE_TIMEOUT_S,
        )
        if ran.returncode:
            raise RuntimeError(f"{steps[0].place}: the process of the blocks ended\n{ran.stdout}{ran.stderr}")
        outcomes = [Outcome(*one) for one in json.loads(results.read_text(encoding="utf-8"))]
    back = {real: shown for shown, real in (addresses or {}).items()}
    return [replace(one, printed=_replaced(one.printed, back)) for one in outcomes]


def _replaced(text: str, addresses: Mapping[str, str]) -> str:
    for old, new in addresses.items():
        text = text.replace(old, new)
    return text


def difference(expected: str, printed: str) -> str | None:
    """Return how an output differs from the one on the page, or None."""
    pattern, numbers = [], []
    for part in re.split(f"({DECIMAL.pattern}|…|\\s+)", expected.strip()):
        if DECIMAL.fullmatch(part):
            numbers.append(part)
            decimals = len(part.partition(".")[2])
            count = f"{decimals}" if decimals <= MAX_SHOWN_DECIMALS else f"{MAX_SHOWN_DECIMALS + 1},"
            pattern.append(rf"(-?\d+\.\d{{{count}}})(?!\d)")
        else:
            pattern.append(r"[\s\S]*?" if part == "…" else r"\s+" if part.isspace() else re.escape(part))
    found = re.fullmatch("".join(pattern), printed.strip())
    if found is None:
        return "the text differs"
    off = [
        f"{shown} is {value}"
        for shown, value in zip(numbers, found.groups(), strict=True)
        if abs(float(shown) - float(value)) > _tolerance(shown)
    ]
    return ", ".join(off) or None


def _tolerance(shown: str) -> float:
    decimals = min(len(shown.partition(".")[2]), MAX_SHOWN_DECIMALS)
    return 1.001 * 10.0**-decimals  # the difference of two rounded numbers is rounded itself


def faults(steps: Sequence[Step], outcomes: Sequence[Outcome]) -> list[str]:
    """Return a message for each block that failed, or whose output is not the one on the page."""
    found = []
    for step, outcome in zip(steps, outcomes, strict=False):
        if outcome.error is not None:
            found.append(f"{step.place}: failed\n{outcome.printed}{outcome.error}")
        elif step.expected is not None and (why := difference(step.expected, outcome.printed)):
            found.append(
                f"{step.place}: {why}\n--- on the page\n{step.expected}--- printed\n{outcome.printed}"
            )
    return found


def with_outputs(text: str, outcomes: Sequence[Outcome]) -> str:
    """Return a page with what its blocks printed; blocks without an output on the page get none."""
    pending = iter(outcomes)

    def updated(match: re.Match[str]) -> str:
        outcome = next(pending)
        if match["output"] is None or difference(match["output"], outcome.printed) is None:
            return match[0]
        start, end = (match.start("output") - match.start(), match.end("output") - match.start())
        lines = "\n".join(line.rstrip() for line in outcome.printed.strip("\n").splitlines())
        return f"{match[0][:start]}{lines}\n{match[0][end:]}"

    return BLOCK.sub(updated, text)


def _run_python(place: str, code: str, names: dict[str, Any]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, place, "exec"), names)  # noqa: S102 - the page's own code
    return printed.getvalue()


def _run_bash(code: str) -> str:
    command = ["bash", "-euo", "pipefail", "-c", code]
    ran = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    if ran.returncode:
        raise RuntimeError(f"exit code {ran.returncode}\n{ran.stdout}")
    return ran.stdout


def _run_child(results: Path) -> None:
    """Run the blocks of standard input in this process, and write their outcomes."""
    names: dict[str, Any] = {"__name__": "__main__"}
    outcomes: list[Outcome] = []
    for place, language, code in json.load(sys.stdin):
        began = time.perf_counter()
        try:
            printed = _run_python(place, code, names) if language == "python" else _run_bash(code)
            outcomes.append(Outcome(printed, time.perf_counter() - began))
        except Exception as error:  # noqa: BLE001 - reported with the block
            outcomes.append(Outcome("", time.perf_counter() - began, f"{type(error).__name__}: {error}"))
            break
    lines = [[one.printed, one.wall_s, one.error] for one in outcomes]
    results.write_text(json.dumps(lines), encoding="utf-8")


def _environment() -> dict[str, str]:
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": programs}


def main(arguments: list[str] | None = None) -> int:
    """Run pages; return 1 if a block failed or printed something else."""
    parser = argparse.ArgumentParser(description="Runs tutorials, and compares or updates their output.")
    parser.add_argument("pages", nargs="*", help="pages, relative to the repository")
    parser.add_argument("--update", action="store_true", help="write the printed output into the pages")
    parser.add_argument("--service", default=SERVICE, help="address of a running service")
    parser.add_argument("--cluster", default=CLUSTER, help="address of a running cluster")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        _run_child(options.child)
        return 0
    failed = False
    for page in options.pages:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        steps = steps_of(page, text)
        with tempfile.TemporaryDirectory() as folder:
            addresses = {SERVICE: options.service, CLUSTER: options.cluster}
            outcomes = run_steps(steps, Path(folder), env=_environment(), addresses=addresses)
        for step, outcome in zip(steps, outcomes, strict=False):
            print(f"{outcome.wall_s:6.2f} s  {step.place} {step.language}")
        found = faults(steps, outcomes)
        print("\n".join(found))
        if options.update and not any(one.error for one in outcomes):
            path.write_text(with_outputs(text, outcomes), encoding="utf-8")
        failed = failed or bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
