"""How far a batch job is, and how it ended. Knows no file format and no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["BatchProgress", "BatchReport", "ProgressMeter"]

REPORT_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """Where a job stands.

    Attributes:
        phase: Pairs are scored first; then everything is written.
        fraction: Of this phase, from 0 to 1, by the size of what was read.
        num_rows: Rows that are scored, set aside, or were scored by a run before this one.
        num_pairs: Their pairs.
        num_set_aside: Rows that cannot be ranked.
        pairs_per_s: Pairs that this run scored, by its time; None at the beginning.
        seconds_left: Of this phase, at the speed so far; None at the beginning.
    """

    phase: Literal["scoring", "writing"]
    fraction: float = 0.0
    num_rows: int = 0
    num_pairs: int = 0
    num_set_aside: int = 0
    pairs_per_s: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class BatchReport:
    """How a job ended.

    Attributes:
        status: "complete", or "stopped" on request: `resume` goes on where it stopped.
        num_rows: Rows of the input, those set aside included; when stopped, as many as are done.
        num_pairs: Pairs with a score.
        num_written: Rows of the output.
        num_set_aside: Rows that could not be ranked.
        num_blank_lines: Lines that were skipped because nothing is on them.
        num_resumed_pairs: Pairs that an earlier run had scored.
        model: The model that scored.
        target: The output.
        rejected: The file of the rows that were set aside, or None.
        elapsed_s: Seconds of this run.
        pairs_per_s: Pairs that this run scored, by the seconds of scoring; None if it scored none.
    """

    status: Literal["complete", "stopped"]
    num_rows: int
    num_pairs: int
    num_written: int
    num_set_aside: int
    num_blank_lines: int
    num_resumed_pairs: int
    model: str
    target: Path
    rejected: Path | None
    elapsed_s: float
    pairs_per_s: float | None

    def as_dict(self) -> dict[str, Any]:
        """Every figure as plain JSON types."""
        paths = {
            "target": str(self.target),
            "rejected": None if self.rejected is None else str(self.rejected),
        }
        return {**asdict(self), **paths}


class ProgressMeter:
    """Turns counts into reports, not more often than somebody can look."""

    def __init__(
        self, phase: Literal["scoring", "writing"], listener: Callable[[BatchProgress], None] | None
    ) -> None:
        self._phase = phase
        self._listener = listener
        self._started_s = time.monotonic()
        self._told_s = 0.0
        self.num_new_pairs = 0

    def start_clock(self) -> None:
        """Begin to count seconds anew: what came before was loading."""
        self._started_s = time.monotonic()

    def pairs_per_s(self) -> float | None:
        """Pairs that were scored, by the seconds since the start."""
        elapsed_s = time.monotonic() - self._started_s
        return self.num_new_pairs / elapsed_s if self.num_new_pairs and elapsed_s > 0 else None

    def tell(
        self,
        fraction: float,
        *,
        gained: float,
        num_rows: int,
        num_pairs: int,
        num_set_aside: int,
        force: bool = False,
    ) -> None:
        """Report, unless the last report is fresh; `gained` is the part of `fraction` that took this run's time."""
        now_s = time.monotonic()
        if self._listener is None or not (force or now_s - self._told_s >= REPORT_EVERY_S):
            return
        self._told_s = now_s
        progress = BatchProgress(
            phase=self._phase,
            fraction=fraction,
            num_rows=num_rows,
            num_pairs=num_pairs,
            num_set_aside=num_set_aside,
            pairs_per_s=self.pairs_per_s(),
            seconds_left=(now_s - self._started_s) * (1.0 - fraction) / gained if gained > 0 else None,
        )
        self._listener(progress)
