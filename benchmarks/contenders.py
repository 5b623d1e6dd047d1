"""The contenders, and the number format and batch size with which each is fastest on this machine.

The best settings are kept in peers/best_batch.json, by machine, and searched again only on request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine as machines

__all__ = ["BEST_FILE", "CONTENDERS", "Contender", "Settings", "best_settings", "search", "write_best"]

BEST_FILE = Path(__file__).resolve().parent / "peers" / "best_batch.json"
DTYPES = ("float32", "bfloat16")
CLEARLY_SLOWER = 1.5
"""A number format that takes this much longer on a probe is not searched any further."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the comparison.

    Attributes:
        name: Name on the command line and in the tables.
        module: Its runner in benchmarks/peers.
        requirements: The requirements file of its environment; None for the project's own environment.
        rival: The row of this core that it is compared with.
        is_slow: Whether it runs in the first round alone.
        is_converted: Whether it has a form of the checkpoint of its own.
        batch_sizes: Batch sizes that the search tries.
    """

    name: str
    module: str
    requirements: str | None = None
    quantization: str = "none"
    rival: str = "ours"
    is_slow: bool = False
    is_converted: bool = False
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)

    @property
    def is_ours(self) -> bool:
        """Whether it is this project's core."""
        return self.module == "ours"


CONTENDERS = (
    Contender("ours", "ours"),
    Contender("sentence-transformers", "cross_encoder", "cross_encoder.txt"),
    Contender("openvino", "openvino_model", "openvino_model.txt", is_converted=True),
    Contender("official", "official", is_slow=True, batch_sizes=(1, 4, 8)),
    Contender("ours-int8", "ours", quantization="int8", rival="ours-int8"),
    Contender(
        *("openvino-int8", "openvino_model", "openvino_model.txt"),
        quantization="int8",
        rival="ours-int8",
        is_converted=True,
    ),
    Contender(
        *("llamacpp-q8_0", "llamacpp", "llamacpp.txt"),
        quantization="int8",
        rival="ours-int8",
        is_slow=True,
        is_converted=True,
        batch_sizes=(1, 4),
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """A contender's number format and its batch size for each workload."""

    dtype: str
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    was_searched: bool = False

    def batch_size(self, workload: str) -> int:
        """Return a workload's batch size; unsearched, a small one: on a CPU it wastes the least on padding."""
        return self.batch_sizes.get(workload, 1 if workload == "long" else 4)


Measure = Callable[[Contender, str, Mapping[str, Sequence[int]]], Sequence[Mapping[str, Any]]]
"""Runs a contender in a number format, each workload with several batch sizes; the runner's `runs`."""


def best_settings(
    contender: Contender, machine: dict[str, Any], dtype: str, path: Path = BEST_FILE
) -> Settings:
    """Return the settings that a contender runs with.

    Args:
        contender: Any contender; ours selects its number format itself.
        machine: The result of `machine.describe`.
        dtype: "auto", or the number format of all contenders.
        path: The file of the best settings.
    """
    if contender.is_ours:
        return Settings(dtype, was_searched=True)
    found = _read(path).get(machines.key(machine), {}).get(contender.name)
    if found is None or dtype not in {"auto", found["dtype"]}:
        usual = "bfloat16" if machines.multiplies_bf16(machine) else "float32"
        return Settings(usual if dtype == "auto" else dtype)
    return Settings(found["dtype"], found["batch_sizes"], was_searched=True)


def search(
    contender: Contender, documents: Mapping[str, int], dtypes: Sequence[str], measure: Measure
) -> Settings:
    """Find the number format and batch sizes with which a contender is fastest.

    Args:
        contender: A peer; ours has no batch size.
        documents: Workload → its number of documents.
        dtypes: Number formats to try.
        measure: Runs the contender.
    """
    sizes = {
        name: [size for size in contender.batch_sizes if size <= count] for name, count in documents.items()
    }
    best: dict[str, dict[str, Mapping[str, Any]]] = {}
    for dtype in _worth_searching(contender, list(documents), dtypes, measure):
        best[dtype] = _fastest(measure(contender, dtype, sizes))
    chosen = min(best, key=lambda dtype: sum(run["seconds"] for run in best[dtype].values()))
    return Settings(chosen, {name: run["batch_size"] for name, run in best[chosen].items()}, True)


def _worth_searching(
    contender: Contender, workloads: Sequence[str], dtypes: Sequence[str], measure: Measure
) -> list[str]:
    """Return the number formats that a quick probe does not rule out."""
    if len(dtypes) == 1:
        return list(dtypes)
    probe = {"pairs" if "pairs" in workloads else workloads[0]: [1]}
    seconds = {dtype: measure(contender, dtype, probe)[0]["seconds"] for dtype in dtypes}
    limit = CLEARLY_SLOWER * min(seconds.values())
    return [dtype for dtype in dtypes if seconds[dtype] <= limit]


def _fastest(runs: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the fastest run of each workload."""
    best: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        name = run["workload"]
        if name not in best or run["seconds"] < best[name]["seconds"]:
            best[name] = run
    return best


def write_best(found: Mapping[str, Settings], machine: dict[str, Any], path: Path = BEST_FILE) -> None:
    """Write the result into the file, keeping other machines, contenders and workloads."""
    content = _read(path)
    entry = content.setdefault(machines.key(machine), {})
    for name, settings in found.items():
        earlier = entry.get(name, {})
        kept = earlier.get("batch_sizes", {}) if earlier.get("dtype") == settings.dtype else {}
        entry[name] = {"dtype": settings.dtype, "batch_sizes": {**kept, **settings.batch_sizes}}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return content
