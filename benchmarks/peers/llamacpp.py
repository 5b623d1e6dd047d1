"""Probabilities of llama.cpp's own rerank route, in an environment with the package xllamacpp.

Reads {"model": FILE, "lists": [[query, [document, ...]], ...]} from standard input and writes lists of probabilities to the file
that its argument names. llama.cpp logs to standard output.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

MAX_TOKENS = 4096
"""A pair must fit into one physical batch."""


def make_server(model: str) -> Any:
    """Return a server of one slot, which computes every document alone."""
    import xllamacpp  # type: ignore[import-not-found,unused-ignore]

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    params.n_ctx = params.n_batch = params.n_ubatch = MAX_TOKENS
    params.n_parallel = 1
    params.cpuparams.n_threads = os.cpu_count() or 1
    params.warmup = False
    # Its keys and values would be in half precision.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(params)


def main() -> None:
    """Score the lists."""
    job = json.load(sys.stdin)
    server = make_server(job["model"])
    found: list[list[float]] = []
    for query, documents in job["lists"]:
        results = server.handle_rerank({"query": query, "documents": documents})["results"]
        by_index = {result["index"]: result["relevance_score"] for result in results}
        found.append([by_index[index] for index in range(len(documents))])
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
