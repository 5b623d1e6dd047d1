"""A batch job from end to end: look, score, rank, write. Each step is a call into another module."""

from __future__ import annotations

import contextlib
import importlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.batch.files import JobFiles, writing
from qwen_rerank_plugins.batch.journal import Journal
from qwen_rerank_plugins.batch.options import BatchOptions, FileFormat
from qwen_rerank_plugins.batch.output import Written, write_rows
from qwen_rerank_plugins.batch.progress import BatchProgress, BatchReport, ProgressMeter
from qwen_rerank_plugins.batch.scoring import Scoring
from qwen_rerank_plugins.batch.sources import Source, format_of, open_source
from qwen_rerank_plugins.batch.streams import digest_of, reading
from qwen_rerank_plugins.batch.writers import RejectedWriter, needs_scan, open_writer, scan_kinds
from qwen_rerank_plugins.errors import ConfigurationError, InputError
from qwen_rerank_plugins.reranker import Reranker

__all__ = ["run_batch"]

# What of a scorer's own account decides on scores; all else (device, queue, cache) may differ between two runs.
_MODEL_FACTS = (
    "fingerprint",
    "revision",
    "family",
    "dtype",
    "quantization",
    "max_length",
    "max_query_tokens",
    "long_documents",
    "url",
    "dialect",
    "template",
    "max_chars",
)


