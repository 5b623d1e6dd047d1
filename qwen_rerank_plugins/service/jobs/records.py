"""The record of a job: as an object, as the JSON file in its folder, and as its owner sees it. Opens no file."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

from qwen_rerank_plugins.batch import BatchProgress
from qwen_rerank_plugins.service.errors import STATUSES, Problem

__all__ = ["FILES_PER_UPLOAD", "JOB_ID", "Job", "JobSpec", "JobState", "Progress", "new_id"]

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
"""A `cancelled` job is no longer listed; its files are deleted when its run has ended."""

FORMAT_VERSION = 1
ID_BYTES = 16
FILES_PER_UPLOAD = 2  # the upload, and a result of about the same size
JOB_ID = re.compile(r"[0-9a-f]{32}\Z")

UNFINISHED: tuple[JobState, ...] = ("queued", "running")


def new_id() -> str:
    """Return a random id."""
    return secrets.token_hex(ID_BYTES)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The request of a client.

    Attributes:
        name: Name of the file, shown to the client and used in the name of the result; never part of a path.
        input_format: Format of the upload.
        output_format: Format of the result.
        options: The given options of the batch pipeline, as plain JSON types.
    """

    name: str
    input_format: str
    output_format: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a job; see `BatchProgress`."""

    phase: str = "scoring"
    fraction: float = 0.0
    num_rows: int = 0
    num_pairs: int = 0
    num_rejected: int = 0
    pairs_per_s: float | None = None
    seconds_left: float | None = None

    @classmethod
    def of(cls, progress: BatchProgress) -> Self:
        """Convert the progress of the batch pipeline."""
        return cls(
            progress.phase,
            progress.fraction,
            progress.num_rows,
            progress.num_pairs,
            progress.num_rejected,
            progress.pairs_per_s,
            progress.seconds_left,
        )


@dataclass(slots=True)
class Job:
    """An upload job.

    Attributes:
        id: Id in URLs, and name of its folder.
        owner: Owner, as returned by `KeyRing.owner`.
        spec: The request of the client.
        num_bytes: Size of the upload.
        created_s: Unix time of creation.
        state: The current state.
        started_s: Unix time when scoring first started.
        finished_s: Unix time when it finished or failed.
        progress: The current progress.
        model: Name of the model, once it is done.
        num_written: Number of rows in the result.
        result_bytes: Size of the result; None without one.
        rejected_bytes: Size of the rejected rows; None without any.
        problem: Status and message of a failed job.
    """

    id: str
    owner: str
    spec: JobSpec
    num_bytes: int
    created_s: float = field(default_factory=time.time)
    state: JobState = "queued"
    started_s: float | None = None
    finished_s: float | None = None
    progress: Progress = field(default_factory=Progress)
    model: str | None = None
    num_written: int | None = None
    result_bytes: int | None = None
    rejected_bytes: int | None = None
    problem: tuple[int, str] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self.state not in UNFINISHED

    @property
    def is_cancelled(self) -> bool:
        """Whether it is cancelled."""
        return self.state == "cancelled"

    @property
    def stored_bytes(self) -> int:
        """Estimated size of its files in bytes."""
        if not self.is_finished:
            return FILES_PER_UPLOAD * self.num_bytes
        return (self.result_bytes or 0) + (self.rejected_bytes or 0)

    def fail(self, problem: Problem) -> None:
        """Set the state to failed."""
        self.state, self.finished_s = "failed", time.time()
        self.problem = (problem.status, problem.message)

    def as_json(self) -> dict[str, Any]:
        """Return the content of its file."""
        return {"version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Create a job from the value that `as_json` returned.

        Raises:
            ValueError: The value is invalid, or of another version.
        """
        fields = dict(value)
        if fields.pop("version", None) != FORMAT_VERSION or fields.get("state") not in get_args(JobState):
            raise ValueError("not a job of this version")
        try:
            fields["spec"] = JobSpec(**fields["spec"])
            fields["progress"] = Progress(**fields["progress"])
            problem = fields["problem"]
            fields["problem"] = None if problem is None else (int(problem[0]), str(problem[1]))
            return cls(**fields)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError("not a job of this version") from error

    def view(self, *, retention_s: float, num_ahead: int | None) -> dict[str, Any]:
        """Return the job as its owner sees it.

        Args:
            retention_s: Time that a finished job is kept, in seconds.
            num_ahead: Number of jobs before it in the queue, or None.
        """
        return {
            "id": self.id,
            "state": self.state,
            "name": self.spec.name,
            "input_format": self.spec.input_format,
            "output_format": self.spec.output_format,
            "options": dict(self.spec.options),
            "num_bytes": self.num_bytes,
            "created": int(self.created_s),
            "started": _whole(self.started_s),
            "finished": _whole(self.finished_s),
            "expires": _whole(self.finished_s and self.finished_s + retention_s),
            "num_ahead": num_ahead,
            "progress": asdict(self.progress),
            "model": self.model,
            "num_written": self.num_written,
            "result_bytes": self.result_bytes,
            "rejected_bytes": self.rejected_bytes,
            "problem": _problem_view(self.problem),
        }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _problem_view(problem: tuple[int, str] | None) -> dict[str, Any] | None:
    if problem is None:
        return None
    status, message = problem
    code, kind, _ = STATUSES.get(status, STATUSES[500])
    return {"status": status, "code": code, "error_type": kind, "message": message}
