"""Ranking quality of the demo checkpoint: MRR on XQuAD in English and Chinese, beside chance, overlap and BM25.

    python benchmarks/demo_quality.py --xquad DIR

DIR contains xquad.en.json and xquad.zh.json (google-deepmind/xquad, CC BY-SA 4.0; the project has no copy
and never trains on it). Each question is ranked against its own paragraph and the 19 others that BM25 ranks
highest; a tie counts against the answer. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from qwen_rerank_plugins.demo import CHECKPOINT_DIR

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query"
    ' and the Instruct provided. Note that the answer can only be "yes" or "no".'
    "<|im_end|>\n<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
NUM_NEGATIVES = 19
BATCH = 5


@dataclass(frozen=True, slots=True)
class Ranking:
    """One question, its candidate paragraphs with the right one first, and their BM25 scores."""

    question: str
    paragraphs: list[str]
    bm25: list[float]


def words(text: str) -> list[str]:
    """Return Latin words and numbers, and single Chinese characters."""
    return re.findall(r"[a-z0-9]+|[\u4e00-\u9fff]", text.lower())


class BM25:
    """Okapi BM25 (k1 1.5, b 0.75) over a few hundred texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(words(text)) for text in texts]
        self._lengths = [sum(counts.values()) for counts in self._counts]
        self._mean = sum(self._lengths) / len(texts)
        found = Counter(word for counts in self._counts for word in counts)
        self._weight = {word: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for word, n in found.items()}

    def scores(self, query: str) -> list[float]:
        """Return one score per text."""
        asked = words(query)
        return [
            self._score(asked, counts, length)
            for counts, length in zip(self._counts, self._lengths, strict=True)
        ]

    def _score(self, asked: Sequence[str], counts: Counter[str], length: int) -> float:
        norm = 1.5 * (0.25 + 0.75 * length / self._mean)
        return sum(
            self._weight[word] * counts[word] * 2.5 / (counts[word] + norm)
            for word in asked
            if word in counts
        )


def load_rankings(path: Path, sample: int, seed: int) -> list[Ranking]:
    """Return a fixed sample of an XQuAD file's questions; 0 selects all."""
    paragraphs: list[str] = []
    questions: list[tuple[str, int]] = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            questions += [(row["question"], len(paragraphs)) for row in paragraph["qas"]]
            paragraphs.append(paragraph["context"])
    if sample:
        questions = random.Random(seed).sample(questions, min(sample, len(questions)))
    bm25 = BM25(paragraphs)
    rankings = []
    for question, right in questions:
        scores = bm25.scores(question)
        others = [
            index for index in sorted(range(len(paragraphs)), key=lambda i: -scores[i]) if index != right
        ]
        chosen = [right, *others[:NUM_NEGATIVES]]
        rankings.append(Ranking(question, [paragraphs[i] for i in chosen], [scores[i] for i in chosen]))
    return rankings


def mean_reciprocal_rank(rankings: Sequence[Ranking], score: Callable[[Ranking], Sequence[float]]) -> float:
    """Return the mean of 1 / rank of the right paragraph."""
    total = 0.0
    for ranking in rankings:
        scores = score(ranking)
        total += 1.0 / sum(other >= scores[0] for other in scores)
    return total / len(rankings)


def overlap(ranking: Ranking) -> list[float]:
    """Return how many distinct words of the question each paragraph has; a shorter paragraph wins a tie."""
    asked = set(words(ranking.question))
    found = [(len(asked & set(words(text))), len(text)) for text in ranking.paragraphs]
    return [count - 1e-6 * length for count, length in found]


class Demo:
    """The official recipe on the checkpoint, in float32: logit(yes) - logit(no) at the last position."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._answers = [self._tokenizer.token_to_id(word) for word in ("yes", "no")]

    @torch.inference_mode()
    def __call__(self, ranking: Ranking) -> list[float]:
        """Return the log-odds of each paragraph."""
        body = f"{PREFIX}<Instruct>: {INSTRUCTION}\n<Query>: {ranking.question}\n<Document>: "
        rows = [self._tokenizer.encode(f"{body}{text}{SUFFIX}").ids for text in ranking.paragraphs]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        log_odds = [0.0] * len(rows)
        for start in range(0, len(rows), BATCH):  # paragraphs of about the same length together
            chosen = order[start : start + BATCH]
            for index, value in zip(chosen, self._log_odds([rows[index] for index in chosen]), strict=True):
                log_odds[index] = value
        return log_odds

    def _log_odds(self, rows: Sequence[list[int]]) -> list[float]:
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        logits = self._model(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits[:, -1]
        odds: list[float] = (logits[:, self._answers[0]] - logits[:, self._answers[1]]).tolist()
        return odds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--xquad", type=Path, required=True, metavar="DIR", help="folder with xquad.en.json and xquad.zh.json"
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=CHECKPOINT_DIR, metavar="DIR", help="default: the packaged one"
    )
    parser.add_argument("--sample", type=int, default=0, help="questions per language; 0 takes all 1,190")
    parser.add_argument("--seed", type=int, default=5, help="of the sample and of the random scores")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def main() -> None:
    """Measure and print."""
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    demo = Demo(arguments.checkpoint)
    chance = random.Random(arguments.seed)
    scorers: dict[str, Callable[[Ranking], Sequence[float]]] = {
        "demo": demo,
        "random": lambda ranking: [chance.random() for _ in ranking.paragraphs],
        "overlap": overlap,
        "bm25": lambda ranking: ranking.bm25,
    }
    console = Console()
    table = Table("MRR", *scorers, "questions")
    result: dict[str, dict[str, float]] = {}
    for language in ("en", "zh"):
        rankings = load_rankings(arguments.xquad / f"xquad.{language}.json", arguments.sample, arguments.seed)
        figures = {name: mean_reciprocal_rank(rankings, score) for name, score in scorers.items()}
        result[language] = {**figures, "questions": len(rankings)}
        table.add_row(language, *(f"{value:.3f}" for value in figures.values()), str(len(rankings)))
    console.print(table)
    console.print(
        json.dumps({"mrr": result, "negatives": NUM_NEGATIVES, "seed": arguments.seed}),
        soft_wrap=True,
        highlight=False,
    )


if __name__ == "__main__":
    main()
