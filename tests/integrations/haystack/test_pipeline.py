"""In Haystack's own pipelines: from a file, blocking and asynchronous, visible in traces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import haystack
import pytest
from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.tracing.tracer import Span, Tracer, disable_tracing, enable_tracing, tracer
from haystack_integrations.components.rankers.qwen_rerank import QwenReranker

from qwen_rerank_plugins import OverloadedError
from tests.doubles import FakeScorer
from tests.integrations.haystack.documents import faked, ids, some_documents

TEXTS = (
    "a train to the coast, kettle kettle",
    "how to descale a kettle with vinegar",
    "a library of books",
    "vinegar keeps for years",
)
QUESTION = "how to descale a kettle"
YAML = """
components:
  ranker:
    type: haystack_integrations.components.rankers.qwen_rerank.ranker.QwenReranker
    init_parameters:
      backend: lexical
      top_k: 1
      meta_fields_to_embed: [title]
connections: []
"""


class Recorded(Span):
    """Keeps its tags, content and all."""

    def __init__(self, name: str, tags: dict[str, Any] | None) -> None:
        self.name, self.tags = name, dict(tags or {})

    def set_tag(self, key: str, value: Any) -> None:
        self.tags[key] = value


class Recorder(Tracer):
    """Keeps every span."""

    def __init__(self) -> None:
        self.spans: list[Recorded] = []

    @contextlib.contextmanager
    def trace(
        self, operation_name: str, tags: dict[str, Any] | None = None, parent_span: Span | None = None
    ) -> Iterator[Span]:
        span = Recorded(operation_name, tags)
        self.spans.append(span)
        yield span

    def current_span(self) -> Span | None:
        return self.spans[-1] if self.spans else None

    def of(self, name: str) -> dict[str, Any]:
        """The tags of the one span of a component."""
        (span,) = [one for one in self.spans if one.tags.get("haystack.component.name") == name]
        return span.tags


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A tracer that records contents."""
    listening = Recorder()
    monkeypatch.setattr(tracer, "is_content_tracing_enabled", True)
    enable_tracing(listening)
    yield listening
    disable_tracing()


def asynchronous_pipeline() -> Any:
    """Haystack 2 has a separate class for it, Haystack 3 does not."""
    kind: Any = getattr(haystack, "AsyncPipeline", None) or Pipeline
    if not hasattr(kind, "run_async"):
        pytest.skip("this version of Haystack has no asynchronous pipelines")
    return kind


def filled(pipeline: Any, ranker: Any) -> Any:
    """A pipeline of a first stage by words and a ranker."""
    store = InMemoryDocumentStore()
    store.write_documents([Document(content=text, id=f"d{n}") for n, text in enumerate(TEXTS)])
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=10))
    pipeline.add_component("ranker", ranker)
    pipeline.connect("retriever.documents", "ranker.documents")
    return pipeline


def data(**options: Any) -> dict[str, Any]:
    return {"retriever": {"query": QUESTION}, "ranker": {"query": QUESTION, **options}}


def test_its_sockets_are_those_of_haystacks_rankers() -> None:
    ranker: Any = QwenReranker()
    inputs = {name: socket.is_mandatory for name, socket in ranker.__haystack_input__._sockets_dict.items()}
    assert inputs == {
        "query": True,
        "documents": True,
        "top_k": False,
        "score_threshold": False,
        "instruction": False,
    }
    (output,) = ranker.__haystack_output__._sockets_dict.values()
    assert (output.name, output.type) == ("documents", list[Document])


def test_a_pipeline_returns_the_reranked_documents() -> None:
    pipeline = filled(Pipeline(), QwenReranker(backend="lexical", top_k=2))
    found = pipeline.run(data())["ranker"]["documents"]
    assert ids(found)[0] == "d1"
    assert len(found) == 2
    assert found[0].meta["first_stage_score"] > 1
    assert len(pipeline.run(data(top_k=1, instruction="Find the answer"))["ranker"]["documents"]) == 1


def test_an_asynchronous_pipeline_returns_the_same() -> None:
    kind = asynchronous_pipeline()
    expected = filled(Pipeline(), QwenReranker(backend="lexical")).run(data())["ranker"]["documents"]
    pipeline = filled(kind(), QwenReranker(backend="lexical"))
    found = asyncio.run(pipeline.run_async(data()))["ranker"]["documents"]
    assert [(one.id, one.score) for one in found] == [(one.id, one.score) for one in expected]


def test_an_asynchronous_pipeline_takes_the_native_call() -> None:
    kind = asynchronous_pipeline()

    class NeverBlocking(FakeScorer):
        async def ascore(self, requests, *, deadline_s=None, priority="interactive"):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            return [self._score_one(one) for one in requests]

        def score(self, requests: Any, *, deadline_s: Any = None, priority: str = "interactive") -> Any:
            pytest.fail("the blocking call was taken")

    pipeline = kind()
    pipeline.add_component("ranker", faked(NeverBlocking()))
    given = {"ranker": {"query": "q", "documents": some_documents("0.1", "0.9")}}
    assert ids(asyncio.run(pipeline.run_async(given))["ranker"]["documents"]) == ["d1", "d0"]