def run_batch(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    reranker: Reranker,
    options: BatchOptions | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[BatchProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> BatchReport:
    """Score and rank the pairs of a file, or its lists, and write the file anew with scores and ranks.

    Memory does not grow with the file. `target.journal` holds what is done so far; it goes when the job is done, so a
    killed job is one with a journal. Blocking: call it from a thread where an event loop runs.

    Args:
        source: CSV, JSON lines or Parquet.
        target: What is written; there as a whole, or not at all.
        reranker: What scores; it stays the caller's to close.
        options: How; None for the section `batch` of the reranker's configuration.
        resume: Go on with an unfinished job, if there is one.
        overwrite: Replace an output that is there; without `resume`, throw an unfinished job away.
        on_progress: Hears how far it is, a few times a second, in the calling thread.
        stop: Asked a few times a second; True ends the job where it is, to be resumed.

    Raises:
        InputError: A file, a column or a row is not what it must be, or something is there that would be lost.
        MissingDependencyError: A file is Parquet, and pyarrow is not installed.
        RerankError: Scoring failed, or a file cannot be written; `resume` goes on with what is kept.
    """
    chosen = BatchOptions.from_config(reranker.config) if options is None else options
    job = _Job(Path(source), Path(target), reranker, chosen, stop or (lambda: False))
    return job.run(resume=resume, overwrite=overwrite, on_progress=on_progress)


class _Job:
    """One run over one file."""

    def __init__(
        self, path: Path, target: Path, reranker: Reranker, options: BatchOptions, stop: Callable[[], bool]
    ) -> None:
        self._started_s = time.monotonic()
        self._path = path
        self._files = JobFiles.beside(target)
        self._reranker = reranker
        self._options = options
        self._stop = stop
        self._pairs_per_s: float | None = None
        self._num_resumed = 0

    def run(
        self, *, resume: bool, overwrite: bool, on_progress: Callable[[BatchProgress], None] | None
    ) -> BatchReport:
        self._output = self._check()
        self._stat = self._stat_of_input()
        source = open_source(self._path, self._options)
        if self._options.explode and source.layout.form == "pairs":
            raise InputError("explode is for lists: the rows of this file are pairs; leave --explode out")
        with self._files.open_journal(self._path, resume=resume, overwrite=overwrite) as journal:
            found = journal.note("published")
            if found is not None and self._files.is_published(found["identity"]):
                return self._finish(journal, found["report"])
            if not overwrite:
                self._refuse_existing(journal)
            self._agree(journal, self._fingerprint(source))
            scoring = self._score(source, journal, on_progress)
            if scoring.stopped:
                return self._stopped(journal, scoring.num_rows_done, source)
            self._check_unchanged()
            written = self._write(source, journal, on_progress)
            if written.stopped:
                return self._stopped(journal, scoring.num_rows, source)
            return self._publish(journal, written, source)

    # Before.

    def _check(self) -> FileFormat:
        if not self._reranker.config.enabled:
            raise ConfigurationError("scoring is switched off: enabled=False; a batch job needs True")
        output = format_of(self._files.target, self._options.output_format, "--output-format")
        if output == "parquet":
            # What is missing is told now, not after hours of scoring.
            importlib.import_module("qwen_rerank_plugins.batch.parquet")
        return output

    def _stat_of_input(self) -> tuple[int, int]:
        with reading(str(self._path)):
            found = self._path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"no regular file: {str(self._path)!r}; allowed: one, which is read twice")
        return found.st_size, found.st_mtime_ns

    def _check_unchanged(self) -> None:
        if self._stat_of_input() != self._stat:
            raise InputError(
                f"file changed while it was read: {str(self._path)!r}; begin anew with --overwrite"
            )

    def _refuse_existing(self, journal: Journal) -> None:
        """Refuse an output that is there, but not the other file of a job that was killed between the two."""
        if journal.note("published") is None or self._files.target.exists():
            self._files.refuse_existing()

    def _fingerprint(self, source: Source) -> dict[str, Any]:
        """Everything that decides on scores and on which rows belong together."""
        config, options = self._reranker.config, self._options
        facts = self._reranker.info()
        remote = config.backend == "remote"
        return {
            "input": digest_of(self._path),
            "form": source.layout.form,
            "columns": list(source.layout.needed),
            "delimiter": options.delimiter,
            "unescape_formulas": options.unescape_formulas,
            "input_format": format_of(self._path, options.input_format, "--input-format"),
            "backend": config.backend,
            # A service's own name for its model is only known after the first answer.
            "model": config.model if remote else facts.get("model"),
            "instruction": config.instruction if options.instruction is None else options.instruction,
            "chunks": [config.chunk_tokens, config.chunk_overlap],
            **{name: facts[name] for name in _MODEL_FACTS if name in facts},
        }

    def _agree(self, journal: Journal, fingerprint: dict[str, Any]) -> None:
        found = journal.note("fingerprint")
        if found is None:
            journal.set_notes({"fingerprint": fingerprint})
            return
        names = sorted({*found, *fingerprint})
        changed = [name for name in names if found.get(name) != fingerprint.get(name)]
        if changed:
            told = "; ".join(
                f"{name} was {found.get(name)!r}, is {fingerprint.get(name)!r}" for name in changed
            )
            message = f"the unfinished job is another one: {str(journal.path)!r}: {told}"
            raise InputError(f"{message}; --overwrite begins anew")

    # The two halves.

    def _score(
        self, source: Source, journal: Journal, on_progress: Callable[[BatchProgress], None] | None
    ) -> Scoring:
        meter = ProgressMeter("scoring", on_progress)
        scoring = Scoring(source, journal, self._reranker, self._options, meter=meter, stop=self._stop)
        self._num_resumed = scoring.num_resumed_pairs
        scoring.run()
        self._pairs_per_s = meter.pairs_per_s()
        return scoring

    def _write(
        self, source: Source, journal: Journal, on_progress: Callable[[BatchProgress], None] | None
    ) -> Written:
        options, config = self._options, self._reranker.config
        journal.make_ranks(
            top_n=config.top_n if options.top_n is None else options.top_n,
            min_score=config.min_score if options.min_score is None else options.min_score,
        )
        kinds = scan_kinds(source.chunks(only_needed=False)) if needs_scan(source, self._output) else None
        meter = ProgressMeter("writing", on_progress)
        with writing(self._files), contextlib.ExitStack() as stack:
            rejected = RejectedWriter(self._files.rejected_part)
            stack.callback(rejected.close)
            writer = open_writer(self._files.part, self._files.target, self._output, source, options, kinds)
            stack.callback(writer.close)
            return write_rows(source, journal, writer, rejected, options, meter=meter, stop=self._stop)

    # After.

    def _publish(self, journal: Journal, written: Written, source: Source) -> BatchReport:
        self._check_unchanged()
        report = {
            "num_rows": written.num_rows,
            "num_pairs": journal.num_scored(),
            "num_written": written.num_kept,
            "num_set_aside": written.num_set_aside,
            "num_blank_lines": source.num_blank_lines,
            "model": self._reranker.model,
        }
        with writing(self._files):
            self._files.sync_part()
            journal.set_notes({"published": {"identity": self._files.identity_of_part(), "report": report}})
            self._files.publish(has_rejected=written.num_set_aside > 0)
        return self._finish(journal, report)

    def _finish(self, journal: Journal, report: dict[str, Any]) -> BatchReport:
        journal.remove()
        rejected = self._files.rejected if report["num_set_aside"] else None
        return self._report("complete", report, rejected)

    def _stopped(self, journal: Journal, num_rows: int, source: Source) -> BatchReport:
        figures = {
            "num_rows": num_rows,
            "num_pairs": journal.num_scored(),
            "num_written": 0,
            "num_set_aside": journal.num_rejected(),
            "num_blank_lines": source.num_blank_lines,
            "model": self._reranker.model,
        }
        self._files.drop_parts()
        return self._report("stopped", figures, None)

    def _report(self, status: Any, figures: dict[str, Any], rejected: Path | None) -> BatchReport:
        return BatchReport(
            status=status,
            num_resumed_pairs=self._num_resumed,
            target=self._files.target,
            rejected=rejected,
            elapsed_s=time.monotonic() - self._started_s,
            pairs_per_s=self._pairs_per_s,
            **figures,
        )
