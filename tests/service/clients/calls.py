"""Shared code of the client scripts, which run in separate environments without this project.

A script is given a JSON object on standard input, makes every one of its calls, and prints a JSON line for each:
`{"call", "answer": [[index, score], ...]}`, best first, or `{"call", "error"}`.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

Answer = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client."""

    base_url: str
    query: str
    documents: list[str]


def run(*functions: Callable[[Call], Answer]) -> None:
    """Make the calls one after the other; a failure does not stop the next calls."""
    call = Call(**json.load(sys.stdin))
    for function in functions:
        line: dict[str, object] = {"call": function.__name__}
        try:
            line["answer"] = function(call)
        except Exception:  # noqa: BLE001 (the test shows it)
            line["error"] = traceback.format_exc()
        print(json.dumps(line), flush=True)
