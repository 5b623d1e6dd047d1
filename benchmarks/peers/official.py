"""The official recipe: transformers as in the model card, left padding, the logits of every position.

In the mode "reference" it is the reference: float32, one pair at a time without padding, the last position
alone.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers.runner import PREFIX, SUFFIX, Job, PairList, Scorer, body, main

MAX_LENGTH = 8192


class Official(Scorer):
    """The model card's functions, batched."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.num_threads)
        self.is_reference = job.mode == "reference"
        self.tokenizer: Any = AutoTokenizer.from_pretrained(job.model, padding_side="left")
        dtype = torch.float32 if self.is_reference else getattr(torch, job.dtype)
        self.model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype).eval()
        self.yes = self.tokenizer.convert_tokens_to_ids("yes")
        self.no = self.tokenizer.convert_tokens_to_ids("no")
        self.prefix = self.tokenizer.encode(PREFIX, add_special_tokens=False)
        self.suffix = self.tokenizer.encode(SUFFIX, add_special_tokens=False)

    def score(self, pairs: PairList, batch_size: int) -> list[float]:
        """Return P(yes) of each pair."""
        size = 1 if self.is_reference else batch_size
        batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        return [probability for batch in batches for probability in self._logits(self._inputs(batch))]

    def _inputs(self, pairs: PairList) -> dict[str, Any]:
        texts = [body(query, document) for query, document in pairs]
        room = MAX_LENGTH - len(self.prefix) - len(self.suffix)
        inputs = self.tokenizer(
            texts, padding=False, truncation="longest_first", return_attention_mask=False, max_length=room
        )
        ids = [self.prefix + row + self.suffix for row in inputs["input_ids"]]
        padded: dict[str, Any] = self.tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt")
        return padded

    @torch.no_grad()
    def _logits(self, inputs: dict[str, Any]) -> list[float]:
        more = {"logits_to_keep": 1} if self.is_reference else {}
        scores = self.model(**inputs, **more).logits[:, -1, :]
        both = torch.stack([scores[:, self.no], scores[:, self.yes]], dim=1)
        probabilities: list[float] = torch.nn.functional.log_softmax(both, dim=1)[:, 1].exp().tolist()
        return probabilities


if __name__ == "__main__":
    main(Official)
