"""What is known of a job, as an object, as the file beside its data, and as its owner sees it. Opens no file."""

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
"""`cancelled`: nobody sees it any more; its files go as soon as nothing reads them."""

FORMAT_VERSION = 1
ID_BYTES = 16
FILES_PER_UPLOAD = 2  # the upload, and a result of about its size
JOB_ID = re.compile(r"[0-9a-f]{32}\Z")

UNFINISHED: tuple[JobState, ...] = ("queued", "running")


def new_id() -> str:
    """A name that nobody can guess."""
    return secrets.token_hex(ID_BYTES)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a client asked for.

    Attributes:
        name: Of the file, to be shown and to name the result after; it never names a file here.
        input_format: Of the upload.
        output_format: Of the result.
        options: Of the batch pipeline, as far as they were given: plain JSON types.
    """

    name: str
    input_format: str
    output_format: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; see `BatchProgress`."""

    phase: str = "scoring"
    fraction: float = 0.0
    num_rows: int = 0
    num_pairs: int = 0
    num_rejected: int = 0
    pairs_per_s: float | None = None
    seconds_left: float | None = None

    @classmethod
    def of(cls, told: BatchProgress) -> Self:
        """Take over what the pipeline tells."""
        return cls(
            told.phase,
            told.fraction,
            told.num_rows,
            told.num_pairs,
            told.num_set_aside,
            told.pairs_per_s,
            told.seconds_left,
        )


@dataclass(slots=True)
class Job:
    """One upload and what becomes of it.

    Attributes:
        id: Its name, in addresses and as its folder.
        owner: Whose it is, as `KeyRing.owner` says it.
        spec: What was asked for.
        num_bytes: Of the upload.
        created_s: Unix time, as the next two.
        state: Where it stands.
        started_s: When scoring began for the first time.
        finished_s: When it was done or failed.
        progress: How far it is.
        model: That scored, once it is done.
        num_written: Rows of the result.
        result_bytes: Of the result; None while there is none.
        rejected_bytes: Of the rows that were set aside; None if there are none.
        problem: Why it failed: status and message.
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
        """Whether nothing more will happen to it."""
        return self.state not in UNFINISHED

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody wants it any more."""
        return self.state == "cancelled"

    @property
    def stored_bytes(self) -> int:
        """Bytes that its files take, roughly."""
        if not self.is_finished:
            return FILES_PER_UPLOAD * self.num_bytes
        return (self.result_bytes or 0) + (self.rejected_bytes or 0)

    def fail(self, problem: Problem) -> None:
        """End it without a result."""
        self.state, self.finished_s = "failed", time.time()
        self.problem = (problem.status, problem.message)

    def as_json(self) -> dict[str, Any]:
        """What its file holds."""
        return {"version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `as_json` wrote.

        Raises:
            ValueError: It is something else, or of another version.
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
        """What its owner sees.

        Args:
            retention_s: How long a finished job is kept.
            num_ahead: Jobs that are scored before it, while it waits.
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
