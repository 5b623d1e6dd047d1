"""Complete traces: spans with their parents, events in their spans, in both systems, also for empty results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.instrumentation.events.span import SpanDropEvent  # type: ignore[attr-defined]
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.postprocessor.qwen_rerank import QwenRerank
from llama_index.postprocessor.qwen_rerank._recording import CallbackRecorder, EventRecorder, recorded_events

from qwen_rerank_plugins import EngineError
from tests.doubles import FakeScorer
from tests.integrations.llama_index.nodes import faked, ids, some_nodes

either_way = pytest.mark.parametrize("asynchronous", [False, True])


def run(reranker: QwenRerank, nodes: list[NodeWithScore], *, asynchronous: bool, query: str = "q") -> Any:
    if asynchronous:
        return asyncio.run(reranker.apostprocess_nodes(nodes, QueryBundle(query)))
    return reranker.postprocess_nodes(nodes, QueryBundle(query))


@pytest.fixture
def events() -> Iterator[EventRecorder]:
    with recorded_events() as recorder:
        yield recorder


@pytest.fixture
def spans() -> Iterator[SimpleSpanHandler]:
    handler, root = SimpleSpanHandler(), get_dispatcher()
    root.add_span_handler(handler)
    yield handler
    root.span_handlers = [one for one in root.span_handlers if one is not handler]


@either_way
def test_a_reranking_is_one_span_with_a_start_and_an_end(
    events: EventRecorder, spans: SimpleSpanHandler, *, asynchronous: bool
) -> None:
    nodes = some_nodes("0.1", "0.9", scores=[0.4, 0.3])
    given = run(faked(top_n=1), nodes, asynchronous=asynchronous)
    start, end = events.seen
    assert isinstance(start, ReRankStartEvent)
    assert isinstance(end, ReRankEndEvent)
    assert (str(start.query), start.top_n, start.model_name) == ("q", 1, "fake")
    assert (ids(start.nodes), [one.score for one in start.nodes]) == (["n0", "n1"], [0.4, 0.3])
    assert end.nodes == given
    assert ids(end.nodes) == ["n1"]
    (span,) = spans.completed_spans
    name = "QwenRerank._apostprocess_nodes" if asynchronous else "QwenRerank._postprocess_nodes"
    assert span.id_.startswith(name)
    assert start.span_id == end.span_id == span.id_
    assert (spans.open_spans, spans.dropped_spans) == ({}, [])


@either_way
def test_a_call_with_options_of_its_own_is_a_span_too(
    events: EventRecorder, spans: SimpleSpanHandler, *, asynchronous: bool
) -> None:
    nodes = some_nodes("0.1", "0.9")
    if asynchronous:
        asyncio.run(faked().arerank(nodes, "q", top_n=1))
    else:
        faked().rerank(nodes, "q", top_n=1)
    (span,) = spans.completed_spans
    assert span.id_.startswith("QwenRerank.arerank" if asynchronous else "QwenRerank.rerank")
    assert [type(one) for one in events.seen] == [ReRankStartEvent, ReRankEndEvent]
    assert {one.span_id for one in events.seen} == {span.id_}


@either_way
def test_no_limit_is_reported_as_the_number_of_nodes(events: EventRecorder, *, asynchronous: bool) -> None:
    run(faked(), some_nodes("0.1", "0.9", "0.2"), asynchronous=asynchronous)
    start = events.seen[0]
    assert isinstance(start, ReRankStartEvent)
    assert start.top_n == 3


@either_way
def test_no_nodes_are_a_start_and_an_end(events: EventRecorder, *, asynchronous: bool) -> None:
    recorder = CallbackRecorder()
    reranker = faked()
    reranker.callback_manager = CallbackManager([recorder])
    assert run(reranker, [], asynchronous=asynchronous) == []
    assert [(type(one), one.nodes) for one in events.reranking] == [  # type: ignore[attr-defined]
        (ReRankStartEvent, []),
        (ReRankEndEvent, []),
    ]
    started, ended = recorder.reranking()
    assert [one.event_id for one in started] == [one.event_id for one in ended]
    assert ended[0].payload == {EventPayload.NODES: []}


@either_way
def test_a_failure_is_reported_in_its_span_and_leaves_no_start_without_an_end(
    events: EventRecorder, spans: SimpleSpanHandler, *, asynchronous: bool
) -> None:
    error = EngineError("broken")
    recorder = CallbackRecorder()
    reranker = faked(FakeScorer(error=error))
    reranker.callback_manager = CallbackManager([recorder])
    with pytest.raises(EngineError):
        run(reranker, some_nodes("0.1"), asynchronous=asynchronous)
    start, failure, drop = events.seen
    assert isinstance(start, ReRankStartEvent)
    assert isinstance(failure, ExceptionEvent)
    assert isinstance(drop, SpanDropEvent)
    assert failure.exception is error
    (span,) = spans.dropped_spans
    assert start.span_id == failure.span_id == drop.span_id == span.id_
    assert drop.err_str == "broken"
    started, ended = recorder.reranking()
    assert [one.event_id for one in started] == [one.event_id for one in ended]
    assert ended[0].payload == {EventPayload.EXCEPTION: error}


@either_way
def test_a_survived_failure_and_a_switched_off_reranker_end_with_the_nodes_that_come(
    events: EventRecorder, *, asynchronous: bool
) -> None:
    survived = faked(FakeScorer(error=EngineError("broken")), on_error="keep_order")
    for reranker in (survived, faked(enabled=False)):
        given = run(reranker, some_nodes("0.1", "0.2"), asynchronous=asynchronous)
        start, end = events.seen[-2:]
        assert isinstance(start, ReRankStartEvent)
        assert isinstance(end, ReRankEndEvent)
        assert end.nodes == given


def test_a_refused_call_starts_nothing(events: EventRecorder) -> None:
    recorder = CallbackRecorder()
    reranker = faked()
    reranker.callback_manager = CallbackManager([recorder])
    with pytest.raises(ValueError, match="query is missing"):
        reranker.postprocess_nodes(some_nodes("0.1"))
    assert [type(one) for one in events.seen] == [SpanDropEvent]
    assert recorder.started == []


def test_a_wrong_option_of_a_call_is_reported_as_a_failure(events: EventRecorder) -> None:
    with pytest.raises(ValueError, match="`top_n` must be an integer or None"):
        faked().rerank(some_nodes("0.1"), "q", top_n="3")
    assert [type(one) for one in events.seen] == [ReRankStartEvent, ExceptionEvent, SpanDropEvent]


@either_way
def test_the_older_system_receives_input_and_output(*, asynchronous: bool) -> None:
    recorder = CallbackRecorder()
    reranker = faked(top_n=1)
    reranker.callback_manager = CallbackManager([recorder])
    nodes = some_nodes("0.1", "0.9")
    given = run(reranker, nodes, asynchronous=asynchronous)
    (start,), (end,) = recorder.reranking()
    assert start.kind is CBEventType.RERANKING
    assert start.payload == {
        EventPayload.NODES: nodes,
        EventPayload.MODEL_NAME: "fake",
        EventPayload.QUERY_STR: "q",
        EventPayload.TOP_K: 1,
    }
    assert end.payload == {EventPayload.NODES: given}
    assert recorder.parents == {start.event_id: "root"}


def test_a_manager_to_which_nobody_listens_remembers_nothing() -> None:
    reranker = faked()
    reranker.callback_manager = CallbackManager()
    for _ in range(3):
        reranker.postprocess_nodes(some_nodes("0.1"), query_str="q")
    assert reranker.callback_manager.trace_map == {}


def test_concurrent_calls_keep_their_events_apart(events: EventRecorder) -> None:
    reranker = faked(FakeScorer(delay_s=0.01))

    async def gather() -> None:
        calls = (reranker.apostprocess_nodes(some_nodes(f"0.{n}"), query_str=f"q{n}") for n in range(8))
        await asyncio.gather(*calls)

    asyncio.run(gather())
    spans: dict[str | None, list[Any]] = {}
    for event in events.reranking:
        spans.setdefault(event.span_id, []).append(event)
    assert len(spans) == 8
    for start, end in spans.values():
        assert isinstance(start, ReRankStartEvent)
        assert isinstance(end, ReRankEndEvent)
        assert start.nodes[0].text == f"0.{str(start.query)[1:]}" == end.nodes[0].text
