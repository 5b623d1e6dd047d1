"""Shorten what a prompt contains: long documents → the best 3 → their relevant sentences and neighbours.

python examples/context_compression.py                          # the bundled demo reranker, nothing is downloaded
python examples/context_compression.py --model Qwen/Qwen3-Reranker-0.6B --max-spans 2 --context 1
python examples/context_compression.py --base-url http://gpu-machine:8501

The documents are chapters of the bundled handbook, of ten paragraphs each. For every question the script prints whether the
paragraph with the answer is still in the prompt, and how many tokens the prompt has before and after.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from langchain_core.documents import Document  # noqa: E402 - the repository's root comes first
from langchain_qwen_rerank import QwenRerank  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from examples._first_stage import load_corpus, load_questions  # noqa: E402
from qwen_rerank_plugins.demo import CHECKPOINT_DIR  # noqa: E402

CHAPTER = 10
NUM_DOCUMENTS = 3


def chapters(corpus: list[dict[str, Any]]) -> list[Document]:
    """Return documents of ten paragraphs, each with the ids of its paragraphs."""
    parts = [corpus[start : start + CHAPTER] for start in range(0, len(corpus), CHAPTER)]
    return [
        Document("\n\n".join(one["text"] for one in part), metadata={"ids": [one["id"] for one in part]})
        for part in parts
    ]


def prompt(documents: list[Document]) -> str:
    """Return the part of a prompt that depends on the documents."""
    return "\n\n".join(f"[{rank}] {one.page_content}" for rank, one in enumerate(documents, start=1))


def main(arguments: list[str] | None = None) -> None:
    """Ask the questions with the options of the command line."""
    parser = argparse.ArgumentParser(description="Shorten the documents of a prompt, in LangChain.")
    parser.add_argument("--model", default="demo", help="the reranker: a hub id, a folder, or demo")
    parser.add_argument("--base-url", help="a reranking service, in place of a model in this process")
    parser.add_argument(
        "--max-spans", type=int, default=2, help="relevant sentences per document (default: 2)"
    )
    parser.add_argument("--context", type=int, default=1, help="sentences around each (default: 1)")
    options = parser.parse_args(arguments)
    settings: dict[str, Any] = (
        {"backend": "remote", "base_url": options.base_url} if options.base_url else {"model": options.model}
    )
    tokenizer = Tokenizer.from_file(str(CHECKPOINT_DIR / "tokenizer.json"))
    corpus = load_corpus()
    text_of = {one["id"]: one["text"] for one in corpus}
    documents, questions = chapters(corpus), load_questions()
    totals, found = [0, 0], [0, 0]
    with QwenRerank(top_n=NUM_DOCUMENTS, **settings) as whole:
        shortened = whole.replace(
            spans={"max_spans": options.max_spans}, compress="spans", context=options.context
        )
        for question in questions:
            prompts = [prompt(one.compress_documents(documents, question.text)) for one in (whole, shortened)]
            sizes = [len(tokenizer.encode(text).ids) for text in prompts]
            holds = [text_of[question.answer_id] in text for text in prompts]
            totals = [total + size for total, size in zip(totals, sizes, strict=True)]
            found = [number + held for number, held in zip(found, holds, strict=True)]
            kept = "kept" if holds[1] else "lost" if holds[0] else "not among the documents"
            print(f"{sizes[0]:5d} → {sizes[1]:4d} tokens, the answer is {kept}: {question.text}")
    print(
        f"\n{totals[0]} → {totals[1]} tokens in all; answers in the prompt: {found[0]} → {found[1]} of {len(questions)}"
    )


if __name__ == "__main__":
    main()
