"""The record of a job: as an object, as a row of the database, and as its owner sees it. Opens no file."""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from qwen_rerank_plugins.batch import BatchReport, Guess
from qwen_rerank_plugins.service.errors import STATUSES, Problem

__all__ = ["FORMATS", "HIDDEN", "JOB_ID", "SHOWN_STATES", "Job", "JobSpec", "Progress"]

FORMATS = ("csv", "jsonl", "parquet")
SHOWN_STATES = ("queued", "running", "done", "failed")
HIDDEN = {"owner", "digest"}
"""Fields that are not shown to clients."""
JOB_ID = re.compile("^[0-9a-f]{32}$")


def _enum(values: Iterable[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": list(values)})


Count = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0})]
Format = Annotated[str, _enum(FORMATS)]
UnixTime = Annotated[
    float,
    PlainSerializer(int, return_type=int, when_used="json"),
    WithJsonSchema({"type": "integer", "description": "Unix time in seconds."}),
]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class JobSpec(_Record):
    """The request of a client. The name is for the client, and never part of a path."""

    name: str
    input_format: Format
    output_format: Format
    options: dict[str, str] = {}


class Progress(_Record):
    """Progress of the job."""

    phase: Literal["scoring", "writing"] = "scoring"
    fraction: Annotated[float, WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})] = Field(
        default=0.0, description="Fraction of the current phase."
    )
    num_rows: Count = 0
    num_pairs: Count = 0
    num_rejected: Count = Field(default=0, description="Rows that were rejected.")
    pairs_per_s: float | None = None
    seconds_left: float | None = None


class JobProblem(_Record):
    """Why the job failed, in the fields of an error answer."""

    status: int
    code: Annotated[str, _enum(sorted(one.code for one in STATUSES.values()))]
    error_type: Annotated[str, _enum(sorted({one.error_type for one in STATUSES.values()}))]
    message: str


class Job(JobSpec):
    """An upload job."""

    id: str = Field(default_factory=lambda: secrets.token_hex(16), pattern=JOB_ID.pattern)
    owner: str  # as returned by `KeyRing.owner`
    # A `cancelled` job is no longer shown, and is deleted when its run has ended.
    state: Annotated[Literal["queued", "running", "done", "failed", "cancelled"], _enum(SHOWN_STATES)] = (
        "queued"
    )
    num_bytes: Count
    digest: str = ""  # of the upload, as returned by `file_digest`
    created_s: UnixTime = Field(default_factory=time.time, serialization_alias="created")
    started_s: UnixTime | None = Field(default=None, serialization_alias="started")
    finished_s: UnixTime | None = Field(default=None, serialization_alias="finished")
    expires_s: UnixTime | None = Field(default=None, serialization_alias="expires")
    num_ahead: Count | None = Field(
        default=None, description="Number of jobs before it in the queue; null unless it is queued."
    )
    progress: Progress = Progress()
    guess: Guess | None = Field(
        default=None,
        description="Encoding and delimiter with three decoded texts, if one of them is a guess.",
    )
    model: str | None = None
    num_written: Count | None = None
    num_warned: Count | None = Field(default=None, description="Rows with a warning about their texts.")
    result_bytes: Count | None = None
    rejected_bytes: Count | None = None
    problem: JobProblem | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether it is cancelled."""
        return self.state == "cancelled"

    def end(self, outcome: BatchReport | Problem) -> None:
        """Set the state to done or failed."""
        self.finished_s = time.time()
        if isinstance(outcome, Problem):
            status = STATUSES.get(outcome.status, STATUSES[500])
            self.state = "failed"
            self.problem = JobProblem(
                status=outcome.status, code=status.code, error_type=status.error_type, message=outcome.message
            )
            return
        self.state, self.model = "done", PurePath(outcome.model).name or outcome.model
        self.num_written, self.num_warned = outcome.num_written, outcome.num_warned
        numbers = ("num_rows", "num_pairs", "num_rejected", "pairs_per_s")
        known = {name: getattr(outcome, name) for name in numbers}
        self.progress = Progress(phase="writing", fraction=1.0, seconds_left=0.0, **known)

    def view(self, retention_s: float, num_ahead: int | None) -> dict[str, Any]:
        """Return the job as its owner sees it.

        Args:
            retention_s: Time that a finished job is kept, in seconds.
            num_ahead: Number of jobs before it in the queue; None unless it is in the queue.
        """
        expires_s = self.finished_s and self.finished_s + retention_s
        shown = {"expires_s": expires_s, "num_ahead": num_ahead if self.state == "queued" else None}
        values = self.model_copy(update=shown).model_dump(mode="json", by_alias=True, exclude=HIDDEN)
        return {"id": self.id, "state": self.state} | values

    def as_row(self) -> dict[str, Any]:
        """Return the values of the row in the database: each field, and all of them as JSON in `details`."""
        row = self.model_dump()
        return row | {"details": json.dumps(row)}

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Create a job from a row. The fields with a column of their own have the value of the column."""
        fields = dict(row)
        return cls.model_validate(json.loads(fields.pop("details")) | fields)
