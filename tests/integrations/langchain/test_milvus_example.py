"""The example's store and chain: real embeddings, a real store in a file, and the demo model.

Milvus Lite listens on a socket of this machine. Needs torch and the embedding model's package.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.documents import Document
from pymilvus import MilvusClient

from examples import langchain_milvus
from examples._first_stage import FirstStage, load_corpus, load_questions
from examples.langchain_milvus import Embedder, MilvusRetriever, fill

pytestmark = pytest.mark.loopback


@pytest.fixture(scope="module")
def embed() -> Embedder:
    return Embedder()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[MilvusClient]:
    opened = MilvusClient(str(tmp_path / "store.db"))
    yield opened
    opened.close()


def test_the_store_gives_the_candidates_of_an_exact_index(client: MilvusClient, embed: Embedder) -> None:
    corpus = load_corpus()
    fill(client, corpus, embed)
    stage = FirstStage([one["text"] for one in corpus])
    question = load_questions()[0].text
    found: list[Document] = MilvusRetriever(client=client, embed=embed).invoke(question)
    exact = stage.search(question, 100)
    assert len(found) == 100
    assert [one.id for one in found][:10] == [corpus[index]["id"] for index, _ in exact][:10]
    assert found[0].metadata["similarity"] == pytest.approx(exact[0][1], abs=1e-3)
    passages = {one["id"]: one for one in corpus}
    assert all(
        (one.page_content, one.metadata["title"]) == (passages[one.id]["text"], passages[one.id]["title"])
        for one in found
        if one.id is not None
    )


def test_a_store_that_is_filled_is_left_as_it_is(client: MilvusClient, embed: Embedder) -> None:
    fill(client, [{"id": "a", "title": "Trains", "text": "trains to the coast"}], embed)
    fill(client, load_corpus(), embed)
    found = MilvusRetriever(client=client, embed=embed).invoke("railway")
    assert [one.id for one in found] == ["a"]


def test_own_questions_are_answered_from_a_store_that_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "kept.db"
    arguments = ["--query", "Which bus line has a rack for bicycles?", "--store", str(store)]
    langchain_milvus.main(arguments)
    first = capsys.readouterr().out
    assert "Bus line 6" in first
    assert "reranked" in first
    assert store.exists()
    langchain_milvus.main(arguments)
    assert capsys.readouterr().out == first
