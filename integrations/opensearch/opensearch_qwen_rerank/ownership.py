"""Records of what this package owns in a cluster, stored in the cluster's own settings `cluster.metadata.*`.

Each pipeline has one setting with its record: the shared settings that it needs, the default pipelines that it replaced, and
the ids of its resources. One more setting holds the shared settings' original values; it is removed with the last pipeline.
A record is written in the same request as the values that it describes, so neither exists without the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from opensearch_qwen_rerank.request_bodies import (
    ALLOWED_SETTING,
    PRIVATE_ENDPOINTS_SETTING,
    PRIVATE_IP_SETTING,
    TRUSTED_SETTING,
)

__all__ = [
    "ORIGINALS_SETTING",
    "SHARED_SETTINGS",
    "OriginalSetting",
    "Ownership",
    "PipelineRecord",
    "originals_to_text",
    "record_setting",
]

PREFIX: Final = "cluster.metadata.qwen_rerank"
ORIGINALS_SETTING: Final = f"{PREFIX}.earlier"
SHARED_SETTINGS: Final = (TRUSTED_SETTING, PRIVATE_IP_SETTING, PRIVATE_ENDPOINTS_SETTING, ALLOWED_SETTING)


def record_setting(pipeline: str) -> str:
    """Return the name of the setting that holds a pipeline's record."""
    return f"{PREFIX}.pipeline.{pipeline}"


@dataclass(frozen=True, slots=True)
class PipelineRecord:
    """What one pipeline needs, has changed and owns.

    Attributes:
        shared_settings: Shared setting → the list entries that the pipeline needs, or true.
        replaced_defaults: Index → its default pipeline before this one; None if it had none.
        search_settings: The settings that `verify` needs: recipe, fields, query_path.
        ids: Resource kind → the ids of its resources, the one in use first. A search by name may not find a new resource yet.
        pending: A change was started and not finished.
        creating: Resource kinds that the change still has to create, in this order. A resource of the first may exist, since
            its id is recorded after its creation.
        stale: Ids of models that were deployed with earlier shared settings, which they keep.
    """

    shared_settings: Mapping[str, Any] = field(default_factory=dict)
    replaced_defaults: Mapping[str, str | None] = field(default_factory=dict)
    search_settings: Mapping[str, Any] = field(default_factory=dict)
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pending: bool = False
    creating: Sequence[str] = ()
    stale: Sequence[str] = ()

    def to_text(self) -> str:
        """Return the value of the setting."""
        return json.dumps(
            {
                "shared": dict(self.shared_settings),
                "indices": dict(self.replaced_defaults),
                "about": dict(self.search_settings),
                "ids": {kind: list(ids) for kind, ids in self.ids.items()},
                "pending": self.pending,
                "creating": list(self.creating),
                "stale": list(self.stale),
            },
            sort_keys=True,
        )

    @classmethod
    def from_text(cls, text: str) -> PipelineRecord:
        """Read the value of the setting."""
        held = json.loads(text)
        return cls(
            shared_settings=held["shared"],
            replaced_defaults=held["indices"],
            search_settings=held["about"],
            ids={kind: tuple(ids) for kind, ids in held["ids"].items()},
            pending=held["pending"],
            creating=tuple(held["creating"]),
            stale=tuple(held["stale"]),
        )


@dataclass(frozen=True, slots=True)
class OriginalSetting:
    """A shared setting as it was before the first pipeline.

    Attributes:
        persistent: The persistent value; None if it was not set.
        effective: The value in effect, which may be the default.
    """

    persistent: Any
    effective: Any


@dataclass(frozen=True, slots=True)
class Ownership:
    """All records of a cluster.

    Attributes:
        originals: Shared setting → its original value.
        records: Pipeline → its record.
    """

    originals: Mapping[str, OriginalSetting]
    records: Mapping[str, PipelineRecord]

    @classmethod
    def from_settings(cls, persistent: Mapping[str, Any]) -> Ownership:
        """Read the records from the cluster's persistent settings in their flat form."""
        originals = json.loads(persistent.get(ORIGINALS_SETTING) or "{}")
        prefix = record_setting("")
        return cls(
            {name: OriginalSetting(held["was"], held["base"]) for name, held in originals.items()},
            {
                name.removeprefix(prefix): PipelineRecord.from_text(text)
                for name, text in persistent.items()
                if name.startswith(prefix)
            },
        )

    def others(self, pipeline: str) -> list[PipelineRecord]:
        """Return the records of all other pipelines."""
        return [record for name, record in self.records.items() if name != pipeline]


def originals_to_text(originals: Mapping[str, OriginalSetting]) -> str:
    """Return the value of the setting that holds the original values."""
    held = {name: {"was": one.persistent, "base": one.effective} for name, one in originals.items()}
    return json.dumps(held, sort_keys=True)
