from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers.schemas import Run
from langchain_qwen_rerank import QwenRerank
from langchain_qwen_rerank.testing import Recorder

from qwen_rerank_plugins import EngineError, Reranker
from tests.doubles import FakeScorer

GIVEN = [Document("0.1", id="a"), Document("0.9", id="b")]


def _compressor(scorer: FakeScorer | None = None, **settings: Any) -> QwenRerank:
    return QwenRerank(reranker=Reranker(scorer=scorer or FakeScorer(), **settings))


def _as_dict(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "type": run.run_type,
        "inputs": run.inputs,
        "outputs": run.outputs,
        "error": None if run.error is None else run.error.splitlines()[0],
        "children": [_as_dict(child) for child in run.child_runs],
    }


def _step(
    compressor: QwenRerank, *, asynchronous: bool, explicit: bool
) -> RunnableLambda[str, Sequence[Document]]:
    """A chain's step that calls the compressor, with callbacks passed explicitly or by the context."""

    def rank(query: str, config: RunnableConfig) -> Sequence[Document]:
        return compressor.compress_documents(
            GIVEN, query, callbacks=config["callbacks"] if explicit else None
        )

    async def arank(query: str, config: RunnableConfig) -> Sequence[Document]:
        handed = config["callbacks"] if explicit else None
        return await compressor.acompress_documents(GIVEN, query, callbacks=handed)

    return RunnableLambda(arank, name="step") if asynchronous else RunnableLambda(rank, name="step")


def _invoke(
    step: RunnableLambda[str, Sequence[Document]], config: RunnableConfig, *, asynchronous: bool
) -> Any:
    return asyncio.run(step.ainvoke("q", config)) if asynchronous else step.invoke("q", config)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_whole_tree_of_a_call(asynchronous: bool, explicit: bool) -> None:
    recorder = Recorder()
    step = _step(_compressor(top_n=1), asynchronous=asynchronous, explicit=explicit)
    found = _invoke(step, {"callbacks": [recorder]}, asynchronous=asynchronous)
    ranked = Document("0.9", id="b", metadata={"relevance_score": 0.9})
    assert found == [ranked]
    assert [_as_dict(root) for root in recorder.roots] == [
        {
            "name": "step",
            "type": "chain",
            "inputs": {"input": "q"},
            "outputs": {"output": [ranked]},
            "error": None,
            "children": [
                {
                    "name": "QwenRerank",
                    "type": "chain",
                    "inputs": {"query": "q", "documents": GIVEN},
                    "outputs": {"documents": [ranked], "model": "fake", "status": "ranked"},
                    "error": None,
                    "children": [],
                }
            ],
        }
    ]
    root = recorder.roots[0]
    child = root.child_runs[0]
    assert (child.parent_run_id, child.trace_id) == (root.id, root.trace_id)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_ends_the_run(asynchronous: bool) -> None:
    recorder = Recorder()
    step = _step(
        _compressor(FakeScorer(error=EngineError("out of order"))), asynchronous=asynchronous, explicit=True
    )
    with pytest.raises(EngineError):
        _invoke(step, {"callbacks": [recorder]}, asynchronous=asynchronous)
    child = recorder.roots[0].child_runs[0]
    assert child.error is not None
    assert "EngineError('out of order')" in child.error
    assert child.end_time is not None
    assert child.inputs == {"query": "q", "documents": GIVEN}


def test_a_survived_failure_shows_in_the_run() -> None:
    recorder = Recorder()
    compressor = _compressor(FakeScorer(error=EngineError("out of order")), on_error="keep_order")
    found = compressor.compress_documents(GIVEN, "q", callbacks=[recorder])
    assert recorder.roots[0].outputs == {
        "documents": found,
        "model": "fake",
        "status": "failed",
        "error": "EngineError: out of order",
    }


def test_a_call_of_its_own_is_a_root_with_tag_and_settings() -> None:
    recorder = Recorder()
    _compressor(top_n=1, instruction="mine").compress_documents(GIVEN, "q", callbacks=[recorder])
    root = recorder.roots[0]
    assert root.parent_run_id is None
    assert root.tags == ["reranker"]
    assert (
        root.extra["metadata"] | {"rerank_top_n": 1, "rerank_instruction": "mine"} == root.extra["metadata"]
    )
    assert root.extra["metadata"]["rerank_backend"] == "local"


def test_tags_and_metadata_of_the_caller_reach_the_run() -> None:
    recorder = Recorder()
    step = _step(_compressor(), asynchronous=False, explicit=False)
    step.invoke("q", {"callbacks": [recorder], "tags": ["mine"], "metadata": {"user": 7}})
    child = recorder.roots[0].child_runs[0]
    assert {"mine", "reranker"} <= set(child.tags or [])
    assert child.extra["metadata"]["user"] == 7


def test_settings_of_a_run_do_not_leak_into_the_next_step() -> None:
    recorder = Recorder()
    chain = _step(_compressor(), asynchronous=False, explicit=False) | RunnableLambda(len, name="count")
    chain.invoke("q", {"callbacks": [recorder]})
    names = {child.name: child for child in recorder.roots[0].child_runs}
    assert "reranker" not in (names["count"].tags or [])
    assert "rerank_model" not in names["count"].extra.get("metadata", {})


def test_a_callback_handler_receives_start_and_end() -> None:
    heard: list[str] = []

    class Handler(BaseCallbackHandler):
        def on_chain_start(self, serialized: Any, inputs: dict[str, Any], **kwargs: Any) -> None:
            heard.append(f"start {kwargs['name']} {inputs['query']}")

        def on_chain_end(self, outputs: dict[str, Any], **kwargs: Any) -> None:
            heard.append(f"end {len(outputs['documents'])}")

    _compressor().compress_documents(GIVEN, "q", callbacks=[Handler()])
    assert heard == ["start QwenRerank q", "end 2"]


def test_an_asynchronous_handler_receives_them_too() -> None:
    heard: list[str] = []

    class Handler(AsyncCallbackHandler):
        async def on_chain_start(self, serialized: Any, inputs: dict[str, Any], **kwargs: Any) -> None:
            heard.append("start")

        async def on_chain_end(self, outputs: dict[str, Any], **kwargs: Any) -> None:
            heard.append("end")

    asyncio.run(_compressor().acompress_documents(GIVEN, "q", callbacks=[Handler()]))
    assert heard == ["start", "end"]


def test_a_cancelled_call_ends_its_run() -> None:
    recorder = Recorder()
    scorer = FakeScorer(delay_s=0.2)

    async def cancelled() -> None:
        ranking = asyncio.ensure_future(
            _compressor(scorer).acompress_documents(GIVEN, "q", callbacks=[recorder])
        )
        while not scorer.calls:  # noqa: ASYNC110 (the call comes from a thread)
            await asyncio.sleep(0.001)
        ranking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ranking

    asyncio.run(cancelled())
    assert [root.error is not None for root in recorder.roots] == [True]


def test_nothing_is_recorded_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_core.callbacks import AsyncCallbackManager, CallbackManager

    monkeypatch.setattr(CallbackManager, "on_chain_start", lambda *_, **__: pytest.fail("a run was begun"))
    monkeypatch.setattr(
        AsyncCallbackManager, "on_chain_start", lambda *_, **__: pytest.fail("a run was begun")
    )
    assert len(_compressor().compress_documents(GIVEN, "q")) == 2
    assert len(asyncio.run(_compressor().acompress_documents(GIVEN, "q"))) == 2
