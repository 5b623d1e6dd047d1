"""sentence-transformers' CrossEncoder, which runs causal rerankers itself.

It has no template for a checkpoint without a chat template, so the pairs contain the literal one in their two
halves. They meet before a space that starts a word, where the tokenizer splits anyway.
"""

from __future__ import annotations

import torch
from sentence_transformers import CrossEncoder

from benchmarks.peers.runner import PREFIX, SUFFIX, Job, PairList, Scorer, body, main


class SentenceTransformers(Scorer):
    """A CrossEncoder with its defaults, except dtype and batch size."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.num_threads)
        self.model = CrossEncoder(
            str(job.model),
            device="cpu",
            model_kwargs={"dtype": getattr(torch, job.dtype)},
            processor_kwargs={"padding_side": "left"},
        )

    def score(self, pairs: PairList, batch_size: int) -> list[float]:
        """Return P(yes) of each pair."""
        halves = [(PREFIX + body(query, "").rstrip(" "), f" {document}{SUFFIX}") for query, document in pairs]
        scores = self.model.predict(halves, batch_size=batch_size, show_progress_bar=False)
        return [float(score) for score in scores]


if __name__ == "__main__":
    main(SentenceTransformers)
