"""A contract for reranking node postprocessors of any author, as tests to inherit.

Derive a class from `RerankerContract` in a test module, implement `create_postprocessor`, and let pytest collect it:

    class TestMyReranker(RerankerContract):
        def create_postprocessor(self, **options: Any) -> BaseNodePostprocessor:
            return MyReranker(**options)

Each method is one law. Nothing here knows a particular reranker, a model or a service, or imports pytest.
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import (
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.postprocessor.qwen_rerank._recording import CallbackRecorder, recorded_events

__all__ = ["RerankerContract"]

Shown = list[tuple[str, float | None]]

TOLERANCE = 1e-4
"""Maximum difference of two scores of one pair: batches of different sizes round differently."""

TEXTS = (
    "Night trains to the coast leave from platform four at a quarter past ten.",
    "A kettle is descaled with vinegar and water, boiled together and left for an hour.",
    "The library lends books for four weeks.",
    "To descale a kettle, boil water with citric acid.",
    "Vinegar keeps for years when the bottle is closed.",
    "A bicycle tube is patched with rubber solution.",
)


class RerankerContract(ABC):
    """The laws of a reranking postprocessor. Derive from it and implement `create_postprocessor`."""

    @abstractmethod
    def create_postprocessor(self, **options: Any) -> BaseNodePostprocessor:
        """Create a postprocessor that returns all nodes, or at most `top_n` if that is among the options."""

    @property
    def accepts_top_n(self) -> bool:
        """Whether `create_postprocessor` accepts `top_n`."""
        return True

    @property
    def requires_query(self) -> bool:
        """Whether reranking needs a query."""
        return True

    @property
    def emits_events(self) -> bool:
        """Whether a reranking is reported to both event systems."""
        return True

    @property
    def query(self) -> str:
        """The search query."""
        return "how to descale a kettle with vinegar"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that `create_postprocessor` passes and that must not be serialized, such as an API key."""
        return ()

    @property
    def max_stall_s(self) -> float:
        """Maximum time in seconds for which an asynchronous call may block the event loop."""
        return 0.25

    # The input.

    def test_what_came_in_is_not_changed(self) -> None:
        """The caller's list, its nodes and their scores are not changed."""
        nodes = make_nodes()
        before, order = [one.to_dict() for one in nodes], list(map(id, nodes))
        self._run(nodes)
        self._arun(nodes)
        require([one.to_dict() for one in nodes] == before, "a node that was passed in was changed")
        require(list(map(id, nodes)) == order, "the list that was passed in was changed")

    def test_ids_texts_metadata_and_relationships_are_kept(self) -> None:
        """Results keep ids, classes, texts, metadata and relationships."""
        came = {one.node_id: one.node for one in make_nodes()}
        for one in self._run(make_nodes(), expected=len(came)):
            node = came.get(one.node_id)
            require(node is not None, f"the id {one.node_id!r} is not among those that were passed in")
            assert node is not None
            require(type(one.node) is type(node), f"the node's class became {type(one.node).__name__}")
            require(one.get_content() == node.get_content(), "a node's text was changed")
            require(node.metadata.items() <= one.metadata.items(), "metadata was lost")
            require(one.node.relationships == node.relationships, "relationships were lost")

    def test_no_prompt_and_no_embedding_changes(self) -> None:
        """What a reranker adds to a node, such as its first score, reaches no model in any mode but ALL."""
        came = {one.node_id: one.node for one in make_nodes()}
        for one in self._run(make_nodes(), expected=len(came)):
            for mode in (MetadataMode.NONE, MetadataMode.LLM, MetadataMode.EMBED):
                text, before = one.get_content(metadata_mode=mode), came[one.node_id].get_content(mode)
                require(text == before, f"in mode {mode.value} the text became {text!r}")

    def test_nodes_come_once_and_only_from_those_that_came_in(self) -> None:
        """A reranker may drop nodes, but neither repeat nor add any."""
        ids = [one.node_id for one in self._run(make_nodes())]
        require(len(set(ids)) == len(ids), f"a node came back twice: {ids}")
        require(set(ids) <= {one.node_id for one in make_nodes()}, f"an unknown node came back: {ids}")

    # Order and scores.

    def test_nodes_come_best_first(self) -> None:
        """Nodes are sorted by their score, best first."""
        scores = [one.get_score(raise_error=True) for one in self._run(make_nodes(), expected=len(TEXTS))]
        require(scores == sorted(scores, reverse=True), f"scores do not fall: {scores}")

    def test_scores_are_finite_floats_of_python(self) -> None:
        """Other number types, such as numpy's, cannot be serialized as JSON."""
        for one in self._run(make_nodes(), expected=len(TEXTS)):
            require(type(one.score) is float, f"the score {one.score!r} is a {type(one.score).__name__}")
            require(math.isfinite(one.get_score()), f"the score {one.score!r} is not finite")
            json.dumps(one.score)

    def test_first_scores_have_no_influence(self) -> None:
        """New scores depend on text and query only, and replace the first ones."""
        results = [self._run(make_nodes(scores)) for scores in (None, [9.0, 1.0, -5.0, 0.0, 2.0, 7.0])]
        require(near(shown(results[0]), shown(results[1])), f"{shown(results[0])} became {shown(results[1])}")

    def test_equal_texts_keep_their_order(self) -> None:
        """Ties keep the order of the first stage."""
        nodes = [node_of(text, f"{text}-{copy_}", None) for copy_ in range(4) for text in ("same", "other")]
        ids = [one.node_id for one in self._run(nodes, expected=len(nodes)) if one.node_id.startswith("same")]
        require(ids == [f"same-{copy_}" for copy_ in range(4)], f"ties came as {ids}")

    def test_top_n_gives_the_best(self) -> None:
        """The cut comes after sorting; a limit above the number of nodes returns all of them."""
        if not self.accepts_top_n:
            return
        whole = shown(self._run(make_nodes(), expected=len(TEXTS)))
        for top_n in (1, 3, len(TEXTS) + 5):
            cut = shown(self._call(self.create_postprocessor(top_n=top_n), make_nodes()))
            require(near(cut, whole[:top_n]), f"top_n={top_n} returned {cut} of {whole}")

    def test_a_short_list_leaves_no_trace(self) -> None:
        """A list shorter than `top_n` does not shorten the result of the next call."""
        reranker = self.create_postprocessor(**({"top_n": 4} if self.accepts_top_n else {}))
        whole, _, again = (shown(self._call(reranker, make_nodes()[:end])) for end in (None, 1, None))
        require(near(again, whole), f"{whole} became {again} after a shorter list")

    # Hard cases.

    def test_no_nodes_give_no_nodes(self) -> None:
        """An empty list is a valid input."""
        require(self._run([]) == [], "an empty list returned nodes")
        require(self._arun([]) == [], "no nodes gave nodes asynchronously")

    def test_a_missing_query_is_a_value_error(self) -> None:
        """A call without a query raises `ValueError`."""
        if not self.requires_query:
            return
        try:
            self.create_postprocessor().postprocess_nodes(make_nodes())
        except ValueError:
            return
        require(held=False, message="a missing query was accepted")

    # Threads and event loops.

    def test_the_asynchronous_call_gives_the_same(self) -> None:
        """Both calls return the same nodes and scores."""
        sync, asynchronous = shown(self._run(make_nodes())), shown(self._arun(make_nodes()))
        require(near(sync, asynchronous), f"{sync} became {asynchronous}")

    def test_the_blocking_call_works_inside_a_running_event_loop(self) -> None:
        """LlamaIndex itself calls it there, so it must not use `asyncio.run`."""

        async def call() -> list[NodeWithScore]:
            return self._run(make_nodes())

        require(
            near(shown(asyncio.run(call())), shown(self._run(make_nodes()))),
            "the result inside an event loop differs",
        )

    def test_the_event_loop_goes_on_during_the_asynchronous_call(self) -> None:
        """Other tasks run while nodes are scored."""
        for _ in range(5):  # a blocking call always blocks; a busy machine may stall once
            stall = asyncio.run(self._longest_stall())
            if stall <= self.max_stall_s:
                return
        require(held=False, message=f"the event loop was blocked for {stall:.3f} s")

    def test_threads_and_tasks_get_their_own_results(self) -> None:
        """One postprocessor serves concurrent callers."""
        reranker = self.create_postprocessor()
        lists = [make_nodes()[start:] for start in range(len(TEXTS))] * 3
        expected = [shown(self._call(reranker, nodes)) for nodes in lists]

        async def gather() -> list[list[NodeWithScore]]:
            calls = (reranker.apostprocess_nodes(nodes, query_str=self.query) for nodes in lists)
            return list(await asyncio.gather(*calls))

        with ThreadPoolExecutor(8) as pool:
            threads = list(pool.map(lambda nodes: self._call(reranker, nodes), lists))
        for kind, found in (("threads", threads), ("tasks", asyncio.run(gather()))):
            require(all(map(near, map(shown, found), expected)), f"the results of {kind} differ")

    # Events.

    def test_the_dispatcher_is_told_of_every_start_and_end(self) -> None:
        """Each start has an end in the same span, with the nodes before and after, also for an empty list."""
        if not self.emits_events:
            return
        for nodes in (make_nodes(), []):
            for run in (self._run, self._arun):
                with recorded_events() as recorder:
                    given = run(nodes)
                self._check_events(recorder.reranking, nodes, given)

    def test_the_callback_manager_is_told_of_every_start_and_end(self) -> None:
        """The older event system gets the same, through the manager that an engine sets."""
        if not self.emits_events:
            return
        for nodes in (make_nodes(), []):
            for asynchronous in (False, True):
                reranker, recorder = self.create_postprocessor(), CallbackRecorder()
                reranker.callback_manager = CallbackManager([recorder])
                given = self._call(reranker, nodes, asynchronous=asynchronous)
                started, ended = recorder.reranking()
                ids = [[one.event_id for one in events] for events in (started, ended)]
                require(len(started) == 1 and ids[0] == ids[1], f"{len(started)} starts, {len(ended)} ends")
                require(ended[0].payload.get("nodes") == given, "the end event lacks the reranked nodes")

    # Serialization.

    def test_it_comes_back_from_a_dictionary_and_from_json(self) -> None:
        """`to_dict` and `to_json` contain all settings."""
        reranker = self.create_postprocessor(**({"top_n": 2} if self.accepts_top_n else {}))
        kind, expected = type(reranker), shown(self._call(reranker, make_nodes()))
        for again in (kind.from_dict(reranker.to_dict()), kind.from_json(reranker.to_json())):
            require(near(shown(self._call(again, make_nodes())), expected), "a round trip changes the result")

    def test_it_can_be_copied_and_pickled(self) -> None:
        """Copies and pickles return the same results, before the first call and after it."""
        reranker = self.create_postprocessor(**({"top_n": 2} if self.accepts_top_n else {}))
        unused = [copy.deepcopy(reranker), pickle.loads(pickle.dumps(reranker))]  # noqa: S301 (its own)
        expected = shown(self._call(reranker, make_nodes()))
        used = [copy.copy(reranker), copy.deepcopy(reranker), pickle.loads(pickle.dumps(reranker))]  # noqa: S301
        for again in (*unused, *used):
            require(
                near(shown(self._call(again, make_nodes())), expected), "a copy returns a different result"
            )

    def test_no_secret_is_written(self) -> None:
        """No dictionary, JSON, pickle or repr contains a secret."""
        reranker = self.create_postprocessor()
        written = [str(reranker.to_dict()), reranker.to_json(), repr(reranker), str(reranker)]
        for secret in self.secrets:
            require(all(secret not in text for text in written), "a secret is in a readable form")
            require(secret.encode() not in pickle.dumps(reranker), "a secret is in a pickle")

    # In an engine.

    def test_a_query_engine_uses_it(self) -> None:
        """An engine sets its callback manager and gets the same nodes, blocking and asynchronously."""
        engine = RetrieverQueryEngine.from_args(
            _FixedRetriever(make_nodes()),
            llm=MockLLM(),
            node_postprocessors=[self.create_postprocessor()],
            callback_manager=CallbackManager([CallbackRecorder()]),
        )
        expected, bundle = shown(self._run(make_nodes())), QueryBundle(self.query)
        for found in (engine.retrieve(bundle), asyncio.run(engine.aretrieve(bundle))):
            require(near(shown(found), expected), "the result of an engine differs")

    # Helpers.

    def _run(self, nodes: list[NodeWithScore], *, expected: int | None = None) -> list[NodeWithScore]:
        given = self._call(self.create_postprocessor(), nodes)
        require(expected in {None, len(given)}, f"{len(given)} of {expected} nodes came back")
        return given

    def _arun(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        return self._call(self.create_postprocessor(), nodes, asynchronous=True)

    def _call(
        self, reranker: BaseNodePostprocessor, nodes: list[NodeWithScore], *, asynchronous: bool = False
    ) -> list[NodeWithScore]:
        if asynchronous:
            return asyncio.run(reranker.apostprocess_nodes(nodes, query_str=self.query))
        return reranker.postprocess_nodes(nodes, query_str=self.query)

    async def _longest_stall(self) -> float:
        reranker = self.create_postprocessor()
        await reranker.apostprocess_nodes(make_nodes(), query_str=self.query)  # loads the model
        call = asyncio.ensure_future(reranker.apostprocess_nodes(make_nodes(), query_str=self.query))
        longest, last = 0.0, time.perf_counter()
        while not call.done():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        await call
        return longest

    def _check_events(
        self, events: Sequence[Any], nodes: list[NodeWithScore], given: list[NodeWithScore]
    ) -> None:
        kinds = [type(one) for one in events]
        require(kinds == [ReRankStartEvent, ReRankEndEvent], f"{len(nodes)} nodes: {kinds}")
        start, end = events
        require(start.span_id is not None and start.span_id == end.span_id, "start and end are in two spans")
        require(shown(start.nodes) == shown(nodes), "the start event lacks the nodes")
        require(shown(end.nodes) == shown(given), "the end event lacks the reranked nodes")


class _FixedRetriever(BaseRetriever):
    """Returns the same nodes for every query."""

    def __init__(self, nodes: list[NodeWithScore]) -> None:
        super().__init__()
        self._nodes = nodes

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:  # noqa: ARG002 (the base class's)
        return list(self._nodes)


def require(held: bool, message: str) -> None:  # noqa: FBT001 (reads as a sentence)
    """Fail a law unless a condition holds; like `assert`, but also with `python -O`, and always with a message.

    Raises:
        AssertionError: `held` is false.
    """
    if not held:
        raise AssertionError(message)


def shown(nodes: Sequence[NodeWithScore]) -> Shown:
    """Return id and score of each node."""
    return [(one.node_id, one.score) for one in nodes]


def near(one: Shown, other: Shown) -> bool:
    """Whether two results have the same nodes, with scores that differ by at most `TOLERANCE`."""
    return [node_id for node_id, _ in one] == [node_id for node_id, _ in other] and all(
        left == right or (left is not None and right is not None and abs(left - right) <= TOLERANCE)
        for (_, left), (_, right) in zip(one, other, strict=True)
    )


def node_of(text: str, node_id: str, score: float | None) -> NodeWithScore:
    """Create a node with metadata, some of them excluded for the language model and some for the embedding."""
    node = TextNode(
        text=text,
        id_=node_id,
        metadata={"title": "Household", "shelf": 7, "checksum": "c0ffee"},
        excluded_llm_metadata_keys=["checksum"],
        excluded_embed_metadata_keys=["shelf", "checksum"],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="handbook")},
    )
    return NodeWithScore(node=node, score=score)


def make_nodes(scores: Sequence[float] | None = None) -> list[NodeWithScore]:
    """Create a first stage's result, with the given scores, or with falling scores of which one is missing."""
    falling = [0.9, 0.8, 0.7, None, 0.5, 0.4]
    return [
        node_of(text, f"node-{index}", score)
        for index, (text, score) in enumerate(zip(TEXTS, scores or falling, strict=True))
    ]
