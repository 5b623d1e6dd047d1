"""A plain compressor that satisfies the contract, and for each rule one that breaks it as real ones do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManager, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableLambda
from pydantic import ConfigDict, PrivateAttr, SecretStr


class Plain(BaseDocumentCompressor):
    """Counts shared words without this package: the contract requires nothing that only this package provides."""

    model_config = ConfigDict(extra="forbid")

    top_n: int | None = 3
    api_key: SecretStr | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        def ranked(given: dict[str, Any]) -> Sequence[Document]:
            return self.ranked(given["documents"], given["query"])

        named: Any = RunnableLambda(ranked).with_config(run_name="Plain")
        found: Sequence[Document] = named.invoke(
            {"query": query, "documents": documents}, {"callbacks": callbacks}
        )
        return found

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        async def ranked(given: dict[str, Any]) -> Sequence[Document]:
            return self.ranked(given["documents"], given["query"])

        named: Any = RunnableLambda(ranked).with_config(run_name="Plain")
        given = {"query": query, "documents": documents}
        found: Sequence[Document] = await named.ainvoke(given, {"callbacks": callbacks})
        return found

    def ranked(self, documents: Sequence[Document], query: str) -> list[Document]:
        scores = [self.score(one.page_content, query) for one in documents]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return [self.copied(documents[index], scores[index]) for index in order][: self.top_n]

    def score(self, text: str, query: str) -> float:
        shared = set(text.split()) & set(query.split())
        return len(shared) / len(set(query.split())) - len(text) / 10_000

    def copied(self, document: Document, score: float) -> Document:
        return document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})


class DropsIrrelevant(Plain):
    def ranked(self, documents: Sequence[Document], query: str) -> list[Document]:
        return [one for one in super().ranked(documents, query) if one.metadata["relevance_score"] > 0.1]


class KeepsFirstOrder(Plain):
    def ranked(self, documents: Sequence[Document], query: str) -> list[Document]:
        return [self.copied(one, 1.0 - index / 10) for index, one in enumerate(documents)][: self.top_n]


class SortsTheWrongWay(Plain):
    def ranked(self, documents: Sequence[Document], query: str) -> list[Document]:
        return super().ranked(documents, query)[::-1]


class Float32(float):
    """Like numpy's: a number that is not a plain float."""


class GivesForeignNumbers(Plain):
    def score(self, text: str, query: str) -> float:
        return Float32(super().score(text, query))


class KeepsStaleScores(Plain):
    def copied(self, document: Document, score: float) -> Document:
        return document.model_copy(update={"metadata": {"relevance_score": score, **document.metadata}})


class FindsDocumentsByText(Plain):
    def ranked(self, documents: Sequence[Document], query: str) -> list[Document]:
        by_text = {one.page_content: one for one in documents}
        return [
            self.copied(by_text[one.page_content], one.metadata["relevance_score"])
            for one in super().ranked(documents, query)
        ]


class CutsBeforeRanking(Plain):
    def ranked(self, documents: Sequence[Document], query: str) -> list[Document]:
        return super().ranked(documents[: self.top_n], query)


class FailsOnNothing(Plain):
    def ranked(self, documents: Sequence[Document], query: str) -> list[Document]:
        if not documents:
            raise ValueError("documents must not be empty")
        return super().ranked(documents, query)


class WritesIntoTheInput(Plain):
    def copied(self, document: Document, score: float) -> Document:
        document.metadata["relevance_score"] = score
        return document


class SharesMetadata(Plain):
    def copied(self, document: Document, score: float) -> Document:
        return document.model_copy()


class ForgetsIds(Plain):
    def copied(self, document: Document, score: float) -> Document:
        return Document(document.page_content, metadata={**document.metadata, "relevance_score": score})


class DropsMetadata(Plain):
    def copied(self, document: Document, score: float) -> Document:
        return document.model_copy(update={"metadata": {"relevance_score": score}})


