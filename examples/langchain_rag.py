"""A complete retrieval chain in LangChain: embeddings → FAISS → the 100 nearest → Qwen reranker, the best 5 → prompt → answer.

python examples/langchain_rag.py                                       # the bundled demo reranker, nothing is downloaded
python examples/langchain_rag.py --model Qwen/Qwen3-Reranker-0.6B
python examples/langchain_rag.py --base-url http://gpu-machine:8501    # qwen-rerank serve, on a machine with a GPU
python examples/langchain_rag.py --generator-url http://localhost:8000/v1 --generator-model qwen3
python examples/langchain_rag.py --generator-folder path/to/Qwen3-0.6B  # a language model in this process

The bundled questions are ones that embeddings rank wrongly: similar codes, and Chinese, which the embedding model cannot read.
The demo reranker matches words only; for English questions in general, the embeddings alone rank better. Without a language
model the last step is an echo that repeats the first passage of its prompt: it shows the input of a model, and answers nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from langchain_classic.retrievers import ContextualCompressionRetriever  # noqa: E402 - the repository's root comes first
from langchain_core.callbacks import CallbackManagerForRetrieverRun  # noqa: E402
from langchain_core.documents import Document  # noqa: E402
from langchain_core.prompts import PromptTemplate  # noqa: E402
from langchain_core.retrievers import BaseRetriever  # noqa: E402
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough  # noqa: E402
from langchain_qwen_rerank import QwenRerank  # noqa: E402
from pydantic import ConfigDict  # noqa: E402

from examples._first_stage import FirstStage, load_corpus, load_questions  # noqa: E402

NUM_CANDIDATES = 100
NUM_PASSAGES = 5
MAX_NEW_TOKENS = 200
PROMPT = PromptTemplate.from_template(
    "Answer the question from the passages alone, in the question's language.\n\n{passages}\n\nQuestion: {question}\nAnswer:"
)


class HandbookRetriever(BaseRetriever):
    """The first stage as a LangChain retriever."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    stage: FirstStage
    corpus: list[dict[str, Any]]
    k: int = NUM_CANDIDATES

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 (the base class's)
    ) -> list[Document]:
        return [
            _document(self.corpus[index], similarity)
            for index, similarity in self.stage.search(query, self.k)
        ]


def _document(passage: dict[str, Any], similarity: float) -> Document:
    metadata = {"title": passage["title"], "similarity": round(similarity, 4)}
    return Document(passage["text"], id=passage["id"], metadata=metadata)


def echo(prompt: str) -> str:
    """Repeat the first passage of the prompt, in place of a language model."""
    first = re.search(r"^\[1\] (.*)$", prompt, re.MULTILINE)
    return f"(echo, no language model) {first[1] if first else 'no passage'}"


def ask_endpoint(url: str, model: str) -> Callable[[str], str]:
    """Return a language model behind an OpenAI-compatible endpoint; `url` ends with `/v1`."""
    import httpx

    def answer(prompt: str) -> str:
        body = {"model": model, "temperature": 0.0, "messages": [{"role": "user", "content": prompt}]}
        response = httpx.post(f"{url.rstrip('/')}/chat/completions", json=body, timeout=120.0)
        response.raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"])

    return answer


def run_folder(folder: str) -> Callable[[str], str]:
    """Return a causal language model from a folder, in this process."""
    from transformers import pipeline

    generate: Any = pipeline("text-generation", model=folder)

    def answer(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        text = generate.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        generated = generate(text, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, return_full_text=False)
        return str(generated[0]["generated_text"]).strip()

    return answer


def passages(documents: list[Document]) -> str:
    """Return the documents as numbered lines of a prompt."""
    return "\n".join(
        f"[{rank}] {one.metadata['title']}: {one.page_content}" for rank, one in enumerate(documents, start=1)
    )


def build_chain(retriever: BaseRetriever, generate: Callable[[str], str]) -> Runnable[str, dict[str, Any]]:
    """Return a chain from a question to question, documents and answer."""
    answer = (
        RunnablePassthrough.assign(passages=lambda given: passages(given["documents"]))
        | PROMPT
        | RunnableLambda(lambda prompt: generate(prompt.to_string()), name="generate")
    )
    given: Runnable[str, Any] = RunnableParallel(question=RunnablePassthrough(), documents=retriever)
    return given | RunnablePassthrough.assign(answer=answer)


def show(question: str, answer_id: str, first_stage: list[Document], outcome: dict[str, Any]) -> None:
    """Print the best documents of both stages, and the rank of the answer in each."""
    print(f"\n{question}")
    for name, documents in (("first stage", first_stage), ("reranked", outcome["documents"])):
        ids = [one.id for one in documents]
        rank = f"rank {ids.index(answer_id) + 1}" if answer_id in ids else f"not among {len(ids)}"
        print(f"  {name}: the answer has {rank}")
        for one in documents[:3]:
            score = one.metadata.get("relevance_score", one.metadata["similarity"])
            print(f"    {score:7.4f}  {one.metadata['title']}")
    print(f"  answer: {outcome['answer'][:160]}")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Retrieve, rerank and answer, in LangChain.")
    parser.add_argument("--model", default="demo", help="the reranker: a hub id, a folder, or demo")
    parser.add_argument("--base-url", help="a reranking service, in place of a model in this process")
    parser.add_argument("--query", action="append", help="your own question; can be repeated")
    parser.add_argument("--generator-url", help="an OpenAI-compatible endpoint that answers, with its /v1")
    parser.add_argument("--generator-model", default="default", help="the endpoint's model")
    parser.add_argument("--generator-folder", help="a language model's folder, in place of an endpoint")
    return parser


def choose_generator(options: argparse.Namespace) -> Callable[[str], str]:
    """Return the language model of the command line, or the echo."""
    if options.generator_folder:
        return run_folder(options.generator_folder)
    return ask_endpoint(options.generator_url, options.generator_model) if options.generator_url else echo


def main(arguments: list[str] | None = None) -> None:
    """Answer the questions with the options of the command line."""
    options = argument_parser().parse_args(arguments)
    remote = (
        {"backend": "remote", "base_url": options.base_url} if options.base_url else {"model": options.model}
    )
    settings: dict[str, Any] = {"top_n": NUM_PASSAGES, "metadata_fields": ["title"], **remote}
    corpus = load_corpus()
    retriever = HandbookRetriever(stage=FirstStage([one["text"] for one in corpus]), corpus=corpus)
    with QwenRerank(**settings) as compressor:
        reranked = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
        chain = build_chain(reranked, choose_generator(options))
        known = {one.text: one.answer_id for one in load_questions()}
        for question in options.query or known:
            show(question, known.get(question, ""), retriever.invoke(question), chain.invoke(question))


if __name__ == "__main__":
    main()
