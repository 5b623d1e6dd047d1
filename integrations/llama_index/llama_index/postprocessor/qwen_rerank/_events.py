"""Reports a reranking to LlamaIndex's two event systems. Knows no scorer and no settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base import EventContext
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # it has no __all__
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import NodeWithScore, QueryBundle

dispatcher = get_dispatcher(__name__)


@dataclass(slots=True)
class Outcome:
    """Where the observed code stores its result, for the events at the end.

    Attributes:
        nodes: The reranked nodes.
    """

    nodes: list[NodeWithScore] = field(default_factory=list)


@contextmanager
def observed(
    callback_manager: CallbackManager,
    *,
    query: QueryBundle,
    nodes: list[NodeWithScore],
    top_n: int | None,
    model: str,
) -> Iterator[Outcome]:
    """Report to both event systems that a reranking starts, and how it ends: with nodes, or with an error.

    Every start has its end. The dispatcher gets `ReRankStartEvent`, then `ReRankEndEvent` or `ExceptionEvent`; the
    callback manager gets one event of the type RERANKING, whose end holds the nodes or the exception.

    Args:
        callback_manager: The older event system; without handlers nothing is reported to it.
        query: The search query.
        nodes: The nodes before reranking.
        top_n: Maximum number of results; None for all, reported as the number of nodes since the event needs one.
        model: The model's name.
    """
    limit = top_n if isinstance(top_n, int) else len(nodes)
    payload: dict[str, Any] = {
        EventPayload.NODES: nodes,
        EventPayload.MODEL_NAME: model,
        EventPayload.QUERY_STR: query.query_str,
        EventPayload.TOP_K: limit,
    }
    callbacks: AbstractContextManager[EventContext | None] = nullcontext()
    if callback_manager.handlers:  # without handlers its map of traces would grow by one entry per call
        callbacks = callback_manager.event(CBEventType.RERANKING, payload=payload)
    dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=limit, model_name=model))
    outcome = Outcome()
    try:
        with callbacks as event:
            yield outcome
            if event is not None:
                event.on_end(payload={EventPayload.NODES: outcome.nodes})
    except BaseException as error:
        dispatcher.event(ExceptionEvent(exception=error))
        raise
    dispatcher.event(ReRankEndEvent(nodes=outcome.nodes))
