"""The files of a job: what may be there before it, and how they take their final names. Knows no rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from qwen_rerank_plugins.batch.journal import Journal, remove_journal
from qwen_rerank_plugins.errors import InputError, RerankError

__all__ = ["JobFiles", "writing"]


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The output and what stands beside it.

    Attributes:
        target: The output, there when the job is done.
        part: The output while it is written.
        rejected: The rows that were set aside.
        rejected_part: The same while it is written.
        journal: What is done so far; gone when the job is done.
    """

    target: Path
    part: Path
    rejected: Path
    rejected_part: Path
    journal: Path

    @classmethod
    def beside(cls, target: Path) -> Self:
        """The files of a job with this output."""

        def named(suffix: str) -> Path:
            return target.with_name(target.name + suffix)

        return cls(
            target, named(".part"), named(".rejected.jsonl"), named(".rejected.jsonl.part"), named(".journal")
        )

    def open_journal(self, source: Path, *, resume: bool, overwrite: bool) -> Journal:
        """Open the journal, or begin one; refuse to destroy what nobody said may be.

        Raises:
            InputError: The output is there, or an unfinished job, or the folder is not.
        """
        if not self.target.parent.is_dir():
            raise InputError(f"no such folder: {str(self.target.parent)!r}; allowed: one that exists")
        if self.target.exists() and (self.target.is_dir() or self.target.samefile(source)):
            raise InputError(f"output is not valid: {str(self.target)!r}; allowed: a file, not the input")
        has_journal = self.journal.exists()
        if has_journal and not (resume or overwrite):
            message = f"an unfinished job is there: {str(self.journal)!r}"
            raise InputError(f"{message}; --resume goes on with it, --overwrite begins anew")
        if not has_journal and not overwrite:
            self.refuse_existing()
        if not has_journal or resume:
            return Journal(self.journal)
        Journal(self.journal).close()  # or another process has it
        remove_journal(self.journal)
        return Journal(self.journal)

    def refuse_existing(self) -> None:
        """Refuse an output that this job did not write.

        Raises:
            InputError: There is one.
        """
        for path in (self.target, self.rejected):
            if path.exists():
                raise InputError(f"file exists already: {str(path)!r}; --overwrite replaces it")

    def identity_of_part(self) -> dict[str, int]:
        """What stays the same when the finished part gets its final name."""
        return _identity(self.part)

    def is_published(self, identity: dict[str, Any] | None) -> bool:
        """Whether the output is the part that had this identity."""
        return identity is not None and self.target.exists() and _identity(self.target) == identity

    def publish(self, *, has_rejected: bool) -> None:
        """Give the finished files their names, the output last; what is read under them is always whole."""
        if has_rejected:
            _sync(self.rejected_part)
            self.rejected_part.replace(self.rejected)
        else:
            self.rejected.unlink(missing_ok=True)
        self.part.replace(self.target)
        _sync(self.target.parent)

    def drop_parts(self) -> None:
        """Delete what was not finished."""
        self.part.unlink(missing_ok=True)
        self.rejected_part.unlink(missing_ok=True)

    def sync_part(self) -> None:
        """Bring the part to the disk."""
        _sync(self.part)


@contextmanager
def writing(files: JobFiles) -> Iterator[None]:
    """Tell what can go wrong while the output is written; the journal stays, the parts do not.

    Raises:
        RerankError: A file cannot be written.
    """
    try:
        yield
    except OSError as error:
        files.drop_parts()
        message = f"output cannot be written: {str(files.target)!r}: {error.strerror or error}"
        raise RerankError(f"{message}; the scores are kept, --resume goes on with them") from error
    except BaseException:
        files.drop_parts()
        raise


def _identity(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"inode": stat.st_ino, "size": stat.st_size}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