class MakesPlainDocuments(Plain):
    def copied(self, document: Document, score: float) -> Document:
        metadata = {**document.metadata, "relevance_score": score}
        return Document(document.page_content, id=document.id, metadata=metadata)


class ShrinksItsLimit(Plain):
    def ranked(self, documents: Sequence[Document], query: str) -> list[Document]:
        self.top_n = min(self.top_n or len(documents), len(documents))
        return super().ranked(documents, query)


class KeepsItsWorkOnItself(Plain):
    _documents: Sequence[Document] = PrivateAttr(default=())

    def ranked(self, documents: Sequence[Document], query: str) -> list[Document]:
        self._documents = documents
        time.sleep(0.005)
        return super().ranked(self._documents, query)


class IgnoresUnknownSettings(Plain):
    model_config = ConfigDict(extra="ignore")


class ShowsItsKey(Plain):
    api_key: str | None = None  # type: ignore[assignment]


class HoldsALock(Plain):
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


class ForgetsTheCutAsynchronously(Plain):
    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        return documents


class BindsToTheFirstLoop(Plain):
    _loop: Any = PrivateAttr(default=None)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("Event loop is closed")
        return self.ranked(documents, query)


class RunsALoopInBlockingCalls(Plain):
    def ranked(self, documents: Sequence[Document], query: str) -> list[Document]:
        waiting = asyncio.sleep(0)
        try:
            asyncio.run(waiting)
        finally:
            waiting.close()
        return super().ranked(documents, query)


class IsInvisible(Plain):
    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        return self.ranked(documents, query)


class IsInvisibleAsynchronously(Plain):
    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        return self.ranked(documents, query)


class LeavesRunsOpen(Plain):
    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        manager = CallbackManager.configure(callbacks)
        run = manager.on_chain_start(None, {"query": query}, name="LeavesRunsOpen")
        found = self.ranked(documents, query)
        run.on_chain_end({"documents": found})
        return found


BREAKS: dict[str, type[Plain]] = {
    "test_every_document_comes_back_once": DropsIrrelevant,
    "test_the_answer_comes_first": KeepsFirstOrder,
    "test_scores_fall": SortsTheWrongWay,
    "test_scores_are_plain_finite_floats": GivesForeignNumbers,
    "test_a_score_that_a_document_came_with_is_overwritten": KeepsStaleScores,
    "test_ties_keep_the_order_of_the_input": FindsDocumentsByText,
    "test_the_cut_gives_the_first_of_all": CutsBeforeRanking,
    "test_no_documents_give_no_documents": FailsOnNothing,
    "test_the_input_is_left_as_it_is": WritesIntoTheInput,
    "test_what_is_done_to_results_does_not_reach_the_input": SharesMetadata,
    "test_ids_are_kept": ForgetsIds,
    "test_metadata_is_kept": DropsMetadata,
    "test_a_document_keeps_its_class_and_fields": MakesPlainDocuments,
    "test_a_call_does_not_change_the_next_one": ShrinksItsLimit,
    "test_threads_may_share_it": KeepsItsWorkOnItself,
    "test_a_misspelt_setting_is_refused": IgnoresUnknownSettings,
    "test_secrets_are_not_shown": ShowsItsKey,
    "test_copies_rank_alike": HoldsALock,
    "test_asynchronous_calls_give_the_same": ForgetsTheCutAsynchronously,
    "test_it_may_be_used_on_one_event_loop_after_another": BindsToTheFirstLoop,
    "test_blocking_calls_work_where_an_event_loop_runs": RunsALoopInBlockingCalls,
    "test_a_call_shows_as_a_child_run": IsInvisible,
    "test_an_asynchronous_call_shows_as_a_child_run": IsInvisibleAsynchronously,
    "test_a_failing_call_shows_its_error": LeavesRunsOpen,
}
"""Law → a compressor that breaks it."""
