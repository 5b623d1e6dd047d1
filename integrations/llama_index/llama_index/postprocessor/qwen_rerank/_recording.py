"""Handlers that record the events of LlamaIndex's two event systems, for tests. Know no reranker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.callbacks import CBEventType
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # it has no __all__
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent

__all__ = ["CallbackRecorder", "EventRecorder", "recorded_events"]


class EventRecorder(BaseEventHandler):
    """Records every event of the dispatcher, in order."""

    seen: list[BaseEvent] = []  # noqa: RUF012 (pydantic copies it for each instance)

    @classmethod
    def class_name(cls) -> str:
        """The handler's name."""
        return "EventRecorder"

    def handle(self, event: BaseEvent, **_: Any) -> None:
        """Record an event."""
        self.seen.append(event)

    @property
    def reranking(self) -> list[BaseEvent]:
        """The start and end events of reranking."""
        return [one for one in self.seen if isinstance(one, ReRankStartEvent | ReRankEndEvent)]


@contextmanager
def recorded_events() -> Iterator[EventRecorder]:
    """Record every event that is dispatched inside the context."""
    recorder = EventRecorder()
    root = get_dispatcher()
    root.add_event_handler(recorder)
    try:
        yield recorder
    finally:
        root.event_handlers = [one for one in root.event_handlers if one is not recorder]


@dataclass(frozen=True, slots=True)
class _Event:
    event_id: str
    kind: CBEventType
    payload: dict[str, Any]


@dataclass
class CallbackRecorder(BaseCallbackHandler):
    """Records the events of a callback manager: starts and ends, each with its payload.

    Attributes:
        started: Starts, in order.
        ended: Ends, in order.
        parents: Event id → id of its parent event.
    """

    started: list[_Event] = field(default_factory=list)
    ended: list[_Event] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(event_starts_to_ignore=[], event_ends_to_ignore=[])

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **_: Any,
    ) -> str:
        """Record a start."""
        event_id = event_id or str(uuid.uuid4())
        self.started.append(_Event(event_id, event_type, dict(payload or {})))
        self.parents[event_id] = parent_id
        return event_id

    def on_event_end(
        self, event_type: CBEventType, payload: dict[str, Any] | None = None, event_id: str = "", **_: Any
    ) -> None:
        """Record an end."""
        self.ended.append(_Event(event_id, event_type, dict(payload or {})))

    def start_trace(self, trace_id: str | None = None) -> None:
        """Do nothing: traces are not recorded."""

    def end_trace(self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None) -> None:
        """Do nothing: traces are not recorded."""

    def reranking(self) -> tuple[list[_Event], list[_Event]]:
        """The starts and ends of reranking."""
        started = [one for one in self.started if one.kind == CBEventType.RERANKING]
        return started, [one for one in self.ended if one.kind == CBEventType.RERANKING]
