"""The progress and the report of a batch job. Prints nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from qwen_rerank_plugins.batch.protocols import TextFormat

__all__ = ["BatchProgress", "BatchReport", "Guess", "ProgressMeter"]

REPORT_EVERY_S = 0.1
GUESS_TEXTS = 3
GUESS_CHARS = 40


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """The progress of a job.

    Attributes:
        phase: "scoring", then "writing".
        fraction: Fraction of this phase, from 0 to 1, by the size of the input that was read.
        num_rows: Rows that are scored or rejected, those of an earlier run included.
        num_pairs: Pairs of these rows.
        num_rejected: Rows that cannot be ranked.
        pairs_per_s: Pairs that this run scored per second; None at the beginning.
        seconds_left: Estimated seconds until the end of this phase; None at the beginning.
    """

    phase: Literal["scoring", "writing"]
    fraction: float = 0.0
    num_rows: int = 0
    num_pairs: int = 0
    num_rejected: int = 0
    pairs_per_s: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Guess:
    """How the text of the input was decoded, where that is a guess.

    Attributes:
        options: The options that name it instead: `encoding`, `delimiter` or both.
        encoding: The encoding.
        delimiter: The delimiter of CSV; None for JSON.
        texts: The beginnings of three decoded texts, those beyond ASCII first.
    """

    options: tuple[str, ...]
    encoding: str
    delimiter: str | None
    texts: tuple[str, ...]

    @classmethod
    def of(cls, text_format: TextFormat | None, texts: Iterable[str]) -> Self | None:
        """Return the guesses in a text format; None if there are none.

        Args:
            text_format: The format of a file.
            texts: Its first texts; not iterated over if nothing was guessed.
        """
        if text_format is None or not text_format.guessed:
            return None
        found = sorted(dict.fromkeys(filter(None, texts)), key=str.isascii)[:GUESS_TEXTS]
        shown = tuple(text[:GUESS_CHARS] for text in found)
        return cls(text_format.guessed, text_format.encoding, text_format.delimiter, shown)

    def __str__(self) -> str:
        """Return one sentence, with the first texts."""
        values = " and ".join(f"{name} {getattr(self, name)!r}" for name in self.options)
        texts = ", ".join(map(repr, self.texts)) or "no text"
        options = " or ".join(f"--{name}" for name in self.options)
        return f"{values} guessed; the text reads {texts}; correct it with {options}"


@dataclass(frozen=True, slots=True)
class BatchReport:
    """The result of a job.

    Attributes:
        status: "complete", or "stopped" on request; a stopped job can be resumed.
        num_rows: Rows of the input, rejected ones included; if stopped, the rows that are finished.
        num_pairs: Pairs with a score.
        num_written: Rows of the output.
        num_rejected: Rows that cannot be ranked.
        num_blank_lines: Blank lines that were skipped.
        num_resumed_pairs: Pairs that an earlier run had scored.
        model: The model that scored.
        target: The output file.
        rejected: The file of the rejected rows, or None.
        elapsed_s: Seconds of this run.
        pairs_per_s: Pairs that this run scored per second of scoring; None if it scored none.
        num_warned: Rows with a warning about their texts.
    """

    status: Literal["complete", "stopped"]
    num_rows: int
    num_pairs: int
    num_written: int
    num_rejected: int
    num_blank_lines: int
    num_resumed_pairs: int
    model: str
    target: Path
    rejected: Path | None
    elapsed_s: float
    pairs_per_s: float | None
    num_warned: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON types."""
        paths = {
            "target": str(self.target),
            "rejected": None if self.rejected is None else str(self.rejected),
        }
        return {**asdict(self), **paths}


class ProgressMeter:
    """Call a listener with the progress, at most every `REPORT_EVERY_S` seconds."""

    def __init__(
        self, phase: Literal["scoring", "writing"], listener: Callable[[BatchProgress], None] | None
    ) -> None:
        self._phase = phase
        self._listener = listener
        self._started_s = time.monotonic()
        self._reported_s = 0.0
        self.num_new_pairs = 0

    def start_clock(self) -> None:
        """Restart the clock, so that loading does not count."""
        self._started_s = time.monotonic()

    def pairs_per_s(self) -> float | None:
        """Return the pairs scored per second since the start of the clock."""
        elapsed_s = time.monotonic() - self._started_s
        return self.num_new_pairs / elapsed_s if self.num_new_pairs and elapsed_s > 0 else None

    def report(
        self,
        fraction: float,
        *,
        done_now: float,
        num_rows: int,
        num_pairs: int,
        num_rejected: int,
        force: bool = False,
    ) -> None:
        """Report the progress, unless the last report is recent.

        Args:
            fraction: Fraction of the phase that is finished.
            done_now: The part of `fraction` that this run worked on; the rest was finished before.
            num_rows: See `BatchProgress`, as the next two.
            num_pairs: Pairs of these rows.
            num_rejected: Rows that cannot be ranked.
            force: Report in any case.
        """
        now_s = time.monotonic()
        if self._listener is None or not (force or now_s - self._reported_s >= REPORT_EVERY_S):
            return
        self._reported_s = now_s
        progress = BatchProgress(
            phase=self._phase,
            fraction=fraction,
            num_rows=num_rows,
            num_pairs=num_pairs,
            num_rejected=num_rejected,
            pairs_per_s=self.pairs_per_s(),
            seconds_left=(now_s - self._started_s) * (1.0 - fraction) / done_now if done_now > 0 else None,
        )
        self._listener(progress)
