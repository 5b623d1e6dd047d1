"""Run a batch job: check the files, score, rank, write."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.batch.files import JobFiles
from qwen_rerank_plugins.batch.formats import detect_format, open_source, open_writer, require_format
from qwen_rerank_plugins.batch.journal import Journal
from qwen_rerank_plugins.batch.options import BatchOptions, FileFormat
from qwen_rerank_plugins.batch.output import OutputSummary, write_rows
from qwen_rerank_plugins.batch.progress import BatchProgress, BatchReport, Guess, ProgressMeter
from qwen_rerank_plugins.batch.protocols import Source
from qwen_rerank_plugins.batch.scoring import ScoringPass
from qwen_rerank_plugins.batch.streams import file_digest, read_errors_as_input_errors
from qwen_rerank_plugins.batch.writers import RejectedWriter
from qwen_rerank_plugins.errors import ConfigurationError, InputError
from qwen_rerank_plugins.reranker import Reranker

__all__ = ["run_batch"]

# The fields of `Reranker.info` that determine scores. Others (device, queue, cache) may differ between two runs.
_FINGERPRINT_FIELDS = (
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
    "calibration",
)


def run_batch(  # noqa: PLR0913 (keyword-only options of a contract)
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    reranker: Reranker,
    options: BatchOptions | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[BatchProgress], None] | None = None,
    on_guess: Callable[[Guess], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> BatchReport:
    """Score and rank the pairs or the lists of a file, and write its rows with scores and ranks to another file.

    Memory use does not depend on the size of the file. `target.journal` holds the scores so far and is removed when the
    job is complete; a killed job leaves it behind. The call blocks: in a program with an event loop, call it in a thread.

    Args:
        source: CSV, JSON Lines or Parquet.
        target: The output; it appears under this name once it is complete.
        reranker: Scores the pairs. It is not closed.
        options: The options; None for the section `batch` of the reranker's configuration.
        resume: Continue an unfinished job, if there is one.
        overwrite: Replace an existing output; without `resume`, discard an unfinished job.
        on_progress: Called with the progress several times a second, in the calling thread.
        on_guess: Called before the scoring if the encoding or the delimiter of the input is a guess.
        stop: Called several times a second; the job stops when it returns True, and can be resumed.

    Raises:
        InputError: A file, a column or a row is not valid, or a file exists that would be lost.
        MissingDependencyError: A file is Parquet, and pyarrow is not installed.
        RerankError: Scoring failed, or a file cannot be written; `resume` continues with the scores so far.
    """
    chosen = BatchOptions.from_config(reranker.config) if options is None else options
    job = _Job(Path(source), Path(target), reranker, chosen, on_progress, stop or (lambda: False))
    return job.run(resume=resume, overwrite=overwrite, on_guess=on_guess)


class _Job:
    """One run of a job."""

    def __init__(
        self,
        path: Path,
        target: Path,
        reranker: Reranker,
        options: BatchOptions,
        on_progress: Callable[[BatchProgress], None] | None,
        stop: Callable[[], bool],
    ) -> None:
        self._started_s = time.monotonic()
        self._path = path
        self._files = JobFiles.for_target(target)
        self._reranker = reranker
        config = reranker.config
        limits = {
            "top_n": config.top_n if options.top_n is None else options.top_n,
            "min_score": config.min_score if options.min_score is None else options.min_score,
        }
        self._options = options.model_copy(update=limits)
        self._on_progress = on_progress
        self._stop = stop
        self._pairs_per_s: float | None = None
        self._num_resumed = 0

    def run(
        self, *, resume: bool, overwrite: bool, on_guess: Callable[[Guess], None] | None = None
    ) -> BatchReport:
        output_format = self._check_output()
        input_stat = self._stat_input()
        source = open_source(self._path, self._options)
        if self._options.explode and source.layout.form == "pairs":
            raise InputError("explode is for lists, and the rows of this file are pairs; remove --explode")
        if on_guess is not None and (guess := Guess.of(source.text_format, _first_texts(source))):
            on_guess(guess)
        with self._files.open_journal(self._path, resume=resume, overwrite=overwrite) as journal:
            published = journal.metadata("published")
            if published is not None and self._files.is_published(published["identity"]):
                return self._finish(journal, published["report"])
            if not overwrite and (published is None or self._files.target.exists()):
                self._files.check_absent()  # a job killed while publishing may have left its rejected rows
            self._check_fingerprint(journal, self._fingerprint(source))
            scoring = self._score(source, journal)
            if scoring.stopped:
                return self._stopped(journal, scoring.num_rows_done, source)
            self._check_unchanged(input_stat)
            summary = self._write(source, journal, output_format)
            if summary.stopped:
                return self._stopped(journal, scoring.num_rows, source)
            self._check_unchanged(input_stat)
            return self._publish(journal, summary, source)

    # Checks.

    def _check_output(self) -> FileFormat:
        if not self._reranker.config.enabled:
            raise ConfigurationError("scoring is disabled: enabled=False; set it to True for a batch job")
        output_format = detect_format(self._files.target, self._options.output_format, "--output-format")
        require_format(output_format)  # now, not after hours of scoring
        return output_format

    def _stat_input(self) -> tuple[int, int]:
        with read_errors_as_input_errors(self._path):
            found = self._path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"not a regular file: {str(self._path)!r}; copy it to one: a job reads it twice")
        return found.st_size, found.st_mtime_ns

    def _check_unchanged(self, before: tuple[int, int]) -> None:
        if self._stat_input() != before:
            raise InputError(
                f"the file changed during the job: {str(self._path)!r}; start again with --overwrite"
            )

    def _fingerprint(self, source: Source) -> dict[str, Any]:
        """Return everything that determines the scores and the lists of the job."""
        config, options = self._reranker.config, self._options
        info = self._reranker.info()
        remote = config.backend == "remote"
        return {
            "input": file_digest(self._path),
            "form": source.layout.form,
            "columns": list(source.layout.needed),
            "encoding": source.text_format and source.text_format.encoding,
            "delimiter": source.text_format and source.text_format.delimiter,
            "unescape_formulas": options.unescape_formulas,
            "input_format": detect_format(self._path, options.input_format, "--input-format"),
            "backend": config.backend,
            # The model name of a service is only known after its first response.
            "model": config.model if remote else info.get("model"),
            "instruction": config.instruction if options.instruction is None else options.instruction,
            "chunks": [config.chunk_tokens, config.chunk_overlap],
            "unwrap": config.unwrap,
            "family_file": file_digest(Path(config.family)) if Path(config.family).is_file() else None,
            # Where a record ends, and thus the number of each row, may depend on it.
            "max_row_chars": options.max_row_chars,
            "spans": self._span_fingerprint(),
            "version": __version__,
            **{name: info[name] for name in _FINGERPRINT_FIELDS if name in info},
        }

    def _span_fingerprint(self) -> list[Any] | None:
        """Return what determines the spans: those of documents that are cut off are not scored."""
        if (spans := self._options.span_options()) is None:
            return None
        return [spans.unit, spans.max_spans, spans.threshold, self._options.top_n, self._options.min_score]

    @staticmethod
    def _check_fingerprint(journal: Journal, fingerprint: dict[str, Any]) -> None:
        found = journal.metadata("fingerprint")
        if found is None:
            journal.set_metadata("fingerprint", fingerprint)
            return
        names = sorted({*found, *fingerprint})
        changes = [
            f"{name} was {found.get(name)!r}, is {fingerprint.get(name)!r}"
            for name in names
            if found.get(name) != fingerprint.get(name)
        ]
        if changes:
            message = f"the unfinished job differs from this one: {str(journal.path)!r}: {'; '.join(changes)}"
            raise InputError(f"{message}; discard it with --overwrite")

    # The two phases.

    def _score(self, source: Source, journal: Journal) -> ScoringPass:
        meter = ProgressMeter("scoring", self._on_progress)
        scoring = ScoringPass(source, journal, self._reranker, self._options, meter=meter, stop=self._stop)
        self._num_resumed = scoring.num_resumed_pairs
        scoring.run()
        self._pairs_per_s = meter.pairs_per_s()
        return scoring

    def _write(self, source: Source, journal: Journal, output_format: FileFormat) -> OutputSummary:
        options = self._options
        journal.compute_ranks(top_n=options.top_n, min_score=options.min_score)
        with self._files.drop_parts_on_error(), contextlib.ExitStack() as stack:
            rejected = RejectedWriter(self._files.rejected_part)
            stack.callback(rejected.close)
            writer = open_writer(self._files.part, self._files.target, output_format, source, options)
            stack.callback(writer.close)
            meter = ProgressMeter("writing", self._on_progress)
            return write_rows(source, journal, writer, rejected, options, meter=meter, stop=self._stop)

    # The end.

    def _publish(self, journal: Journal, summary: OutputSummary, source: Source) -> BatchReport:
        report = {
            "num_rows": summary.num_rows,
            "num_pairs": journal.num_scored(),
            "num_written": summary.num_written,
            "num_rejected": summary.num_rejected,
            "num_warned": journal.num_warned(),
            "num_blank_lines": source.num_blank_lines,
            "model": self._reranker.model,
        }
        with self._files.drop_parts_on_error():
            self._files.sync_part()
            journal.set_metadata("published", {"identity": self._files.part_identity(), "report": report})
            self._files.publish(has_rejected=summary.num_rejected > 0)
        return self._finish(journal, report)

    def _finish(self, journal: Journal, report: dict[str, Any]) -> BatchReport:
        journal.remove()
        rejected = self._files.rejected if report["num_rejected"] else None
        return self._report("complete", report, rejected)

    def _stopped(self, journal: Journal, num_rows: int, source: Source) -> BatchReport:
        figures = {
            "num_rows": num_rows,
            "num_pairs": journal.num_scored(),
            "num_written": 0,
            "num_rejected": journal.num_rejected(),
            "num_warned": journal.num_warned(),
            "num_blank_lines": source.num_blank_lines,
            "model": self._reranker.model,
        }
        self._files.drop_parts()
        return self._report("stopped", figures, None)

    def _report(
        self, status: Literal["complete", "stopped"], figures: dict[str, Any], rejected: Path | None
    ) -> BatchReport:
        return BatchReport(
            status=status,
            num_resumed_pairs=self._num_resumed,
            target=self._files.target,
            rejected=rejected,
            elapsed_s=time.monotonic() - self._started_s,
            pairs_per_s=self._pairs_per_s,
            **figures,
        )


def _first_texts(source: Source) -> Iterator[str]:
    for chunk in islice(source.chunks(for_scoring=True), 1):
        for row in chunk.rows:
            yield from (row.query, *row.texts)
