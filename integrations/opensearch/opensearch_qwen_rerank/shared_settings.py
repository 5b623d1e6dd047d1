"""Computes the values of cluster settings that all connectors share: extended by a pipeline, restored when it is removed.

Lists are extended, never replaced. This module sends nothing: it returns the body of a `_cluster/settings` request,
including the records of ownership.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opensearch_qwen_rerank.current_state import ClusterSettings
from opensearch_qwen_rerank.errors import ForeignObjectError
from opensearch_qwen_rerank.ownership import (
    ORIGINALS_SETTING,
    OriginalSetting,
    Ownership,
    PipelineRecord,
    originals_to_text,
    record_setting,
)
from opensearch_qwen_rerank.steps import Change

__all__ = ["extended_values", "reduced_values", "restored_values", "setting_changes", "settings_body"]


def extended_values(settings: ClusterSettings, required: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that must change for a pipeline, with their new values.

    Raises:
        ForeignObjectError: A transient value would hide the new one.
    """
    values: dict[str, Any] = {}
    for name, need in required.items():
        value = settings.effective(name)
        if isinstance(need, list):
            current = _entries(value)
            new: Any = [*current, *(entry for entry in need if entry not in current)]
            changed = new != current
        else:
            new, changed = "true", str(value).lower() != "true"
        if not changed:
            continue
        if name in settings.transient:
            raise ForeignObjectError(
                f"{name!r} has a transient value, which would hide the persistent value that the pipeline needs. "
                "Set the transient value to null, and set it persistently if it is still needed."
            )
        values[name] = new
    return values


def reduced_values(
    persistent: Mapping[str, Any],
    ownership: Ownership,
    pipeline: str,
    *,
    old: PipelineRecord,
    new: PipelineRecord,
) -> dict[str, Any]:
    """Return the settings that change when a pipeline needs less than before, with their new values.

    Args:
        persistent: The persistent settings at that time.
        ownership: All records.
        pipeline: Name of the pipeline.
        old: The pipeline's record before the change.
        new: The pipeline's record after the change.
    """
    values: dict[str, Any] = {}
    remaining = [*ownership.others(pipeline), new]
    for name, had in old.shared_settings.items():
        original = ownership.originals.get(name)
        if isinstance(had, list):
            obsolete = _obsolete_entries(had, name, original, remaining)
            entries = _entries(persistent.get(name))
            if obsolete & set(entries):
                left = [entry for entry in entries if entry not in obsolete]
                is_original = original is not None and set(left) == set(_entries(original.effective))
                values[name] = original.persistent if original is not None and is_original else left
        elif original is not None and not any(record.shared_settings.get(name) for record in remaining):
            values[name] = original.persistent
    return values


def restored_values(persistent: Mapping[str, Any], ownership: Ownership, pipeline: str) -> dict[str, Any]:
    """Return the settings that change when a pipeline is removed; None for those that are unset.

    The last pipeline restores the original values. If somebody else changed a list in the meantime, only the entries of
    this package are removed.
    """
    old = ownership.records.get(pipeline, PipelineRecord())
    if ownership.others(pipeline):
        return reduced_values(persistent, ownership, pipeline, old=old, new=PipelineRecord())
    values: dict[str, Any] = {}
    for name, original in ownership.originals.items():
        if name not in persistent:
            continue
        ours = old.shared_settings.get(name)
        if _is_unchanged(persistent[name], original, ours):
            values[name] = original.persistent
        elif isinstance(ours, list):
            base = set(_entries(original.effective))
            values[name] = [
                entry for entry in _entries(persistent[name]) if entry in base or entry not in ours
            ]
    return {name: value for name, value in values.items() if value != persistent.get(name)}


def _is_unchanged(value: Any, original: OriginalSetting, ours: Any) -> bool:
    """Whether nobody else changed a setting after this package did."""
    if isinstance(ours, list):
        return set(_entries(value)) == {*_entries(original.effective), *ours}
    return str(value).lower() == "true"


def _obsolete_entries(
    had: list[str], name: str, original: OriginalSetting | None, remaining: Sequence[PipelineRecord]
) -> set[str]:
    needed = {entry for record in remaining for entry in record.shared_settings.get(name, [])}
    base = set() if original is None else set(_entries(original.effective))
    return set(had) - needed - base


def settings_body(
    values: Mapping[str, Any],
    pipeline: str,
    record: PipelineRecord | None,
    *,
    originals: Mapping[str, OriginalSetting] | None = None,
) -> dict[str, Any]:
    """Return the body of a `_cluster/settings` request.

    Args:
        values: Settings that change.
        pipeline: Name of the pipeline.
        record: The pipeline's new record; None removes it.
        originals: The original values to store; an empty mapping removes them, None keeps them.
    """
    persistent = {**values, record_setting(pipeline): None if record is None else record.to_text()}
    if originals is not None:
        persistent[ORIGINALS_SETTING] = originals_to_text(originals) if originals else None
    return {"persistent": persistent}


def setting_changes(before: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return the changes to settings for display; for a list, its removed and its added entries."""
    changes = []
    for name, after in values.items():
        old = before.get(name)
        if isinstance(after, list):
            entries = _entries(old)
            removed = [entry for entry in entries if entry not in after] or None
            added = [entry for entry in after if entry not in entries] or None
            changes.append(Change(name, removed, added))
        else:
            changes.append(Change(name, old, after))
    return tuple(changes)


def _entries(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]
