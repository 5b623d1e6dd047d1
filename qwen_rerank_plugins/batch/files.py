"""The files of a job: which may exist before it, and how they get their final names. Reads and writes no rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from qwen_rerank_plugins.batch.journal import Journal, remove_journal
from qwen_rerank_plugins.errors import InputError, RerankError
from qwen_rerank_plugins.fsync import fsync_path

__all__ = ["JobFiles"]


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The output file and the files beside it.

    Attributes:
        target: The output; exists once the job is complete.
        part: The output while it is written.
        rejected: The rejected rows.
        rejected_part: The rejected rows while they are written.
        journal: The scores so far; removed once the job is complete.
    """

    target: Path
    part: Path
    rejected: Path
    rejected_part: Path
    journal: Path

    @classmethod
    def for_target(cls, target: Path) -> Self:
        """Return the files of the job with this output."""
        suffixes = (".part", ".rejected.jsonl", ".rejected.jsonl.part", ".journal")
        return cls(target, *(target.with_name(target.name + suffix) for suffix in suffixes))

    def open_journal(self, source: Path, *, resume: bool, overwrite: bool) -> Journal:
        """Open the journal of an unfinished job, or create one.

        Args:
            source: The input file.
            resume: Continue an unfinished job.
            overwrite: Replace an existing output; without `resume`, discard an unfinished job.

        Raises:
            InputError: The folder does not exist, the output is the input or a folder, or a file exists that would be
                lost and neither `resume` nor `overwrite` is set.
        """
        if not self.target.parent.is_dir():
            raise InputError(f"no such folder: {str(self.target.parent)!r}; create it first")
        if self.target.exists() and (self.target.is_dir() or self.target.samefile(source)):
            kind = "a folder" if self.target.is_dir() else "the input file"
            raise InputError(f"the output is {kind}: {str(self.target)!r}; write to another file")
        has_journal = self.journal.exists()
        if has_journal and not (resume or overwrite):
            message = f"an unfinished job exists: {str(self.journal)!r}"
            raise InputError(f"{message}; continue it with --resume, or discard it with --overwrite")
        if not has_journal and not overwrite:
            self.check_absent()
        if not has_journal or resume:
            return Journal(self.journal)
        Journal(self.journal).close()  # raises if another process holds it
        remove_journal(self.journal)
        return Journal(self.journal)

    def check_absent(self) -> None:
        """Check that neither the output nor the file of rejected rows exists.

        Raises:
            InputError: One of them exists.
        """
        for path in (self.target, self.rejected):
            if path.exists():
                raise InputError(f"file already exists: {str(path)!r}; replace it with --overwrite")

    def part_identity(self) -> dict[str, int]:
        """Return what identifies the finished part; renaming the file does not change it."""
        return _identity(self.part)

    def is_published(self, identity: dict[str, Any]) -> bool:
        """Return whether the output is the part with this identity."""
        return self.target.exists() and _identity(self.target) == identity

    def publish(self, *, has_rejected: bool) -> None:
        """Rename the finished files, the output last, so that a file under its final name is always complete."""
        if has_rejected:
            fsync_path(self.rejected_part)
            self.rejected_part.replace(self.rejected)
        else:
            self.rejected.unlink(missing_ok=True)
        self.part.replace(self.target)
        fsync_path(self.target.parent)

    def drop_parts(self) -> None:
        """Delete unfinished files."""
        self.part.unlink(missing_ok=True)
        self.rejected_part.unlink(missing_ok=True)

    def sync_part(self) -> None:
        """Flush the part to disk."""
        fsync_path(self.part)

    @contextmanager
    def drop_parts_on_error(self) -> Iterator[None]:
        """Delete the unfinished files if an error occurs; the journal stays.

        Raises:
            RerankError: A file cannot be written.
        """
        try:
            yield
        except OSError as error:
            self.drop_parts()
            message = f"output cannot be written: {str(self.target)!r}: {error.strerror or error}"
            raise RerankError(f"{message}; the scores are kept: continue with --resume") from error
        except BaseException:
            self.drop_parts()
            raise


def _identity(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"inode": stat.st_ino, "size": stat.st_size}
