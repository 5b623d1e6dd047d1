"""What is remembered in the cluster itself, in its free settings `cluster.metadata.*`.

One setting for each pipeline says what that pipeline needs of the settings that all share, and what its indices had
as default pipeline before. One more holds the shared settings' values from before the first pipeline; it goes with the
last. They are written in the same request as the values that they speak of, so neither is ever there alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from opensearch_qwen_rerank.bodies import PRIVATE_ENDPOINTS_SETTING, PRIVATE_IP_SETTING, TRUSTED_SETTING

__all__ = ["EARLIER", "SHARED", "Earlier", "Memory", "Record", "recorded_as"]

PREFIX: Final = "cluster.metadata.qwen_rerank"
EARLIER: Final = f"{PREFIX}.earlier"
SHARED: Final = (TRUSTED_SETTING, PRIVATE_IP_SETTING, PRIVATE_ENDPOINTS_SETTING)


def recorded_as(pipeline: str) -> str:
    """Name the setting that holds a pipeline's record."""
    return f"{PREFIX}.pipeline.{pipeline}"


@dataclass(frozen=True, slots=True)
class Record:
    """What one pipeline needs and has changed.

    Attributes:
        shared: Shared setting → the list's entries that it needs, or true.
        indices: Index → the default pipeline that it had before, None for none.
        about: What `verify` must know of the pipeline: recipe, fields, query_path.
        pending: A change has begun and is not finished, so the model must be deployed again.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    indices: Mapping[str, str | None] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    pending: bool = False

    def to_text(self) -> str:
        """Write it as the setting's value."""
        return json.dumps(
            {
                "shared": dict(self.shared),
                "indices": dict(self.indices),
                "about": dict(self.about),
                "pending": self.pending,
            },
            sort_keys=True,
        )

    @classmethod
    def from_text(cls, text: str) -> Record:
        """Read a setting's value."""
        told = json.loads(text)
        return cls(told["shared"], told["indices"], told["about"], told["pending"])

    def after(self, **changes: Any) -> Record:
        """Give a copy with changes."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Earlier:
    """A shared setting before the first pipeline.

    Attributes:
        was: Its persistent value; None where it had none.
        base: The value in force then, its default included.
    """

    was: Any
    base: Any


@dataclass(frozen=True, slots=True)
class Memory:
    """All that is remembered.

    Attributes:
        earlier: Shared setting → what it was.
        records: Pipeline → its record.
    """

    earlier: Mapping[str, Earlier]
    records: Mapping[str, Record]

    @classmethod
    def read(cls, persistent: Mapping[str, Any]) -> Memory:
        """Read it from the cluster's persistent settings, in their flat form."""
        earlier = json.loads(persistent.get(EARLIER) or "{}")
        start = recorded_as("")
        return cls(
            {name: Earlier(told["was"], told["base"]) for name, told in earlier.items()},
            {
                name.removeprefix(start): Record.from_text(text)
                for name, text in persistent.items()
                if name.startswith(start)
            },
        )

    def others(self, pipeline: str) -> list[Record]:
        """Give the records of all other pipelines."""
        return [record for name, record in self.records.items() if name != pipeline]


def earlier_to_text(earlier: Mapping[str, Earlier]) -> str:
    """Write the earlier values as the setting's value."""
    told = {name: {"was": one.was, "base": one.base} for name, one in earlier.items()}
    return json.dumps(told, sort_keys=True)
