"""The settings that all connectors of a cluster share: what a pipeline adds to them, and what its end gives back.

Lists are extended, never replaced. Nothing here sends anything: it computes the values of one `_cluster/settings`
request, what is remembered included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opensearch_qwen_rerank.errors import ForeignObjectError
from opensearch_qwen_rerank.memory import EARLIER, Earlier, Memory, Record, earlier_to_text, recorded_as
from opensearch_qwen_rerank.state import State
from opensearch_qwen_rerank.steps import Change

__all__ = ["changes_of", "grown", "restored", "shrunk", "with_memory"]


def grown(state: State, needed: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings that must change for a pipeline, with their new values.

    Raises:
        ForeignObjectError: A transient value would hide the new one.
    """
    values: dict[str, Any] = {}
    for name, need in needed.items():
        value = state.in_force(name)
        if isinstance(need, list):
            current = _entries(value)
            new: Any = [*current, *(entry for entry in need if entry not in current)]
            changed = new != current
        else:
            new, changed = "true", str(value).lower() != "true"
        if not changed:
            continue
        if name in state.transient:
            raise ForeignObjectError(
                f"{name!r} has a transient value, which would hide what is set here; "
                "allowed: a persistent one (set the transient value to null first)"
            )
        values[name] = new
    return values


def shrunk(
    current: Mapping[str, Any], memory: Memory, pipeline: str, *, old: Record, new: Record
) -> dict[str, Any]:
    """Give the settings that change when a pipeline no longer needs what it needed before.

    Args:
        current: The persistent settings as they will be then.
        memory: What is remembered.
        pipeline: Whose record it is.
        old: What it needed.
        new: What it needs.
    """
    values: dict[str, Any] = {}
    needs = [*memory.others(pipeline), new]
    for name, had in old.shared.items():
        if isinstance(had, list):
            gone = _no_longer_needed(had, name, memory, needs)
            entries = _entries(current.get(name))
            if gone & set(entries):
                left = [entry for entry in entries if entry not in gone]
                earlier = memory.earlier.get(name)
                if earlier is not None and set(left) == set(_entries(earlier.base)):
                    values[name] = earlier.was
                else:
                    values[name] = left
        elif not any(record.shared.get(name) for record in needs) and name in memory.earlier:
            values[name] = memory.earlier[name].was
    return values


def restored(persistent: Mapping[str, Any], memory: Memory, pipeline: str) -> dict[str, Any]:
    """Give the settings that change when a pipeline is removed; None for those that become unset.

    The last pipeline puts back what was there before the first. Where somebody else has changed a list since, only
    this package's entries go.
    """
    old = memory.records.get(pipeline, Record())
    if memory.others(pipeline):
        return shrunk(persistent, memory, pipeline, old=old, new=Record())
    values: dict[str, Any] = {}
    for name, earlier in memory.earlier.items():
        if name not in persistent:
            continue
        ours = old.shared.get(name)
        if _is_as_left(persistent[name], earlier, ours):
            values[name] = earlier.was
        elif isinstance(ours, list):
            base = set(_entries(earlier.base))
            values[name] = [
                entry for entry in _entries(persistent[name]) if entry in base or entry not in ours
            ]
    return {name: value for name, value in values.items() if value != persistent.get(name)}


def _is_as_left(value: Any, earlier: Earlier, ours: Any) -> bool:
    if isinstance(ours, list):
        return set(_entries(value)) == {*_entries(earlier.base), *ours}
    return str(value).lower() == "true"


def _no_longer_needed(had: list[str], name: str, memory: Memory, needs: Sequence[Record]) -> set[str]:
    kept = {entry for record in needs for entry in record.shared.get(name, [])}
    base = set(_entries(memory.earlier[name].base)) if name in memory.earlier else set()
    return {entry for entry in had if entry not in kept and entry not in base}


def with_memory(
    values: Mapping[str, Any],
    pipeline: str,
    record: Record | None,
    *,
    earlier: Mapping[str, Earlier] | None,
) -> dict[str, Any]:
    """Give the body of a `_cluster/settings` request.

    Args:
        values: Settings that change.
        pipeline: Whose record is written.
        record: What is remembered of it; None to forget it.
        earlier: The earlier values to remember; empty to forget them, None to leave them as they are.
    """
    persistent = {**values, recorded_as(pipeline): None if record is None else record.to_text()}
    if earlier is not None:
        persistent[EARLIER] = earlier_to_text(earlier) if earlier else None
    return {"persistent": persistent}


def changes_of(before: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[Change, ...]:
    """Show what becomes of settings; of a list only what comes and goes."""
    changes = []
    for name, after in values.items():
        old = before.get(name)
        if isinstance(after, list):
            entries = _entries(old)
            gone = [entry for entry in entries if entry not in after] or None
            new = [entry for entry in after if entry not in entries] or None
            changes.append(Change(name, gone, new))
        else:
            changes.append(Change(name, old, after))
    return tuple(changes)


def _entries(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]
