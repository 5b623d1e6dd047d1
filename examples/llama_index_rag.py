"""Answers questions with a LlamaIndex query engine: MiniLM and FAISS find 100 passages, Qwen picks 5, a generator answers.

python examples/llama_index_rag.py                                        # bundled demo reranker, no language model
python examples/llama_index_rag.py --model Qwen/Qwen3-Reranker-0.6B       # the real reranker
python examples/llama_index_rag.py --base-url http://gpu-machine:8501     # a reranker on another machine
python examples/llama_index_rag.py --generator-url http://127.0.0.1:8000/v1 --generator-model qwen3
python examples/llama_index_rag.py --generator-folder Qwen3-0.6B          # a language model in this process

Without a generator the answer repeats the best passage, and says so.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from _first_stage import (  # type: ignore[import-not-found] # it stands beside this file
    FirstStage,
    load_corpus,
    load_questions,
)
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.qwen_rerank import QwenRerank
from pydantic import Field

Generate = Callable[[str], str]


class FirstStageRetriever(BaseRetriever):
    """A retriever of the `k` passages with the nearest embeddings."""

    def __init__(self, passages: Sequence[dict[str, Any]], k: int) -> None:
        """Embed the passages.

        Args:
            passages: With `id`, `title` and `text`.
            k: Maximum number of nodes.
        """
        super().__init__()
        self._nodes = [
            TextNode(id_=one["id"], text=one["text"], metadata={"title": one["title"]}) for one in passages
        ]
        self._stage = FirstStage([one["text"] for one in passages])
        self._k = k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._stage.search(query_bundle.query_str, self._k)
        return [NodeWithScore(node=self._nodes[index], score=score) for index, score in found]


class Generator(CustomLLM):
    """A language model for LlamaIndex from any function from a prompt to an answer."""

    generate: Generate = Field(exclude=True)

    @property
    def metadata(self) -> LLMMetadata:
        """The model's limits."""
        return LLMMetadata(context_window=8192, num_output=256)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:  # noqa: ARG002, FBT001, FBT002 (the base class's)
        """Answer a prompt."""
        return CompletionResponse(text=self.generate(prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponseGen:  # noqa: ARG002, FBT001, FBT002 (the base class's)
        """Answer a prompt in one piece."""
        text = self.generate(prompt)
        yield CompletionResponse(text=text, delta=text)


def echo(prompt: str) -> str:
    """Repeat the first passage of the prompt, in place of a language model."""
    context = prompt.partition("---------------------\n")[2].partition("\n---------------------")[0]
    passage = context.split("title: ")[1].partition("\n\n")[2].strip() if "title: " in context else context
    return f"(echo; no language model was asked) {passage.splitlines()[0] if passage else ''}"


def endpoint(url: str, model: str) -> Generate:
    """Return a generator over OpenAI's chat completions; OPENAI_API_KEY holds the key, if any."""
    import httpx

    key = os.environ.get("OPENAI_API_KEY", "")
    client = httpx.Client(headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=120)

    def generate(prompt: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        answer = client.post(f"{url.rstrip('/')}/chat/completions", json=body)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    return generate


def local_model(folder: str, *, max_new_tokens: int = 256) -> Generate:
    """Return a causal language model in this process, from a folder in the hub's format (Qwen3, for example)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()

    def generate(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, enable_thinking=False, return_tensors="pt", return_dict=True
        )
        written = model.generate(**ids, max_new_tokens=max_new_tokens, do_sample=False)
        return str(
            tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        ).strip()

    return generate


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Answer questions with a reranked query engine.")
    parser.add_argument("--query", action="append", help="your own question; can be repeated")
    parser.add_argument(
        "--model", default="demo", help="reranker: a hub id, a folder, or demo: the bundled checkpoint"
    )
    parser.add_argument("--base-url", help="a reranking service, in place of a reranker in this process")
    parser.add_argument(
        "--candidates", type=int, default=100, help="of the first stage (default: %(default)s)"
    )
    parser.add_argument("--top-n", type=int, default=5, help="of the reranker (default: %(default)s)")
    parser.add_argument(
        "--generator-url", help="an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1"
    )
    parser.add_argument("--generator-model", default="default", help="the endpoint's model")
    parser.add_argument("--generator-folder", help="a causal language model, run in this process")
    return parser


def chosen_generator(options: argparse.Namespace) -> Generate:
    """Return the generator of the command line."""
    if options.generator_url:
        return endpoint(options.generator_url, options.generator_model)
    if options.generator_folder:
        return local_model(options.generator_folder)
    return echo


def chosen_reranker(options: argparse.Namespace) -> QwenRerank:
    """Return the reranker of the command line."""
    if options.base_url:
        return QwenRerank(backend="remote", base_url=options.base_url, top_n=options.top_n)
    return QwenRerank(model=options.model, top_n=options.top_n)


def print_nodes(headline: str, nodes: Iterable[NodeWithScore], answer_id: str | None) -> None:
    """Print a list, best first; a star marks the passage that answers the question, if known."""
    print(f"  {headline}")
    for rank, one in enumerate(nodes, start=1):
        mark = "*" if one.node_id == answer_id else " "
        print(f"   {mark}{rank}  {one.get_score():+.4f}  {one.metadata['title']}")


def reciprocal_rank(nodes: Iterable[NodeWithScore], answer_id: str) -> float:
    """Return 1 / rank of the answer; 0 if it is not in the list."""
    ids = [one.node_id for one in nodes]
    return 1 / (ids.index(answer_id) + 1) if answer_id in ids else 0.0


def main(arguments: list[str] | None = None) -> None:
    """Answer the questions of the command line, or the bundled ones."""
    options = argument_parser().parse_args(arguments)
    retriever = FirstStageRetriever(load_corpus(), options.candidates)
    reranker = chosen_reranker(options)
    engine = RetrieverQueryEngine.from_args(
        retriever, llm=Generator(generate=chosen_generator(options)), node_postprocessors=[reranker]
    )
    if options.model == "demo" and not options.base_url:
        print("The reranker is the bundled demo checkpoint: it runs anywhere and ranks poorly.")
    questions: list[tuple[str, str | None]] = [(text, None) for text in options.query or []]
    ranks: list[tuple[float, float]] = []
    for text, answer_id in questions or [(one.text, one.answer_id) for one in load_questions()]:
        before = retriever.retrieve(text)
        print(f"\n{text}")
        print_nodes("before, by MiniLM", before[: options.top_n], answer_id)
        response = engine.query(text)
        print_nodes(f"after, by {reranker.model}", response.source_nodes, answer_id)
        print(f"  {response}")
        if answer_id is not None:
            after = reranker.rerank(before, text, top_n=None)
            ranks.append((reciprocal_rank(before, answer_id), reciprocal_rank(after, answer_id)))
    if ranks:
        means = [fmean(column) for column in zip(*ranks, strict=True)]
        print(f"\nmean reciprocal rank of {len(ranks)} answers: before {means[0]:.3f}, after {means[1]:.3f}")
        print(
            "These questions were selected because the first stage misses them; this is no measure of quality."
        )


if __name__ == "__main__":
    main()