def test_a_pipeline_is_loaded_from_a_file_and_serialized_again() -> None:
    pipeline = Pipeline.loads(YAML)
    documents = [Document(content="the first", meta={"title": "whale"}), Document(content="the second")]
    found = pipeline.run({"ranker": {"query": "whale", "documents": documents}})["ranker"]["documents"]
    assert [one.content for one in found] == ["the first"]
    assert Pipeline.loads(pipeline.dumps()).dumps() == pipeline.dumps()
    written = pipeline.to_dict()["components"]["ranker"]["init_parameters"]
    assert written == {"backend": "lexical", "top_k": 1, "meta_fields_to_embed": ["title"]}


def test_a_wrong_setting_in_a_file_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(Exception, match="tpo_n") as caught:
        Pipeline.loads(YAML.replace("top_k", "tpo_n"))
    message = f"{caught.value} {caught.value.__cause__}"  # older versions leave the reason to the cause
    assert "unknown setting 'tpo_n'" in message
    assert "'top_n'" in message


def test_a_secret_goes_through_a_file_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from haystack.utils import Secret

    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    pipeline = Pipeline()
    remote: dict[str, Any] = {"backend": "remote", "base_url": "http://127.0.0.1:9"}
    pipeline.add_component("ranker", QwenReranker(**remote, api_key=Secret.from_env_var("MY_KEY")))
    written = pipeline.dumps()
    assert "MY_KEY" in written
    assert "sk-very-secret" not in written
    again: Any = Pipeline.loads(written).get_component("ranker")
    assert again.config.api_key_env == "MY_KEY"


def test_switched_off_by_configuration_the_pipeline_works_as_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QWEN_RERANK_ENABLED", "false")
    pipeline = filled(Pipeline(), QwenReranker.from_env())
    found = pipeline.run(data(), include_outputs_from={"retriever"})
    first = found["retriever"]["documents"]
    assert [(one.id, one.score) for one in found["ranker"]["documents"]] == [
        (one.id, one.score) for one in first
    ]


def test_a_pipeline_warms_it_up_before_it_runs() -> None:
    class Counted(FakeScorer):
        asked = 0

        def info(self) -> dict[str, Any]:
            self.asked += 1
            return super().info()

    scorer = Counted()
    pipeline = Pipeline()
    pipeline.add_component("ranker", faked(scorer))
    pipeline.warm_up()
    assert (scorer.asked, scorer.calls) == (1, [])


def test_what_other_branches_get_is_not_changed() -> None:
    """The retriever's documents go to two components; a change by one would be visible to the other."""
    pipeline = filled(Pipeline(), QwenReranker(backend="lexical"))
    pipeline.add_component("other", DocumentJoiner())
    pipeline.connect("retriever.documents", "other.documents")
    given = pipeline.run(data(), include_outputs_from={"ranker"})
    first = {one.id: one.meta["first_stage_score"] for one in given["ranker"]["documents"]}
    assert {one.id: one.score for one in given["other"]["documents"]} == first
    assert [one.meta for one in given["other"]["documents"]] == [{}] * len(first)


def test_a_trace_shows_what_went_in_and_came_out(recorder: Recorder) -> None:
    filled(Pipeline(), QwenReranker(backend="lexical", top_k=1)).run(data(instruction="Find it"))
    tags = recorder.of("ranker")
    assert tags["haystack.component.type"] == "QwenReranker"
    shown = tags["haystack.component.input"]
    assert (shown["query"], shown["instruction"]) == (QUESTION, "Find it")
    assert "d1" in ids(shown["documents"])
    (best,) = tags["haystack.component.output"]["documents"]
    assert (best.id, best.meta["first_stage_score"] > 1) == ("d1", True)


def test_an_asynchronous_trace_shows_the_same(recorder: Recorder) -> None:
    kind = asynchronous_pipeline()
    asyncio.run(filled(kind(), QwenReranker(backend="lexical", top_k=1)).run_async(data()))
    tags = recorder.of("ranker")
    assert tags["haystack.component.input"]["query"] == QUESTION
    assert ids(tags["haystack.component.output"]["documents"]) == ["d1"]


def test_a_trace_without_contents_shows_none(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "is_content_tracing_enabled", False)
    filled(Pipeline(), QwenReranker(backend="lexical")).run(data())
    assert "vinegar" not in str(recorder.of("ranker"))


def test_a_failure_ends_the_pipeline_or_is_reported_in_the_documents() -> None:
    failing = FakeScorer(error=OverloadedError("full"))
    with pytest.raises(Exception, match="full"):
        filled(Pipeline(), faked(failing)).run(data())
    found = filled(Pipeline(), faked(failing, on_error="keep_order")).run(data())["ranker"]["documents"]
    assert {one.meta["rerank_error"] for one in found} == {"OverloadedError: full"}
