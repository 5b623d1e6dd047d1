from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_qwen_rerank import QwenRerank, QwenRerankRunnable, RerankInput
from langchain_qwen_rerank.testing import Recorder

from qwen_rerank_plugins import InputError, InputTypeError, Reranker
from tests.doubles import FakeScorer


def _compressor(scorer: FakeScorer | None = None, **settings: Any) -> QwenRerank:
    return QwenRerank(reranker=Reranker(scorer=scorer or FakeScorer(), **settings))


def _input(*texts: str) -> RerankInput:
    return {"query": "q", "documents": [Document(text) for text in texts]}


def _texts(documents: list[Document]) -> list[str]:
    return [one.page_content for one in documents]


def test_it_ranks_blocking_asynchronously_in_batches_and_as_a_stream() -> None:
    runnable = _compressor(top_n=1).as_runnable()
    given = _input("0.1", "0.9")
    assert _texts(runnable.invoke(given)) == ["0.9"]
    assert _texts(asyncio.run(runnable.ainvoke(given))) == ["0.9"]
    assert [_texts(one) for one in runnable.batch([given, _input("0.3")])] == [["0.9"], ["0.3"]]
    found = asyncio.run(runnable.abatch([given, _input("0.3")]))
    assert [_texts(one) for one in found] == [["0.9"], ["0.3"]]
    assert [_texts(one) for one in runnable.stream(given)] == [["0.9"]]


def test_it_returns_what_the_compressor_returns() -> None:
    compressor = _compressor(top_n=2, min_score=0.2)
    given = _input("0.1", "0.9", "0.5")
    assert compressor.as_runnable().invoke(given) == compressor.compress_documents(given["documents"], "q")


def test_options_can_be_set_for_each_call() -> None:
    scorer = FakeScorer()
    runnable = _compressor(scorer, top_n=1, instruction="mine").as_runnable()
    given = _input("0.1", "0.9", "0.5")
    assert _texts(runnable.invoke(given, {"configurable": {"rerank_top_n": 2}})) == ["0.9", "0.5"]
    assert len(runnable.invoke(given, {"configurable": {"rerank_top_n": None}})) == 3
    options = {"rerank_top_n": None, "rerank_min_score": 0.5, "rerank_instruction": "theirs"}
    assert _texts(runnable.invoke(given, {"configurable": options})) == ["0.9", "0.5"]
    assert _texts(asyncio.run(runnable.ainvoke(given, {"configurable": options}))) == ["0.9", "0.5"]
    assert [calls[0].instruction for calls, _ in scorer.calls] == ["mine", "mine", "theirs", "theirs"]
    assert len(runnable.invoke(given)) == 1


def test_a_wrong_option_of_a_call_is_refused() -> None:
    with pytest.raises(InputError, match="`top_n` must be at least 1, got 0"):
        _compressor().as_runnable().invoke(_input("0.1"), {"configurable": {"rerank_top_n": 0}})


def test_its_options_are_listed_with_their_meaning() -> None:
    specs = {spec.id: spec for spec in _compressor().as_runnable().config_specs}
    assert set(specs) == {"rerank_instruction", "rerank_top_n", "rerank_min_score"}
    assert all(spec.description for spec in specs.values())


def test_it_is_one_step_of_a_chain() -> None:
    chain = (
        RunnablePassthrough.assign(documents=RunnableLambda(lambda given: _input("0.1", "0.9")["documents"]))
        | _compressor(top_n=1).as_runnable()
        | RunnableLambda(lambda documents: documents[0].page_content)
    )
    assert chain.invoke({"query": "q"}) == "0.9"
    assert asyncio.run(chain.ainvoke({"query": "q"})) == "0.9"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_it_shows_as_one_run(asynchronous: bool) -> None:
    recorder = Recorder()
    runnable, given = _compressor(top_n=1).as_runnable(), _input("0.1", "0.9")
    config: Any = {"callbacks": [recorder]}
    found = asyncio.run(runnable.ainvoke(given, config)) if asynchronous else runnable.invoke(given, config)
    assert [(run.name, run.run_type, run.child_runs) for run in recorder.roots] == [
        ("QwenRerank", "chain", [])
    ]
    assert recorder.roots[0].inputs == given
    assert recorder.roots[0].outputs == {"output": found}


@pytest.mark.parametrize("given", ["q", {"query": "q"}, {"documents": []}, None, ["q"]])
def test_an_input_of_another_form_is_refused(given: Any) -> None:
    with pytest.raises(InputTypeError, match="input has the wrong form"):
        _compressor().as_runnable().invoke(given)


def test_it_describes_its_input() -> None:
    schema = QwenRerankRunnable.of(_compressor()).get_input_jsonschema()
    assert set(schema["$defs"]["RerankInput"]["properties"]) == {"query", "documents"}


# The run's configuration, for the compressor itself.


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_compressor_inside_of_a_chain_takes_options_from_the_run(asynchronous: bool) -> None:
    scorer = FakeScorer()
    compressor = _compressor(scorer, top_n=3, instruction="mine")
    documents = _input("0.1", "0.9", "0.5")["documents"]
    config: Any = {"configurable": {"rerank_top_n": 1, "rerank_instruction": "theirs"}}
    if asynchronous:

        async def arank(query: str) -> list[Document]:
            return await compressor.acompress_documents(documents, query)

        found: Any = asyncio.run(RunnableLambda(arank).ainvoke("q", config))
    else:
        step: Any = RunnableLambda(lambda query: compressor.compress_documents(documents, query))
        found = step.invoke("q", config)
    assert _texts(found) == ["0.9"]
    assert scorer.calls[0][0][0].instruction == "theirs"
    assert len(compressor.compress_documents(documents, "q")) == 3


def test_options_of_a_run_show_in_its_trace() -> None:
    recorder, compressor = Recorder(), _compressor()
    step: Any = RunnableLambda(lambda query: compressor.compress_documents([Document("0.1")], query))
    step.invoke("q", {"callbacks": [recorder], "configurable": {"rerank_instruction": "theirs"}})
    assert recorder.roots[0].child_runs[0].extra["metadata"]["rerank_instruction"] == "theirs"
