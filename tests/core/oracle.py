"""The published recipes, in transformers and as their authors wrote them, as references for this project's scores.

Nothing is imported from the package under test, not even the prompts' strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

Pair = tuple[str, str]

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
EVAL_INSTRUCTION = "Given the user query, retrieval the relevant passages"

MXBAI_PREFIX = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n"
)
MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each "
    "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
    "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)
ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"


def body(query: str, document: str, instruction: str = INSTRUCTION) -> str:
    """What the model card calls the input text."""
    return f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"


def qwen3_text(query: str, document: str, instruction: str = INSTRUCTION) -> str:
    """The whole prompt of the model card as one string."""
    return PREFIX + body(query, document, instruction) + SUFFIX


def eval_text(query: str, document: str, instruction: str = EVAL_INSTRUCTION) -> str:
    """The whole prompt of the evaluation code, before its suffix: a chat that is already closed."""
    return f"{PREFIX}<Instruct>: {instruction}\n\n<Query>: {query}\n\n<Document>: {document}<|im_end|>\n"


def zerank_text(query: str, document: str) -> str:
    """The whole prompt of zerank's modelling code."""
    return f"<|im_start|>system\n{query.strip()}<|im_end|>\n<|im_start|>user\n{document.strip()}{ASSISTANT}"


class Recipes:
    """The authors' conversions of texts to token ids.

    Args:
        tokenizer: A tokenizer of transformers, in which control tokens are real.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        """Ids of a text, control tokens being real."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def qwen3(self, pair: Pair, instruction: str = INSTRUCTION, max_length: int = 8192) -> list[int]:
        """README of QwenLM/Qwen3-Embedding: the joined body is truncated between a fixed prefix and suffix."""
        prefix, suffix = self.ids(PREFIX), self.ids(SUFFIX)
        room = max_length - len(prefix) - len(suffix)
        cut = self.tokenizer(body(*pair, instruction), truncation="longest_first", max_length=room)
        return [*prefix, *cut["input_ids"], *suffix]

    def qwen3_eval(
        self, pair: Pair, instruction: str = EVAL_INSTRUCTION, max_length: int = 8192
    ) -> list[int]:
        """evaluation/qwen3_reranker_model.py: the closed chat is cut, and the suffix put behind it."""
        suffix = self.ids(SUFFIX)
        return [*self.ids(eval_text(*pair, instruction))[: max_length - len(suffix)], *suffix]

    def zerank(self, pair: Pair) -> list[int]:
        """modeling_zeranker.py of zeroentropy/zerank-1-small."""
        return self.ids(zerank_text(*pair))

    def mxbai(self, pair: Pair, instruction: str | None = None) -> list[int]:
        """mxbai_rerank_v2.py: pieces are tokenised one by one."""
        query, document = pair
        head = f"instruction: {instruction}\nquery: {query}" if instruction else f"query: {query}"
        pieces = [MXBAI_PREFIX, head, "\n", f"document: {document}", "\n", MXBAI_TASK, ASSISTANT]
        return [number for piece in pieces for number in self.ids(piece)]


class OfficialModel:
    """A checkpoint in transformers: eager attention, left padding, logits of the last token.

    Args:
        folder: The checkpoint.
        has_classifier: It is a sequence-classification conversion.
        dtype: Of the computation.
        device: Of the computation.
    """

    def __init__(
        self,
        folder: Path,
        *,
        has_classifier: bool = False,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        import transformers

        kind: Any = (
            transformers.AutoModelForSequenceClassification
            if has_classifier
            else transformers.AutoModelForCausalLM
        )
        self._has_classifier = has_classifier
        self._model = kind.from_pretrained(folder, dtype=dtype, local_files_only=True).eval().to(device)

    @torch.no_grad()
    def log_odds(
        self, prompts: Sequence[Sequence[int]], answers: tuple[int, int | None], batch_size: int = 4
    ) -> list[float]:
        """Log-odds of prompts: the difference of the answers' logits, or the classifier's one label."""
        found: list[float] = []
        for first in range(0, len(prompts), batch_size):
            found += self._batch(prompts[first : first + batch_size], answers)
        return found

    def _batch(self, prompts: Sequence[Sequence[int]], answers: tuple[int, int | None]) -> list[float]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        # The recipe takes the last position of all logits; the others need not be computed for that.
        options = {} if self._has_classifier else {"logits_to_keep": 1}
        out = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **options
        )
        if self._has_classifier:
            scores: list[float] = out.logits[:, 0].float().tolist()
            return scores
        logits = out.logits[:, -1].float()
        true_id, false_id = answers
        if false_id is not None:
            logits = logits - logits[:, false_id : false_id + 1]
        log_odds: list[float] = logits[:, true_id].tolist()
        return log_odds
