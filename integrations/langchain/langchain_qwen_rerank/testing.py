"""A contract for document compressors that rerank, as tests to inherit; langchain-tests has no such suite.

    from langchain_qwen_rerank.testing import DocumentCompressorTests

    class TestMine(DocumentCompressorTests):
        compressor_class = MyRerank
        compressor_params = {"model": "..."}

Each test is one law that chains rely on. The suite knows nothing of a compressor but its class, its parameters, and
what the class attributes declare. It needs pytest.
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

__all__ = ["DocumentCompressorTests", "Recorder", "SpecialDocument"]

Shown = list[tuple[str | None, str, object]]


class SpecialDocument(Document):
    """A document of a user's own class, with an additional field."""

    page: int = 0


class Recorder(BaseTracer):
    """Records finished root runs with their children."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


class DocumentCompressorTests:
    """Laws of a reranking compressor. Inherit, set the class, and declare what it does not promise.

    Attributes:
        compressor_class: The class under test; called with keywords only.
        compressor_params: Keywords for every instance.
        top_n_name: The keyword that limits results, whose value None means all; None if there is no such keyword.
        score_key: The metadata key of the score; None if no score is written.
        query: A question that one of `texts` answers.
        texts: At least four different texts, of which the first is not the answer.
        tolerance: Maximum difference of two scores of one pair: batches of different sizes round differently.
        secret_params: Keywords that hold secrets, such as `{"api_key": "sesame"}`.
        is_traced: Whether a call appears as a child run with its documents as inputs and outputs.
        is_picklable: Whether an instance can be pickled and deep-copied.
    """

    compressor_class: ClassVar[type[BaseDocumentCompressor]]
    compressor_params: ClassVar[Mapping[str, Any]] = {}
    top_n_name: ClassVar[str | None] = "top_n"
    score_key: ClassVar[str | None] = "relevance_score"
    query: ClassVar[str] = "how to remove limescale from a kettle"
    texts: ClassVar[Sequence[str]] = (
        "the night train to the coast leaves at ten",
        "a kettle of copper on the stove",
        "to remove limescale from a kettle boil vinegar in it",
        "prune the roses before the first frost",
        "limescale on a shower head",
    )
    tolerance: ClassVar[float] = 1e-4
    secret_params: ClassVar[Mapping[str, Any]] = {}
    is_traced: ClassVar[bool] = True
    is_picklable: ClassVar[bool] = True

    # Helpers.

    def make(self, *, limit: int | None = None, **params: Any) -> BaseDocumentCompressor:
        """Create an instance that returns at most `limit` documents; None for all."""
        limited = {} if self.top_n_name is None else {self.top_n_name: limit}
        return self.compressor_class(**{**self.compressor_params, **limited, **params})

    def documents(self) -> list[Document]:
        """Create documents with ids and metadata."""
        return [
            Document(text, id=f"id-{index}", metadata={"source": f"page-{index}", "tags": ["a", "b"]})
            for index, text in enumerate(self.texts)
        ]

    def rank(self, documents: Sequence[Document] | None = None, **params: Any) -> list[Document]:
        """Compress documents with a new instance."""
        given = self.documents() if documents is None else documents
        return list(self.make(**params).compress_documents(given, self.query))

    def shown(self, documents: Sequence[Document]) -> Shown:
        """Return what the laws compare: ids, texts and scores, in order."""
        scores = [None if self.score_key is None else one.metadata[self.score_key] for one in documents]
        return [(one.id, one.page_content, score) for one, score in zip(documents, scores, strict=True)]

    def near(self, documents: Sequence[Document]) -> Shown:
        """Return the same with scores that compare equal within the tolerance."""
        return [
            (key, text, score if score is None else pytest.approx(score, abs=self.tolerance))
            for key, text, score in self.shown(documents)
        ]

    def need_scores(self) -> str:
        """Return the score's key; skip the law if no score is written."""
        if self.score_key is None:
            pytest.skip("no score is written")
        return self.score_key

    # Laws of one ranking.

    def test_every_document_comes_back_once(self) -> None:
        """No document is lost, duplicated or rewritten."""
        assert sorted(one.page_content for one in self.rank()) == sorted(self.texts)

    def test_the_answer_comes_first(self) -> None:
        """The ranking depends on the question, not on the order of the input."""
        answer = self.rank()[0].page_content
        assert self.rank(self.documents()[::-1])[0].page_content == answer, "the order of the input decided"

    def test_scores_fall(self) -> None:
        """Results are sorted by their score, best first."""
        key = self.need_scores()
        scores = [one.metadata[key] for one in self.rank()]
        assert scores == sorted(scores, reverse=True)

    def test_scores_are_plain_finite_floats(self) -> None:
        """A numpy float cannot be serialized as JSON, and NaN cannot be ordered."""
        key = self.need_scores()
        scores = [one.metadata[key] for one in self.rank()]
        assert [type(score) for score in scores] == [float] * len(scores)
        assert all(math.isfinite(score) for score in scores)
        assert json.dumps(scores)

    def test_a_score_that_a_document_came_with_is_overwritten(self) -> None:
        """Metadata merged in the wrong order would keep the score of the first stage."""
        key = self.need_scores()
        stale = [
            Document(one.page_content, id=one.id, metadata={**one.metadata, key: 123.0})
            for one in self.documents()
        ]
        assert self.shown(self.rank(stale)) == self.near(self.rank())

    def test_ties_keep_the_order_of_the_input(self) -> None:
        """Documents of equal text stay distinct, in the order of the first stage."""
        same = [Document(self.texts[0], id=f"twin-{index}") for index in range(5)]
        assert [one.id for one in self.rank(same)] == [one.id for one in same]

    def test_the_cut_gives_the_first_of_all(self) -> None:
        """The limit cuts a ranking of all documents; None and a large limit return all."""
        if self.top_n_name is None:
            pytest.skip("results are not limited")
        whole = self.near(self.rank())
        assert [self.shown(self.rank(limit=limit)) for limit in (1, 2)] == [whole[:1], whole[:2]]
        assert self.shown(self.rank(limit=len(whole) + 5)) == whole

    def test_no_documents_give_no_documents(self) -> None:
        """An empty list is a valid input."""
        assert list(self.rank([])) == []

    # Laws of the input.

    def test_the_input_is_left_as_it_is(self) -> None:
        """Neither the list nor its documents are changed; a cache or another chain may use them."""
        given = self.documents()
        before, objects = copy.deepcopy(given), list(given)
        self.rank(given)
        assert given == before
        assert all(one is other for one, other in zip(given, objects, strict=True))

    def test_what_is_done_to_results_does_not_reach_the_input(self) -> None:
        """Results have their own metadata."""
        given = self.documents()
        for one in self.rank(given):
            one.metadata["mark"] = True
        assert all("mark" not in one.metadata for one in given)

    def test_ids_are_kept(self) -> None:
        """A copy by `Document(page_content=..., metadata=...)` loses the id."""
        held = {one.page_content: one.id for one in self.documents()}
        assert {one.page_content: one.id for one in self.rank()} == held

    def test_metadata_is_kept(self) -> None:
        """Results keep the metadata of their documents."""
        held = {one.page_content: one.metadata for one in self.documents()}
        results = self.rank()
        kept = [held[one.page_content].items() for one in results]
        pairs = zip(results, kept, strict=True)
        assert all(one.metadata[name] == value for one, items in pairs for name, value in items)

    def test_a_document_keeps_its_class_and_fields(self) -> None:
        """A document of a user's own class comes back as that class."""
        given = [SpecialDocument(page_content=text, page=index) for index, text in enumerate(self.texts)]
        results = self.rank(given)
        assert [(type(one), self.texts[getattr(one, "page", -1)]) for one in results] == [
            (SpecialDocument, one.page_content) for one in results
        ]

    # Laws of the instance.

    def test_a_call_does_not_change_the_next_one(self) -> None:
        """A limit that is reduced for a short list does not stay reduced."""
        compressor = self.make(limit=3)
        fresh = self.near(self.rank(limit=3))
        compressor.compress_documents(self.documents()[:1], self.query)
        assert self.shown(compressor.compress_documents(self.documents(), self.query)) == fresh

    def test_threads_may_share_it(self) -> None:
        """Calls from several threads get their own results."""
        compressor, expected = self.make(), [self.near(self.rank(self.documents()[:n])) for n in range(1, 5)]
        with ThreadPoolExecutor(8) as pool:
            calls = [
                pool.submit(compressor.compress_documents, self.documents()[: 1 + turn % 4], self.query)
                for turn in range(32)
            ]
            found = [self.shown(call.result()) for call in calls]
        assert found == expected * 8

    def test_a_misspelt_setting_is_refused(self) -> None:
        """An unknown setting is an error, as with `extra="forbid"`."""
        with pytest.raises(Exception, match="tpo_n"):
            self.make(tpo_n=3)

    def test_secrets_are_not_shown(self) -> None:
        """No repr and no dump contains a secret."""
        if not self.secret_params:
            pytest.skip("there are no secrets")
        compressor = self.make(**self.secret_params)
        shown = [
            repr(compressor),
            str(compressor),
            str(compressor.model_dump()),
            compressor.model_dump_json(),
        ]
        assert [text for text in shown for secret in self.secret_params.values() if secret in text] == []

    def test_copies_rank_alike(self) -> None:
        """Pickling and deep-copying keep the settings; worker processes receive compressors that way."""
        if not self.is_picklable:
            pytest.skip("it cannot be pickled")
        compressor = self.make()
        copies = [copy.deepcopy(compressor), pickle.loads(pickle.dumps(compressor))]  # noqa: S301 (its own)
        found = [self.shown(one.compress_documents(self.documents(), self.query)) for one in copies]
        assert found == [self.near(self.rank())] * 2

    # Laws of asynchronous calls.

    def test_asynchronous_calls_give_the_same(self) -> None:
        """`acompress_documents` returns what `compress_documents` does, also for concurrent calls."""
        compressor = self.make()

        async def gather() -> list[Sequence[Document]]:
            return await asyncio.gather(*(self._arank(compressor) for _ in range(4)))

        assert [self.shown(one) for one in asyncio.run(gather())] == [self.near(self.rank())] * 4

    def test_it_may_be_used_on_one_event_loop_after_another(self) -> None:
        """No client is bound to the loop of the first call."""
        compressor = self.make()
        runs = [asyncio.run(self._arank(compressor)) for _ in range(2)]
        assert [self.shown(one) for one in runs] == [self.near(self.rank())] * 2

    def test_blocking_calls_work_where_an_event_loop_runs(self) -> None:
        """A blocking call that uses `asyncio.run` fails in a notebook or a server."""

        async def call() -> Sequence[Document]:
            return self.rank()

        assert self.shown(asyncio.run(call())) == self.near(self.rank())

    async def _arank(self, compressor: BaseDocumentCompressor) -> Sequence[Document]:
        return await compressor.acompress_documents(self.documents(), self.query)

    # Laws of traces.

    def test_a_call_shows_as_a_child_run(self) -> None:
        """The documents appear in the trace, as inputs and outputs of a child of the calling run."""
        self.need_traces()
        compressor, recorder = self.make(), Recorder()

        def step(query: str, config: RunnableConfig) -> Sequence[Document]:
            return compressor.compress_documents(self.documents(), query, callbacks=config["callbacks"])

        self.check_trace(recorder, RunnableLambda(step).invoke(self.query, {"callbacks": [recorder]}))

    def test_an_asynchronous_call_shows_as_a_child_run(self) -> None:
        """An asynchronous call is traced in the same way."""
        self.need_traces()
        compressor, recorder = self.make(), Recorder()

        async def step(query: str, config: RunnableConfig) -> Sequence[Document]:
            return await compressor.acompress_documents(
                self.documents(), query, callbacks=config["callbacks"]
            )

        found = asyncio.run(RunnableLambda(step).ainvoke(self.query, {"callbacks": [recorder]}))
        self.check_trace(recorder, found)

    def test_a_failing_call_shows_its_error(self) -> None:
        """A run ends with the error of its call."""
        self.need_traces()
        compressor, recorder = self.make(), Recorder()

        def step(query: str, config: RunnableConfig) -> Sequence[Document]:
            return compressor.compress_documents([object()], query, callbacks=config["callbacks"])  # type: ignore[list-item]

        with pytest.raises(Exception, match=r"."):
            RunnableLambda(step).invoke(self.query, {"callbacks": [recorder]})
        assert [bool(child.error) for root in recorder.roots for child in root.child_runs] == [True]

    def need_traces(self) -> None:
        """Skip the law if calls are not traced."""
        if not self.is_traced:
            pytest.skip("calls are not traced")

    def check_trace(self, recorder: Recorder, found: Sequence[Document]) -> None:
        """Check for one root with one child, which shows the query and the results."""
        assert len(recorder.roots) == 1
        assert [child.parent_run_id for child in recorder.roots[0].child_runs] == [recorder.roots[0].id]
        child = recorder.roots[0].child_runs[0]
        assert child.run_type in {"chain", "retriever"}
        assert child.error is None
        assert child.end_time is not None
        assert any(self.query in str(value) for value in child.inputs.values())
        assert list(found) in [list(value) for value in (child.outputs or {}).values() if value]
