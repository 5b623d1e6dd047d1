"""This project's core, and the matrix multiplications of its forward passes alone."""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor

from benchmarks.peers.multiplications import Batch, multiply
from benchmarks.peers.runner import Job, PairList, Scorer, main
from qwen_rerank_plugins import RerankConfig, Reranker
from qwen_rerank_plugins.core.checkpoints.weights import weight_bytes
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.core.model.decoder import Decoder, Plan
from qwen_rerank_plugins.core.runtime import acquire_runtime


class RecordingDecoder(Decoder):
    """A decoder that records tokens and prompts of each batch."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder.architecture, decoder.weights)
        self.batches: list[Batch] = []

    def forward(self, plan: Plan) -> tuple[Tensor, list[Tensor]]:
        """See `Decoder.forward`."""
        forest = plan.layout.forest
        self.batches.append(Batch(forest.num_tokens, len(set(forest.leaves))))
        return super().forward(plan)


class Ours(Scorer):
    """`Reranker.score_pairs` without the score cache."""

    def __init__(self, job: Job) -> None:
        config = RerankConfig(
            model=str(job.model),
            device="cpu",
            dtype=cast(Literal["auto", "float32", "bfloat16"], job.dtype),
            quantization=cast(Literal["none", "int8", "auto"], job.quantization),
            num_threads=job.num_threads,
            cache_entries=0,
        )
        runtime = acquire_runtime(config, shared=False)
        self.decoder = RecordingDecoder(runtime.engines[0].decoder)
        runtime.engines[0].decoder = self.decoder
        self.reranker = Reranker(config, scorer=LocalScorer(config, runtime))
        self.workloads = iter([task.workload for task in job.tasks])
        self.batches: dict[str, list[Batch]] = {}
        self.is_warm = False

    def score(self, pairs: PairList, batch_size: int) -> list[float]:
        """Return P(yes) of each pair; the core selects its own batch size."""
        del batch_size
        self.decoder.batches.clear()
        probabilities = self.reranker.score_pairs(pairs)
        if self.is_warm:
            self.batches[next(self.workloads)] = list(self.decoder.batches)
        self.is_warm = True
        return probabilities

    def details(self) -> dict[str, Any]:
        """Return the settings in use, and each workload's multiplications, timed now."""
        return {
            "dtype": str(self.decoder.dtype).removeprefix("torch."),
            "weight_mb": weight_bytes(self.decoder.weights) / 1e6,
            "multiplications": {
                name: multiply(self.decoder, batches) for name, batches in self.batches.items()
            },
        }


if __name__ == "__main__":
    main(Ours)
