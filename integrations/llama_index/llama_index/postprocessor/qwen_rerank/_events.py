"""What LlamaIndex's two event systems are told of a reranking. Knows no scorer and no settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # it has no __all__
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import NodeWithScore, QueryBundle

dispatcher = get_dispatcher(__name__)


@dataclass(slots=True)
class Outcome:
    """Where the observed code leaves its result, for the events at the end.

    Attributes:
        nodes: What came out.
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
    """Tell both event systems that a reranking starts, and how it ends: with nodes, or with an error.

    Every start has its end. The dispatcher gets `ReRankStartEvent`, then `ReRankEndEvent` or `ExceptionEvent`; the
    callback manager gets one event of the type RERANKING, whose end holds the nodes or the exception.

    Args:
        callback_manager: The older event system; nothing is told where nobody listens.
        query: What is searched for.
        nodes: What came in.
        top_n: How many may come out; None for all, told as their number because the event demands one.
        model: The model's name.
    """
    limit = top_n if isinstance(top_n, int) else len(nodes)
    dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=limit, model_name=model))
    outcome = Outcome()
    try:
        with _callbacks(
            callback_manager, query=query, nodes=nodes, top_n=limit, model=model, outcome=outcome
        ):
            yield outcome
    except BaseException as error:
        dispatcher.event(ExceptionEvent(exception=error))
        raise
    dispatcher.event(ReRankEndEvent(nodes=outcome.nodes))


@contextmanager
def _callbacks(
    manager: CallbackManager,
    *,
    query: QueryBundle,
    nodes: list[NodeWithScore],
    top_n: int,
    model: str,
    outcome: Outcome,
) -> Iterator[None]:
    if not manager.handlers:  # else its map of traces would grow by one entry a call, for nobody
        yield
        return
    payload: dict[str, Any] = {
        EventPayload.NODES: nodes,
        EventPayload.MODEL_NAME: model,
        EventPayload.QUERY_STR: query.query_str,
        EventPayload.TOP_K: top_n,
    }
    with manager.event(CBEventType.RERANKING, payload=payload) as event:
        yield
        event.on_end(payload={EventPayload.NODES: outcome.nodes})
