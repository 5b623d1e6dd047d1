"""Our postprocessor satisfies the contract that ships with it, and the contract detects a postprocessor that breaks a rule."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import pytest
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.qwen_rerank import QwenRerank
from llama_index.postprocessor.qwen_rerank._events import observed
from llama_index.postprocessor.qwen_rerank.testing import RerankerContract
from pydantic import PrivateAttr, SecretStr

SECRET = "sk-contract"


class TestWordOverlap(RerankerContract):
    def create_postprocessor(self, **options: Any) -> BaseNodePostprocessor:
        return QwenRerank(backend="lexical", **options)


class TestWordOverlapOfTheContentAlone(RerankerContract):
    def create_postprocessor(self, **options: Any) -> BaseNodePostprocessor:
        return QwenRerank(backend="lexical", metadata_mode="none", **options)


class TestWithAKey(RerankerContract):
    @pytest.fixture(autouse=True)
    def key_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QWEN_RERANK_API_KEY", SECRET)

    @property
    def secrets(self) -> tuple[str, ...]:
        return (SECRET,)

    def create_postprocessor(self, **options: Any) -> BaseNodePostprocessor:
        return QwenRerank(backend="lexical", api_key=SecretStr(SECRET), **options)


# A plain postprocessor of somebody else, which keeps every law; each of those below it breaks one.


class Plain(BaseNodePostprocessor):
    """Scores by the number of the query's words."""

    top_n: int = 100

    @classmethod
    def class_name(cls) -> str:
        return "Plain"

    def scored(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        """New wrappers with the new scores, best first."""
        words = set(query.lower().split())
        counts = [len(words & set(one.node.get_content().lower().split())) for one in nodes]
        return [
            NodeWithScore(node=one.node, score=float(count)) for one, count in zip(nodes, counts, strict=True)
        ]

    def ordered(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        return sorted(nodes, key=lambda one: -one.get_score())[: self.top_n]

    def ranked(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        return self.ordered(self.scored(nodes, query))

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("query is missing")
        with observed(
            self.callback_manager, query=query_bundle, nodes=nodes, top_n=self.top_n, model="plain"
        ) as outcome:
            outcome.nodes = self.ranked(nodes, query_bundle.query_str)
        return outcome.nodes


class Mutating(Plain):
    def ranked(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        for one, scored in zip(nodes, self.scored(nodes, query), strict=True):
            one.score = scored.score
        return self.ordered(nodes)


class LosingIds(Plain):
    def ranked(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        given = super().ranked(nodes, query)
        fresh = [TextNode(text=one.get_content(), metadata=one.metadata) for one in given]
        return [NodeWithScore(node=node, score=one.score) for node, one in zip(fresh, given, strict=True)]


class LosingRelationships(Plain):
    def ranked(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        given = super().ranked(nodes, query)
        return [
            NodeWithScore(node=one.node.model_copy(update={"relationships": {}}), score=one.score)
            for one in given
        ]


class Leaking(Plain):
    def ranked(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        first = {one.node_id: one.score for one in nodes}
        given = super().ranked(nodes, query)
        return [
            NodeWithScore(
                node=one.node.model_copy(
                    update={"metadata": {**one.metadata, "retrieval_score": first[one.node_id]}}
                ),
                score=one.score,
            )
            for one in given
        ]


class Repeating(Plain):
    def ranked(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        given = super().ranked(nodes, query)
        return given[:1] + given


class WorstFirst(Plain):
    def ordered(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        return sorted(nodes, key=lambda one: one.get_score())


class WholeNumbers(Plain):
    def ranked(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        given = super().ranked(nodes, query)
        for one in given:
            one.score = int(one.get_score())
        return given


class AddingFirstScores(Plain):
    def scored(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        given = super().scored(nodes, query)
        for one, came in zip(given, nodes, strict=True):
            one.score = one.get_score() + (came.score or 0.0)
        return given


class Unstable(Plain):
    def ordered(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        return super().ordered(nodes[::-1])


class CuttingFirst(Plain):
    def ordered(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        return super().ordered(nodes[: self.top_n])


class Shrinking(Plain):
    def ordered(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        self.top_n = min(self.top_n, len(nodes))
        return super().ordered(nodes)


class NeedingNodes(Plain):
    def ordered(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        max(one.get_score() for one in nodes)
        return super().ordered(nodes)


class Queryless(Plain):
    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return super()._postprocess_nodes(nodes, query_bundle or QueryBundle("anything"))


class OtherwiseAsync(Plain):
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return (await super()._apostprocess_nodes(nodes, query_bundle))[::-1]


class StartingALoop(Plain):
    def ranked(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        work = asyncio.sleep(0, super().ranked(nodes, query))
        try:
            return asyncio.run(work)
        finally:
            work.close()


class Blocking(Plain):
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        time.sleep(0.3)  # noqa: ASYNC251 (what it is here for)
        return self._postprocess_nodes(nodes, query_bundle)


class KeepingState(Plain):
    _current: list[NodeWithScore] = PrivateAttr(default_factory=list)

    def ranked(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        self._current = self.scored(nodes, query)
        time.sleep(0.002)
        return self.ordered(self._current)


class Silent(Plain):
    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("query is missing")
        with self.callback_manager.event(CBEventType.RERANKING, payload={}) as event:
            given = self.ranked(nodes, query_bundle.query_str)
            event.on_end(payload={EventPayload.NODES: given})
        return given


class SilentWhenEmpty(Plain):
    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return super()._postprocess_nodes(nodes, query_bundle) if nodes else []


class Forgetting(Plain):
    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        return {"class_name": self.class_name()}


class ForgettingWhenPickled(Plain):
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class Telling(Plain):
    def __repr__(self) -> str:
        return f"Telling({SECRET})"


class Frozen(Plain):
    _frozen: bool = PrivateAttr(default=False)

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self._frozen = True

    def __setattr__(self, name: str, value: Any) -> None:
        assert name.startswith("_") or not self._frozen, "it cannot be changed"
        super().__setattr__(name, value)


BREAKING: dict[str, type[Plain]] = {
    "test_what_came_in_is_not_changed": Mutating,
    "test_ids_texts_metadata_and_relationships_are_kept": LosingRelationships,
    "test_no_prompt_and_no_embedding_changes": Leaking,
    "test_nodes_come_once_and_only_from_those_that_came_in": Repeating,
    "test_nodes_come_best_first": WorstFirst,
    "test_scores_are_finite_floats_of_python": WholeNumbers,
    "test_first_scores_have_no_influence": AddingFirstScores,
    "test_equal_texts_keep_their_order": Unstable,
    "test_top_n_gives_the_best": CuttingFirst,
    "test_a_short_list_leaves_no_trace": Shrinking,
    "test_no_nodes_give_no_nodes": NeedingNodes,
    "test_a_missing_query_is_a_value_error": Queryless,
    "test_the_asynchronous_call_gives_the_same": OtherwiseAsync,
    "test_the_blocking_call_works_inside_a_running_event_loop": StartingALoop,
    "test_the_event_loop_goes_on_during_the_asynchronous_call": Blocking,
    "test_threads_and_tasks_get_their_own_results": KeepingState,
    "test_the_dispatcher_is_told_of_every_start_and_end": Silent,
    "test_the_callback_manager_is_told_of_every_start_and_end": SilentWhenEmpty,
    "test_it_comes_back_from_a_dictionary_and_from_json": Forgetting,
    "test_it_can_be_copied_and_pickled": ForgettingWhenPickled,
    "test_no_secret_is_written": Telling,
    "test_a_query_engine_uses_it": Frozen,
}
ALSO_BREAKING = [
    ("test_ids_texts_metadata_and_relationships_are_kept", LosingIds),
    ("test_nodes_come_once_and_only_from_those_that_came_in", LosingIds),
    ("test_the_dispatcher_is_told_of_every_start_and_end", SilentWhenEmpty),
]
# Those that fail by themselves, before a law compares anything.
FAILING: dict[type[Plain], type[Exception]] = {NeedingNodes: ValueError, StartingALoop: RuntimeError}


class Contract(RerankerContract):
    """The contract of one of the postprocessors above."""

    kind: ClassVar[type[Plain]] = Plain

    @property
    def secrets(self) -> tuple[str, ...]:
        return (SECRET,)

    def create_postprocessor(self, **options: Any) -> BaseNodePostprocessor:
        return self.kind(**options)


def contract_of(breaking: type[Plain]) -> Contract:
    class One(Contract):
        kind = breaking

    return One()


LAWS = [name for name in vars(RerankerContract) if name.startswith("test_")]


def test_every_law_has_somebody_who_breaks_it() -> None:
    assert sorted(BREAKING) == sorted(LAWS)


@pytest.mark.parametrize("law", LAWS)
def test_somebody_elses_good_postprocessor_passes(law: str) -> None:
    getattr(contract_of(Plain), law)()


@pytest.mark.parametrize(("law", "kind"), [*BREAKING.items(), *ALSO_BREAKING])
def test_whoever_breaks_a_law_is_caught(law: str, kind: type[Plain]) -> None:
    with pytest.raises(FAILING.get(kind, AssertionError)):
        getattr(contract_of(kind), law)()


# What a postprocessor may be exempt from, and the laws that then catch nobody.
EXEMPTIONS = {
    "accepts_top_n": {
        "test_top_n_gives_the_best",
        # Without top_n there is no setting that a round trip could lose.
        "test_it_comes_back_from_a_dictionary_and_from_json",
        "test_it_can_be_copied_and_pickled",
    },
    "requires_query": {"test_a_missing_query_is_a_value_error"},
    "emits_events": {
        "test_the_dispatcher_is_told_of_every_start_and_end",
        "test_the_callback_manager_is_told_of_every_start_and_end",
    },
}


@pytest.mark.parametrize(
    ("exemption", "law"),
    [
        (exemption, law)
        for exemption in EXEMPTIONS
        for law in LAWS
        if law != "test_the_event_loop_goes_on_during_the_asynchronous_call"  # three seconds each
    ],
)
def test_an_exemption_lifts_its_own_laws_and_no_other(exemption: str, law: str) -> None:
    own = {"kind": BREAKING[law], exemption: False}
    contract = type("Exempt", (Contract,), own)()
    if law in EXEMPTIONS[exemption]:
        getattr(contract, law)()
        return
    with pytest.raises(FAILING.get(BREAKING[law], AssertionError)):
        getattr(contract, law)()
